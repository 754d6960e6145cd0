//! An open file that may change.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Gate, Mark};
use crate::error::Result;
use crate::tree::{Attr, File, PageCache, SeekTo, SetAttr};

pub(super) struct TrackedFile {
    // In this order: it can't change any more when its marks end.
    inner: Arc<dyn File>,
    marks: Vec<Mark>,
    gate: Arc<Gate>,
    /// Whether it may change for as long as this process runs.
    may_be_mapped: AtomicBool,
}

impl TrackedFile {
    pub(super) fn new(inner: Arc<dyn File>, marks: Vec<Mark>, gate: Arc<Gate>) -> Self {
        Self { inner, marks, gate, may_be_mapped: AtomicBool::new(false) }
    }
}

impl Drop for TrackedFile {
    fn drop(&mut self) {
        if self.may_be_mapped.load(Ordering::Relaxed) {
            self.marks.drain(..).for_each(Mark::stay);
        }
    }
}

#[async_trait]
impl File for TrackedFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.inner.read_at(offset, len).await
    }

    async fn stat(&self) -> Result<Attr> {
        self.inner.stat().await
    }

    async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.gate.pass()?;
        self.inner.write_at(offset, bytes).await
    }

    async fn set_attr(&self, changes: SetAttr) -> Result<Attr> {
        self.gate.pass()?;
        self.inner.set_attr(changes).await
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    fn flushes(&self) -> bool {
        self.inner.flushes()
    }

    async fn sync(&self, data_only: bool) -> Result<()> {
        self.inner.sync(data_only).await
    }

    async fn allocate(&self, offset: u64, len: u64, mode: u32) -> Result<()> {
        self.gate.pass()?;
        self.inner.allocate(offset, len, mode).await
    }

    async fn seek(&self, offset: u64, to: SeekTo) -> Result<u64> {
        self.inner.seek(offset, to).await
    }

    fn page_cache(&self) -> PageCache {
        self.inner.page_cache()
    }

    /// Only while changes are allowed: what is done to it isn't asked for here.
    fn local(&self) -> Option<&fs::File> {
        self.gate.pass().ok().and_then(|()| self.inner.local())
    }

    fn handed_over(&self) {
        self.may_be_mapped.store(true, Ordering::Relaxed);
        self.inner.handed_over();
    }
}
