//! Removes what no version needs from the store, beside those who read and write.
//!
//! What the catalogue says nobody needs is condemned; what was condemned for a while, and what
//! nobody who began before can have found, is removed. Packs that are mostly dead are written
//! anew: versions that use the rest of them get other roots, which hold the same.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::compact::{self, Compacted};
use super::{record, survey};
use crate::catalog::collect::{Amount, Outlook};
use crate::catalog::{Catalog, StoredObject};
use crate::chunk::{Area, Id, Packs};
use crate::error::{Error, ErrorKind, Result};

/// How many objects are removed at the same time, for stores with latency.
const AT_ONCE: usize = 16;

/// How a store is collected.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long what was condemned stays.
    pub grace: Duration,
    /// How long the lease of a writer lasts.
    pub lease: Duration,
    /// Packs of whose bytes less than so many hundredths are used are written anew; 0 for none.
    pub compact_below: u8,
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Collected {
    /// What is written anew, to leave out what is dead.
    pub compacted: Compacted,
    /// What was removed, or would be now.
    pub freed: Amount,
    /// What nobody needs and stays for a while.
    pub waiting: Amount,
    /// What stays.
    pub kept: Amount,
}

/// Tells what [`collect`] would do now.
///
/// # Errors
/// Those of the catalogue and the store.
pub async fn preview(catalog: &Catalog, packs: &Packs, plan: &Plan) -> Result<Collected> {
    let found = compact::find(catalog, packs, plan).await?;
    let Outlook { kept, condemned, removable } = catalog.outlook(plan.grace).await?;
    Ok(Collected {
        compacted: found.compacted(),
        freed: removable,
        waiting: without(condemned, removable),
        kept,
    })
}

/// Collects.
///
/// # Errors
/// `Damaged` when a version can't be read, since it isn't known what it needs; those of the
/// catalogue and the store. What was done until then stays done.
pub async fn collect(catalog: &Catalog, packs: &Packs, plan: &Plan) -> Result<Collected> {
    adopt(catalog, packs).await?;
    let compacted = compact::compact(catalog, packs, plan).await?;
    catalog.condemn().await?;
    let mut freed = Amount::default();
    loop {
        let doomed = catalog.take_removable(plan.grace).await?;
        if doomed.is_empty() {
            break;
        }
        let removals = doomed.iter().map(|object| remove(packs, object));
        stream::iter(removals).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        catalog.removed(&doomed).await?;
        freed.add(doomed.len() as u64, doomed.iter().map(|object| object.bytes).sum());
    }
    sweep(catalog, packs).await?;
    record::settle(catalog, &**packs.store()).await?;
    let Outlook { kept, condemned, .. } = catalog.outlook(plan.grace).await?;
    Ok(Collected { compacted, freed, waiting: condemned, kept })
}

/// Finds out what versions need of which it isn't known.
async fn adopt(catalog: &Catalog, packs: &Packs) -> Result<()> {
    for root in catalog.unknown_roots().await? {
        let needs = survey::needs(packs, root.parse()?).await.map_err(|error| {
            let message = format!("the version with root {root} can't be read");
            Error::new(ErrorKind::Damaged, message)
                .with_source(error)
                .with_hint("nothing is collected before it is deleted: `atelier store verify`")
        })?;
        let mut objects = Vec::new();
        for (id, area) in needs {
            let bytes = packs.store().head(&area.key(&id)).await?.size;
            objects.push(StoredObject { id: id.to_string(), area: area.name().to_owned(), bytes });
        }
        catalog.adopt(&root, &objects).await?;
    }
    Ok(())
}

async fn remove(packs: &Packs, object: &StoredObject) -> Result<()> {
    let id: Id = object.id.parse()?;
    let area = [Area::Data, Area::Meta].into_iter().find(|area| area.name() == object.area);
    let area = area.ok_or_else(|| {
        let message = format!("object {id} is in an area that this program doesn't know");
        Error::new(ErrorKind::Unsupported, message)
    })?;
    packs.store().delete(&area.key(&id)).await
}

/// Removes what came after it was collected: a writer that is stopped stores what he announced when
/// he goes on, and a request that was given up may still be on its way.
async fn sweep(catalog: &Catalog, packs: &Packs) -> Result<()> {
    let mut stored = Vec::new();
    for area in [Area::Data, Area::Meta] {
        let objects = packs.stored(area).await?;
        stored.extend(objects.into_iter().map(|(id, _)| (id.to_string(), area.key(&id))));
    }
    let gone = catalog.all_objects().await?.into_iter().filter(|(_, state)| state == "deleted");
    let gone: HashSet<_> = gone.map(|(object, _)| object.id).collect();
    let left = stored.iter().filter(|(id, _)| gone.contains(id));
    let removals = left.map(|(_, key)| packs.store().delete(key));
    stream::iter(removals).buffer_unordered(AT_ONCE).try_collect().await
}

fn without(all: Amount, some: Amount) -> Amount {
    Amount { objects: all.objects - some.objects, bytes: all.bytes - some.bytes }
}
