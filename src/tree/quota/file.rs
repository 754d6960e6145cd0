//! An open file whose length is counted.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::change;
use super::gauge::{Gauge, Hold};
use crate::error::Result;
use crate::tree::{Attr, File, PageCache, SeekTo, SetAttr};

/// The modes of `fallocate(2)`, in the kernel's `falloc.h`.
const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const COLLAPSE_RANGE: u32 = 0x08;
const INSERT_RANGE: u32 = 0x20;

pub(super) struct QuotaFile {
    // In this order: the file is closed before it is given back.
    inner: Arc<dyn File>,
    hold: Hold,
    gauge: Arc<Gauge>,
    appends: bool,
}

impl QuotaFile {
    pub(super) fn new(inner: Arc<dyn File>, hold: Hold, gauge: Arc<Gauge>, appends: bool) -> Self {
        Self { inner, hold, gauge, appends }
    }

    /// The length that is counted; ask for it while nobody changes the file.
    async fn len(&self) -> Result<u64> {
        match self.hold.file.len() {
            Some(len) => Ok(len),
            None => Ok(self.hold.file.found(self.inner.stat().await?.size)),
        }
    }

    async fn actual(&self) -> Option<u64> {
        self.inner.stat().await.ok().map(|attr| attr.size)
    }
}

#[async_trait]
impl File for QuotaFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.inner.read_at(offset, len).await
    }

    async fn stat(&self) -> Result<Attr> {
        self.inner.stat().await
    }

    async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.gauge.check_unsealed()?;
        let _changing = self.hold.file.changing.lock().await;
        let len = self.len().await?;
        let offset = if self.appends { len } else { offset };
        let then = match bytes.len() {
            0 => len,
            more => len.max(offset.saturating_add(more as u64)),
        };
        let write = self.inner.write_at(offset, bytes);
        change(&self.gauge, &self.hold, (len, then), write, self.actual()).await
    }

    async fn set_attr(&self, changes: SetAttr) -> Result<Attr> {
        self.gauge.check_unsealed()?;
        let Some(then) = changes.size else { return self.inner.set_attr(changes).await };
        let _changing = self.hold.file.changing.lock().await;
        let len = self.len().await?;
        let set = self.inner.set_attr(changes);
        change(&self.gauge, &self.hold, (len, then), set, self.actual()).await
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

    async fn allocate(&self, offset: u64, range: u64, mode: u32) -> Result<()> {
        self.gauge.check_unsealed()?;
        let _changing = self.hold.file.changing.lock().await;
        let len = self.len().await?;
        let end = offset.saturating_add(range);
        let then = match mode {
            _ if mode & COLLAPSE_RANGE != 0 => len.saturating_sub(range),
            _ if mode & INSERT_RANGE != 0 => len.saturating_add(range),
            _ if mode & KEEP_SIZE == 0 => len.max(end),
            // What is kept behind the end of a file isn't counted, but it has to fit.
            _ if mode & PUNCH_HOLE == 0 && end > len => {
                self.gauge.take(end - len).await?;
                self.gauge.correct(end - len, 0);
                len
            }
            _ => len,
        };
        let allocate = self.inner.allocate(offset, range, mode);
        change(&self.gauge, &self.hold, (len, then), allocate, self.actual()).await
    }

    async fn seek(&self, offset: u64, to: SeekTo) -> Result<u64> {
        self.inner.seek(offset, to).await
    }

    fn page_cache(&self) -> PageCache {
        self.inner.page_cache()
    }
}
