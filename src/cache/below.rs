//! The cache below memory: what is on disk is read from there and takes no memory.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{BlockCache, ObjectVersion, Shared};

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
    pub(super) fn keep_below(&self, version: &Arc<ObjectVersion>, offset: u64, bytes: &Bytes) {
        if let Some(disk) = &self.disk {
            disk.offer(version, offset, bytes.clone());
        }
    }
}
