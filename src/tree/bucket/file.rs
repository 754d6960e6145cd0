//! An open object: one version, read through the block cache.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;

use super::Shared;
use super::ahead::Readers;
use super::siblings::SMALL;
use crate::cache::{LONGEST_RUN, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, File, PageCache};

/// The version of an object that is open at a path.
#[derive(Debug)]
pub(super) struct Pinned {
    /// Where it is read from.
    pub(super) source: Arc<Source>,
    /// Set when a newer version was opened at the same path: the kernel has one set of pages for
    /// both, so that reading on would mix them.
    pub(super) replaced: AtomicBool,
}

/// An open object.
pub(super) struct BucketFile {
    pub(super) shared: Arc<Shared>,
    pub(super) path: TreePath,
    pub(super) attr: Attr,
    pub(super) pinned: Arc<Pinned>,
    /// Guards what is known of the readers; held for a few comparisons.
    pub(super) readers: Mutex<Readers>,
}

#[async_trait]
impl File for BucketFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.saturating_add(len as u64).min(self.attr.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        if self.pinned.replaced.load(Ordering::Relaxed) {
            return Err(self.changed());
        }
        let start = Instant::now();
        let read = self.read(offset..end).await;
        let metrics = self.shared.cache.metrics();
        metrics.reads.add(1);
        metrics.read_time.note(start.elapsed());
        match read {
            Ok(bytes) => {
                metrics.bytes_read.add(bytes.len() as u64);
                Ok(bytes)
            }
            // An object that was removed is as far away as one that was replaced.
            Err(error) if matches!(error.kind(), ErrorKind::StaleHandle | ErrorKind::NotFound) => {
                self.shared.known.forget(&self.path);
                Err(self.changed().with_source(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(self.attr.clone())
    }

    fn page_cache(&self) -> PageCache {
        PageCache::Keep
    }
}

impl BucketFile {
    async fn read(&self, bytes: Range<u64>) -> Result<Bytes> {
        let (cache, source) = (&self.shared.cache, &self.pinned.source);
        let found = cache.find(&source.version, &bytes);
        let ahead = self.note(bytes.clone());
        if let Some(found) = found {
            cache.prefetch(source, ahead, LONGEST_RUN);
            return Ok(found);
        }
        // What is read and what follows are asked for at once, so that they share a request.
        let wanted = cache.request(source, bytes, ahead, LONGEST_RUN);
        if !wanted.is_there() {
            cache.metrics().stalls.add(1);
            if source.version.size <= SMALL && wanted.is_new() {
                self.shared.siblings.note_wait();
            }
        }
        wanted.bytes().await
    }

    /// What to read ahead, which is nothing when the cache has no room for it.
    fn note(&self, read: Range<u64>) -> Range<u64> {
        let end = read.end;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = readers.note(read, self.attr.size);
        if self.shared.cache.room_ahead() > 0 { ahead } else { end..end }
    }

    fn changed(&self) -> Error {
        let message = format!("{} was replaced or removed since it was opened", self.path);
        Error::new(ErrorKind::StaleHandle, message).with_hint("open it again")
    }
}
