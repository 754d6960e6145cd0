//! An open object: one version, read through the block cache.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::Shared;
use super::ahead::Readers;
use crate::cache::{Block, ObjectVersion};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, File, PageCache};

/// The longest run of missing blocks that one request fetches: shorter ones cost a slow line
/// round trips, longer ones keep the first reader waiting.
const LONGEST_RUN: u64 = 8 << 20;

/// The version of an object that is open at a path.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) version: Arc<ObjectVersion>,
    /// Set when a newer version was opened at the same path: the kernel has one set of pages for
    /// both, so that reading on would mix them.
    pub(super) replaced: AtomicBool,
}

/// An open object.
pub(super) struct BucketFile {
    pub(super) shared: Arc<Shared>,
    pub(super) path: TreePath,
    pub(super) key: Arc<str>,
    pub(super) attr: Attr,
    pub(super) pinned: Arc<Pinned>,
    /// Guards what is known of the readers; held for a few comparisons.
    pub(super) readers: Mutex<Readers>,
}

#[async_trait]
impl File for BucketFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let size = self.attr.size;
        let end = offset.saturating_add(len as u64).min(size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        if self.pinned.replaced.load(Ordering::Relaxed) {
            return Err(self.changed());
        }
        let ahead = self.note(offset..end);
        // What is read and what follows are asked for at once, so that they share a request.
        let blocks = if ahead.start == end && !ahead.is_empty() {
            self.request(offset..ahead.end)
        } else {
            let blocks = self.request(offset..end);
            self.request(ahead);
            blocks
        };
        let read = self.collect(blocks, offset..end).await;
        if matches!(&read, Err(error) if error.kind() == ErrorKind::StaleHandle) {
            self.shared.known.forget(&self.path);
        }
        read
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(self.attr.clone())
    }

    fn page_cache(&self) -> PageCache {
        PageCache::Keep
    }
}

impl BucketFile {
    /// What to read ahead, which is nothing when the cache has no room for it.
    fn note(&self, read: Range<u64>) -> Range<u64> {
        let end = read.end;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = readers.note(read, self.attr.size);
        if self.shared.cache.has_room_ahead() { ahead } else { end..end }
    }

    /// Asks for the blocks that hold `bytes`, in runs that aren't too long.
    fn request(&self, bytes: Range<u64>) -> Vec<Block> {
        let size = self.shared.cache.block_size().get();
        let longest = (LONGEST_RUN / size).max(1);
        let mut next = bytes.start / size;
        let end = if bytes.is_empty() { next } else { bytes.end.div_ceil(size) };
        let mut blocks = Vec::new();
        while next < end {
            let cut = (next + longest).min(end);
            blocks.extend(self.shared.cache.request(&self.pinned.version, next..cut, |run| {
                Some(self.fetch(run.start * size..(run.end * size).min(self.attr.size)))
            }));
            next = cut;
        }
        blocks
    }

    fn fetch(&self, bytes: Range<u64>) -> impl Future<Output = Result<Bytes>> + Send + 'static {
        let (shared, key) = (self.shared.clone(), self.key.clone());
        let etag = self.pinned.version.etag.clone();
        async move {
            let expected = bytes.end - bytes.start;
            let got = shared.store.get(&key, bytes, Some(&etag)).await?;
            if got.len() as u64 == expected {
                return Ok(got);
            }
            let message = format!("object {key}: {} bytes of {expected} came", got.len());
            Err(Error::new(ErrorKind::Damaged, message))
        }
    }

    /// Waits for the blocks of `bytes` and joins them; blocks that follow are left alone.
    async fn collect(&self, blocks: Vec<Block>, bytes: Range<u64>) -> Result<Bytes> {
        let size = self.shared.cache.block_size().get();
        let mut start = bytes.start / size * size;
        let mut joined = BytesMut::new();
        for block in blocks {
            let within = bytes.start.max(start) - start..bytes.end.min(start + size) - start;
            let block = block.bytes().await?;
            let [from, to] = [within.start, within.end].map(|at| usize::try_from(at).unwrap_or(0));
            let part = block.get(from..to).ok_or_else(|| self.changed())?;
            if start <= bytes.start && bytes.end <= start + size {
                return Ok(block.slice(from..to));
            }
            joined.extend_from_slice(part);
            start += size;
            if start >= bytes.end {
                break;
            }
        }
        Ok(joined.freeze())
    }

    fn changed(&self) -> Error {
        let message = format!("{} was replaced since it was opened", self.path);
        Error::new(ErrorKind::StaleHandle, message).with_hint("open it again")
    }
}
