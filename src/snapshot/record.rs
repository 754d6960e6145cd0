//! Copies of the records of versions, beside their content: from them and from what they name the
//! catalogue could be rebuilt.
//!
//! `versions/<resource>/<number>` is JSON: `resource` and `version` as the catalogue has them, with
//! the names of the project that owns it. The catalogue decides what is there; a copy that is
//! missing or old harms nobody, and collecting puts it right.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::catalog::{Catalog, Id, Resource, Version};
use crate::error::{ErrorKind, Result};
use crate::object::{Depth, ObjectStore, PutMode};

/// What the keys of records begin with.
const PREFIX: &str = "versions/";

/// How many records are read or written at the same time, for stores with latency.
const AT_ONCE: usize = 16;

/// Leaves a copy of a version's record.
///
/// # Errors
/// Those of the store.
pub async fn keep(store: &dyn ObjectStore, resource: &Resource, version: &Version) -> Result<()> {
    let key = key(&resource.id, version.number);
    store.put(&key, bytes(resource, version), PutMode::Overwrite).await.map(|_| ())
}

/// Removes the copy of a version's record.
///
/// # Errors
/// Those of the store.
pub async fn remove(store: &dyn ObjectStore, resource: &Id, number: u32) -> Result<()> {
    store.delete(&key(resource, number)).await
}

/// Makes the copies those of the records that the catalogue has.
///
/// # Errors
/// Those of the catalogue and the store.
pub(super) async fn settle(catalog: &Catalog, store: &dyn ObjectStore) -> Result<()> {
    let pages: Vec<_> = store.list(PREFIX, Depth::All).try_collect().await?;
    let objects = pages.into_iter().flat_map(|page| page.objects);
    let mut gone: BTreeSet<_> = objects.map(|object| object.key).collect();
    // Asked for afterwards: a copy comes after its version.
    let records = catalog.records().await?;
    for (resource, version) in &records {
        gone.remove(&key(&resource.id, version.number));
    }
    let corrections = records.iter().map(|(resource, version)| correct(store, resource, version));
    stream::iter(corrections).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let removals = gone.iter().map(|key| store.delete(key));
    stream::iter(removals).buffer_unordered(AT_ONCE).try_collect().await
}

async fn correct(store: &dyn ObjectStore, resource: &Resource, version: &Version) -> Result<()> {
    let found = store.get(&key(&resource.id, version.number), 0..u64::MAX, None).await;
    match found {
        Ok(found) if found == bytes(resource, version) => Ok(()),
        Ok(_) => keep(store, resource, version).await,
        Err(error) if error.kind() == ErrorKind::NotFound => keep(store, resource, version).await,
        Err(error) => Err(error),
    }
}

fn key(resource: &Id, number: u32) -> String {
    format!("{PREFIX}{resource}/{number}")
}

fn bytes(resource: &Resource, version: &Version) -> Bytes {
    let record = serde_json::json!({ "resource": resource, "version": version });
    record.to_string().into()
}
