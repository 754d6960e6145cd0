//! Stores the root of a version under a name that can be used.

use crate::chunk::{Area, Id, Packs};
use crate::error::{Error, ErrorKind, Result};

use super::format::Root;

/// Stores a root; returns its id and how many bytes it takes.
///
/// # Errors
/// Those of the store and the catalogue.
pub(super) async fn store_root(packs: &Packs, mut root: Root) -> Result<(Id, u64)> {
    let encoded = root.encode();
    let (id, len) = (Id::of(&encoded), encoded.len() as u64);
    if packs.put(Area::Meta, &id, encoded).await? {
        return Ok((id, len));
    }
    // A version with this root was collected.
    let mut salt = vec![0; 16];
    getrandom::fill(&mut salt).map_err(|error| {
        Error::new(ErrorKind::Io, "the system has no random numbers").with_source(error)
    })?;
    root.salt = salt.into();
    let encoded = root.encode();
    let (id, len) = (Id::of(&encoded), encoded.len() as u64);
    if packs.put(Area::Meta, &id, encoded).await? {
        return Ok((id, len));
    }
    Err(Error::new(ErrorKind::Io, format!("no name is left for root {id}")))
}
