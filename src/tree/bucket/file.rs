//! An open object: one version, read through the block cache.

use std::fs;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};

use super::Shared;
use super::ahead::{Beginning, Fill, Plan, Readers, SAMPLE};
use super::siblings::SMALL;
use crate::cache::{BlockCache, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, File, PageCache};

/// How much of a hot object is fetched at a time: who wants some of it waits for what is before.
const FILL_PART: u64 = 4 << 20;

/// How many such parts are on their way at once.
const FILLS: usize = 4;

/// The version of an object that is open at a path.
#[derive(Debug)]
pub(super) struct Pinned {
    /// Where it is read from.
    pub(super) source: Arc<Source>,
    /// Who reads it, by whatever handle. Guards it; held for a few comparisons.
    readers: Mutex<Readers>,
}

impl Pinned {
    pub(super) fn new(source: Arc<Source>) -> Self {
        let beginning = Beginning::of(&source.key);
        let readers = Mutex::new(Readers::new(source.version.size, beginning));
        Self { source, readers }
    }

    fn lock_readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open object.
pub(super) struct BucketFile {
    pub(super) shared: Arc<Shared>,
    pub(super) path: TreePath,
    pub(super) attr: Attr,
    pub(super) pinned: Arc<Pinned>,
    /// The file of all of its bytes, if there was one when it was first asked for.
    pub(super) local: OnceLock<Option<Arc<fs::File>>>,
}

#[async_trait]
impl File for BucketFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.saturating_add(len as u64).min(self.attr.size);
        if offset >= end {
            return Ok(Bytes::new());
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

    fn local(&self) -> Option<&fs::File> {
        let complete = || self.shared.cache.complete(&self.pinned.source.version);
        self.local.get_or_init(complete).as_deref()
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(self.attr.clone())
    }

    fn page_cache(&self) -> PageCache {
        PageCache::Keep
    }
}

impl BucketFile {
    /// Asks for what programs read first of a file like this.
    pub(super) fn begin(&self) {
        let source = &self.pinned.source;
        let ranges = Beginning::of(&source.key).ranges(source.version.size);
        self.shared.cache.prefetch(source, &ranges, u64::MAX);
    }

    async fn read(&self, bytes: Range<u64>) -> Result<Bytes> {
        let (cache, source) = (&self.shared.cache, &self.pinned.source);
        let found = cache.find(&source.version, &bytes);
        let plan = self.note(&bytes, found.is_none());
        cache.leave(&source.version, &plan.left);
        if let Some(found) = found {
            cache.prefetch(source, &plan.ranges, plan.longest);
            return Ok(found);
        }
        cache.metrics().stalls.add(1);
        let asked = Instant::now();
        // What is read and what follows are asked for at once, so that they share a request.
        let wanted = cache.request(source, bytes, &plan.ranges, plan.longest);
        if wanted.is_new() && source.version.size <= SMALL {
            self.shared.siblings.note_wait();
        }
        let read = wanted.bytes().await;
        if plan.scattered && read.is_ok() {
            self.note_wait(asked.elapsed());
        }
        read
    }

    fn note(&self, read: &Range<u64>, stalled: bool) -> Plan {
        let room = self.shared.cache.room_ahead();
        self.pinned.lock_readers().note(read, stalled, room)
    }

    /// Someone waited who reads here and there: fetches all of it, or some, if it is time to.
    fn note_wait(&self, waited: Duration) {
        if !self.shared.cache.fits(self.attr.size) {
            return;
        }
        let Some(what) = self.pinned.lock_readers().hot().note_wait(waited) else { return };
        let (cache, pinned) = (self.shared.cache.clone(), Arc::downgrade(&self.pinned));
        match what {
            Fill::Sample => {
                tokio::spawn(sample(cache, pinned, SAMPLE.min(self.attr.size)));
            }
            Fill::All => {
                tokio::spawn(fill_all(cache, pinned, self.attr.size));
            }
        }
    }

    fn changed(&self) -> Error {
        let message = format!("{} was replaced or removed since it was opened", self.path);
        Error::new(ErrorKind::StaleHandle, message).with_hint("open it again")
    }
}

/// Fetches an object up to `end`, to measure how long that takes.
async fn sample(cache: Arc<BlockCache>, pinned: Weak<Pinned>, end: u64) {
    let start = Instant::now();
    let fetched = fill(cache, pinned.clone(), end).await;
    let Some(pinned) = pinned.upgrade() else { return };
    let mut readers = pinned.lock_readers();
    match fetched {
        Some(fetched) => readers.hot().note_sample(fetched, start.elapsed()),
        None => readers.hot().note_end(),
    }
}

/// Fetches all of an object, which has `size` bytes.
async fn fill_all(cache: Arc<BlockCache>, pinned: Weak<Pinned>, size: u64) {
    fill(cache, pinned.clone(), size).await;
    if let Some(pinned) = pinned.upgrade() {
        pinned.lock_readers().hot().note_end();
    }
}

/// Fetches an object up to `end` while it is open, some parts at a time; tells how many bytes came,
/// or ends with the first part that can't be fetched.
async fn fill(cache: Arc<BlockCache>, pinned: Weak<Pinned>, end: u64) -> Option<u64> {
    let parts = (0..end.div_ceil(FILL_PART)).map(|part| part * FILL_PART);
    let fetches = stream::iter(parts).map(|start| {
        let part = start..(start + FILL_PART).min(end);
        fill_part(cache.clone(), pinned.clone(), part)
    });
    let mut parts = fetches.buffer_unordered(FILLS);
    let mut came = 0;
    while let Some(part) = parts.next().await {
        came += part?;
    }
    Some(came)
}

async fn fill_part(cache: Arc<BlockCache>, pinned: Weak<Pinned>, part: Range<u64>) -> Option<u64> {
    let Some(source) = pinned.upgrade().map(|pinned| pinned.source.clone()) else { return Some(0) };
    if cache.is_below(&source.version, part.clone()) {
        return Some(0);
    }
    let wanted = cache.request(&source, part.clone(), &[], FILL_PART);
    let came = if wanted.is_new() { part.end - part.start } else { 0 };
    if !wanted.settled().await {
        return None;
    }
    if !cache.fits_in_memory(source.version.size) {
        // It is to be on disk, which drops what comes faster than it writes.
        cache.leave(&source.version, &part);
        drop(wanted);
        let _ = tokio::task::spawn_blocking(move || cache.settle()).await;
    }
    Some(came)
}
