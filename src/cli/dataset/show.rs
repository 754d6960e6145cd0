//! `atelier dataset show` and `log`: what is known of versions.

use indicatif::HumanBytes;
use serde::Serialize;

use super::find::At;
use super::init_code::InitCode;
use super::{Described, yes_or_no};
use crate::catalog::{Needed, ProjectName, Tag};
use crate::cli::table;
use crate::error::Result;

/// A version among the others of its dataset.
#[derive(Debug, Serialize)]
struct Logged {
    #[serde(flatten)]
    version: Described,
    tags: Vec<String>,
}

impl table::Row for Logged {
    const HEADER: &'static [&'static str] =
        &["NAME", "VERSION", "TAGS", "FILES", "SIZE", "STORED", "ACTIVE", "CREATOR", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let Described { name, version, files, active, creator, created, .. } = &self.version;
        vec![
            name.clone(),
            version.to_string(),
            listed(&self.tags),
            files.to_string(),
            HumanBytes(self.version.bytes).to_string(),
            self.version.stored(),
            yes_or_no(*active),
            creator.clone(),
            table::time(*created),
        ]
    }
}

/// A version with all that is known of it.
#[derive(Debug, Serialize)]
struct Detailed {
    #[serde(flatten)]
    version: Described,
    tags: Vec<String>,
    /// What the version needs of the store, in bytes.
    needed_bytes: u64,
    /// What no other version needs of that, in bytes.
    unique_bytes: u64,
    dedup: Dedup,
    /// The communities that offer the dataset.
    published: Vec<String>,
    /// The other projects that have added it.
    added_to: Vec<ProjectName>,
    /// What made it, if a command did.
    init: Option<InitCode>,
}

/// How often the store's bytes are used by the versions of a dataset.
#[derive(Debug, Serialize)]
struct Dedup {
    versions: usize,
    /// The files of all versions, in bytes.
    bytes: u64,
    /// What all versions together need of the store, in bytes.
    stored_bytes: u64,
    /// How many times the first is the second.
    ratio: f64,
}

impl Dedup {
    fn new(versions: usize, needed: &Needed) -> Self {
        let (bytes, stored_bytes) = (needed.logical, needed.dataset);
        #[allow(clippy::cast_precision_loss)] // It is shown with two digits.
        let ratio = bytes as f64 / stored_bytes.max(1) as f64;
        Self { versions, bytes, stored_bytes, ratio: (ratio * 100.0).round() / 100.0 }
    }
}

impl table::Row for Detailed {
    const HEADER: &'static [&'static str] = &[
        "NAME",
        "VERSION",
        "TAGS",
        "FILES",
        "SIZE",
        "STORED",
        "NEEDED",
        "UNIQUE",
        "DEDUP",
        "ACTIVE",
        "PUBLISHED IN",
        "ADDED TO",
        "CREATOR",
        "CREATED",
        "DESCRIPTION",
        "INIT CODE",
        "ROOT",
    ];

    fn cells(&self) -> Vec<String> {
        let Described { name, version, files, bytes, active, creator, created, .. } = &self.version;
        let Dedup { versions, bytes: logical, stored_bytes, ratio } = &self.dedup;
        let projects: Vec<_> = self.added_to.iter().map(ToString::to_string).collect();
        vec![
            name.clone(),
            version.to_string(),
            listed(&self.tags),
            files.to_string(),
            HumanBytes(*bytes).to_string(),
            self.version.stored(),
            HumanBytes(self.needed_bytes).to_string(),
            HumanBytes(self.unique_bytes).to_string(),
            format!(
                "{ratio} times: {} of {versions} version(s) in {} of the store",
                HumanBytes(*logical),
                HumanBytes(*stored_bytes)
            ),
            yes_or_no(*active),
            listed(&self.published),
            listed(&projects),
            creator.clone(),
            table::time(*created),
            self.version.description.clone(),
            self.init.as_ref().map_or_else(|| "-".to_owned(), InitCode::command_line),
            self.version.root.clone(),
        ]
    }
}

impl At<'_> {
    pub(super) async fn show(&self, text: &str, json: bool) -> Result<()> {
        let (shown, version) = self.version(text).await?;
        let id = &shown.resource.id;
        let needed = self.catalog.needed(&version).await?;
        let tags = self.catalog.tags(id).await?;
        let uses = self.catalog.uses(&shown.resource).await?;
        let detailed = Detailed {
            tags: of_version(&tags, version.number),
            needed_bytes: needed.all,
            unique_bytes: needed.unique,
            dedup: Dedup::new(self.catalog.versions(id).await?.len(), &needed),
            published: uses.published,
            added_to: uses.added,
            init: InitCode::of(&shown.resource)?,
            version: Described::new(&shown.resource, version),
        };
        table::show(&detailed, json)?;
        match detailed.init.and_then(|init| init.script) {
            Some(script) if !json => {
                table::print(format!("\n{}:\n{}\n", script.path, script.text.trim_end()).as_bytes())
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn log(&self, name: &str, json: bool) -> Result<()> {
        let resource = self.dataset(name).await?.resource;
        let tags = self.catalog.tags(&resource.id).await?;
        let versions = self.catalog.versions(&resource.id).await?.into_iter().rev();
        let logged = versions.map(|version| Logged {
            tags: of_version(&tags, version.number),
            version: Described::new(&resource, version),
        });
        table::list(&logged.collect::<Vec<_>>(), json)
    }
}

fn of_version(tags: &[Tag], number: u32) -> Vec<String> {
    tags.iter().filter(|tag| tag.version == number).map(|tag| tag.name.clone()).collect()
}

/// Words in a cell.
fn listed(words: &[String]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}
