//! Checks a whole store: every object against its name, every version against its root.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::TryStreamExt as _;

use super::read::Version;
use super::verify::{Checking, Checks, Damaged, distrust};
use crate::catalog::Catalog;
use crate::catalog::collect::Rooted;
use crate::chunk::{Area, Id, Packs};
use crate::error::{Error, ErrorKind, Result};
use crate::object::Depth;
use crate::path::TreePath;

/// What became of a store.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// How many objects were read.
    pub objects: u64,
    /// How many of them the catalogue doesn't know.
    pub unknown: u64,
    /// What isn't what it was, or is missing.
    pub damaged: Vec<Damaged>,
    /// How many versions were checked.
    pub versions: u64,
    /// The versions that can't be read in full, with the files that can't.
    pub affected: Vec<(Rooted, Vec<TreePath>)>,
}

impl Scrubbed {
    /// Whether everything is what it was.
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty() && self.affected.is_empty()
    }
}

/// Reads all that is in the store and checks it. Nothing new will be built on what is damaged, so
/// that datasets can be mended by making them again; what is whole again, by whatever means, may be
/// built upon.
///
/// # Errors
/// When the store or the catalogue can't be read; damage is no error but part of the answer.
pub async fn scrub(catalog: &Catalog, packs: &Packs, progress: Arc<Checking>) -> Result<Scrubbed> {
    let known = states(catalog).await?;
    let mut scrubbed = Scrubbed::default();
    let mut objects = BTreeMap::new();
    for area in [Area::Data, Area::Meta] {
        let pages: Vec<_> = packs.store().list(area.prefix(), Depth::All).try_collect().await?;
        for object in pages.into_iter().flat_map(|page| page.objects) {
            let id = object.key.rsplit('/').next().and_then(|name| name.parse::<Id>().ok());
            let id = id.filter(|id| area.key(id) == object.key);
            scrubbed.unknown += u64::from(!id.is_some_and(|id| known.contains_key(&id)));
            scrubbed.objects += 1;
            objects.extend(id.map(|id| (id, area)));
        }
    }
    // What should be there and isn't is found when it is read.
    for (id, (area, state)) in &known {
        if state == "live" {
            objects.insert(*id, *area);
        }
    }
    let mut checks = Checks::new(packs, progress);
    checks.read(objects.into_iter().map(|(id, area)| (area, id))).await?;

    let mut by_root = BTreeMap::<String, Vec<Rooted>>::new();
    for version in catalog.all_versions().await? {
        by_root.entry(version.root.clone()).or_default().push(version);
    }
    let mut affected = Vec::new();
    for (root, versions) in by_root {
        scrubbed.versions += versions.len() as u64;
        let files = match Version::open(packs.clone(), root.parse()?).await {
            Ok(version) => checks.version(&version).await?.1,
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => {
                vec![TreePath::root()]
            }
            Err(error) => return Err(error),
        };
        if !files.is_empty() {
            affected.extend(versions.into_iter().map(|version| (version, files.clone())));
        }
    }

    // What was collected or deleted meanwhile isn't damaged.
    let now = states(catalog).await?;
    let mut whole_again = Vec::new();
    for object in catalog.distrusted().await? {
        let id = object.parse()?;
        if now.get(&id).is_some_and(|(area, _)| checks.is_whole(*area, &id)) {
            whole_again.push(id);
        }
    }
    scrubbed.damaged = checks.damaged;
    scrubbed.damaged.retain(|damaged| match now.get(&damaged.id) {
        Some((_, state)) => matches!(state.as_str(), "live" | "uploading" | "condemned"),
        None => true,
    });
    let left = catalog.all_versions().await?;
    affected.retain(|(version, _)| left.contains(version));
    scrubbed.affected = affected;
    distrust(catalog, &scrubbed.damaged).await?;
    for object in whole_again {
        catalog.trust(&object.to_string()).await?;
    }
    Ok(scrubbed)
}

/// The objects that the catalogue knows, with their areas and states.
async fn states(catalog: &Catalog) -> Result<HashMap<Id, (Area, String)>> {
    let mut states = HashMap::new();
    for (object, state) in catalog.all_objects().await? {
        let area = [Area::Data, Area::Meta].into_iter().find(|area| area.name() == object.area);
        let area = area.ok_or_else(|| {
            let message = format!("object {} is in an area that is unknown here", object.id);
            Error::new(ErrorKind::Unsupported, message)
        })?;
        states.insert(object.id.parse()?, (area, state));
    }
    Ok(states)
}
