//! Reads whole packs and checks every byte of them.

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{Area, Footer, Id, Packs, damaged, decode, slice};
use crate::error::{Error, ErrorKind, Result};
use crate::object::buffers::Buffers;

impl Packs {
    /// Reads a whole pack and checks every byte of it.
    ///
    /// # Errors
    /// `Damaged` when the pack is missing or anything in it isn't what it was.
    pub async fn whole(&self, area: Area, pack: &Id) -> Result<(Footer, Bytes)> {
        let (footer, bytes) = self.scrub(area, pack).await?;
        let footer = footer.ok_or_else(|| damaged(&area.key(pack), "it isn't a pack"))?;
        Ok((footer, bytes))
    }

    /// Reads a whole object and checks every byte of it; a pack comes with its footer.
    ///
    /// # Errors
    /// Those of [`whole`](Self::whole).
    pub async fn scrub(&self, area: Area, id: &Id) -> Result<(Option<Footer>, Bytes)> {
        let (key, id) = (area.key(id), *id);
        let bytes = match self.0.store.get(&key, 0..u64::MAX, None).await {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.missing(area, &id, error).await),
        };
        let checked = spawn_blocking(move || {
            if Id::of(&bytes) != id {
                return Err(damaged(&key, "its hash is another one"));
            }
            let footer = Footer::ends(&bytes).then(|| check(&key, &bytes)).transpose()?;
            Ok((footer, bytes))
        });
        let stopped = |error| Error::new(ErrorKind::Io, "a check stopped").with_source(error);
        checked.await.map_err(stopped)?
    }
}

/// Checks the frames of a pack.
fn check(key: &str, bytes: &Bytes) -> Result<Footer> {
    let footer = Footer::parse(bytes, bytes.len() as u64).map_err(|flaw| flaw.error(key))?;
    let buffers = Buffers::default();
    for frame in footer.frames() {
        let stored = slice(bytes, &frame.place.range());
        let stored = stored.ok_or_else(|| damaged(key, "a frame lies outside"))?;
        decode(&buffers, key, &frame.place, &frame.id, stored)?;
    }
    Ok(footer)
}
