//! The cache below memory: what is on disk is read from there and takes no memory.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{DiskCache, Offered};
use super::piece::Piece;
use super::{BlockCache, LONGEST_RUN, ObjectVersion, Shared, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::object::Brought;

impl BlockCache {
    /// A file of all bytes of a version and of nothing else, if there is one that is known to be
    /// right.
    pub fn complete(&self, version: &Arc<ObjectVersion>) -> Option<Arc<File>> {
        self.shared.disk.as_ref()?.complete(version)
    }

    /// Whether `bytes` of a version are on disk.
    pub fn is_below(&self, version: &Arc<ObjectVersion>, bytes: Range<u64>) -> bool {
        self.shared.disk.as_ref().is_some_and(|disk| disk.missing(version, bytes).is_empty())
    }

    /// How many bytes can be on disk at once; `None` where none are kept there.
    pub fn room_below(&self) -> Option<u64> {
        self.shared.disk.as_ref().map(DiskCache::room)
    }

    /// Fetches what the disk doesn't have of `bytes`, and waits until it does.
    ///
    /// # Errors
    /// `StorageFull` when it doesn't then; those of the fetch.
    pub async fn bring_below(&self, source: &Arc<Source>, bytes: Range<u64>) -> Result<Brought> {
        let version = &source.version;
        let bytes = bytes.start..bytes.end.min(version.size);
        let missing = self.shared.missing_below(version, std::slice::from_ref(&bytes));
        let missing = missing.into_iter().find(|missing| !missing.is_empty());
        let Some(missing) = missing else {
            return Ok(Brought { there: bytes.end.saturating_sub(bytes.start), brought: 0 });
        };
        let brought = missing.end - missing.start;
        self.request(source, missing.clone(), &[], LONGEST_RUN).bytes().await?;
        self.leave(version, &missing);
        let shared = self.shared.clone();
        let settled = tokio::task::spawn_blocking(move || {
            if let Some(disk) = &shared.disk {
                disk.drain();
            }
        });
        settled.await.map_err(|error| {
            Error::new(ErrorKind::Io, "the disk cache stopped").with_source(error)
        })?;
        if !self.is_below(version, missing) {
            let message = "the disk cache has no room for what was fetched";
            return Err(Error::new(ErrorKind::StorageFull, message)
                .with_hint("`atelier cache status` tells how much it may have; see --cache-size"));
        }
        Ok(Brought { there: bytes.end - bytes.start - brought, brought })
    }

    /// Waits until what was fetched is on disk, as far as it is kept.
    pub fn settle(&self) {
        if let Some(disk) = &self.shared.disk {
            disk.drain();
        }
    }
}

impl Shared {
    /// The bytes of a version, if all of them are on disk. They aren't kept in memory: the kernel
    /// does that.
    pub(super) fn find_below(
        &self,
        version: &Arc<ObjectVersion>,
        bytes: &Range<u64>,
    ) -> Option<Bytes> {
        let mut runs = self.disk.as_ref()?.read(version, bytes.clone());
        let (start, run) = runs.pop()?;
        if !runs.is_empty() || start != bytes.start || run.len() as u64 != bytes.end - start {
            return None;
        }
        self.metrics.disk_hits.add(self.blocks(bytes));
        Some(run)
    }

    /// What is to be fetched ahead: of each range nothing that the disk has at either end.
    pub(super) fn missing_below(
        &self,
        version: &Arc<ObjectVersion>,
        ahead: &[Range<u64>],
    ) -> Vec<Range<u64>> {
        let Some(disk) = &self.disk else { return ahead.to_vec() };
        let missing = |range: &Range<u64>| {
            if range.is_empty() {
                return range.clone();
            }
            let missing = disk.missing(version, range.clone());
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                return range.start.max(first.start)..range.end.min(last.end);
            }
            disk.read_ahead(version, range.clone());
            range.end..range.end
        };
        ahead.iter().map(missing).collect()
    }

    /// Leaves on disk what was fetched.
    pub(super) fn keep_below(
        &self,
        version: &Arc<ObjectVersion>,
        offset: u64,
        bytes: &Bytes,
    ) -> Offered {
        let offer = |disk: &DiskCache| disk.offer(version, offset, bytes.clone());
        self.disk.as_ref().map_or(Offered::Refused, offer)
    }

    /// Leaves on disk what a piece holds if it is still in memory when there is time for it.
    pub(super) fn keep_below_later(&self, version: &Arc<ObjectVersion>, piece: &Arc<Piece>) {
        if let Some(disk) = &self.disk {
            let (bytes, piece) = (piece.bytes.clone(), Arc::downgrade(piece));
            disk.offer_later(version, bytes.start, move || piece.upgrade()?.slice(&bytes));
        }
    }
}
