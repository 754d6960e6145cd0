//! An open local file.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, SeekFrom};
use tokio::runtime::Handle;

use super::attr::{attr_of, change};
use crate::error::{IoContext as _, Result};
use crate::object::buffers::read_fresh;
use crate::path::TreePath;
use crate::tree::{Attr, File, SeekTo, SetAttr};

/// The longest read, in bytes, that gets its buffer without a look at the file's size.
const PLAIN_READ: usize = 1 << 20;

/// A local file; the descriptor is what keeps it, whatever becomes of its name.
pub(super) struct LocalFile {
    /// The name it was opened by, for messages.
    path: TreePath,
    file: Arc<fs::File>,
    runtime: Handle,
}

impl LocalFile {
    pub(super) fn new(path: TreePath, fd: OwnedFd, runtime: Handle) -> Self {
        Self { path, file: Arc::new(fs::File::from(fd)), runtime }
    }

    fn read(&self, offset: u64, len: usize) -> rustix::io::Result<Vec<u8>> {
        let len = if len > PLAIN_READ {
            let left = attr_of(self.file.as_fd())?.size.saturating_sub(offset);
            len.min(usize::try_from(left).unwrap_or(usize::MAX))
        } else {
            len
        };
        read_fresh(&self.file, offset, len)
    }
}

#[async_trait]
impl File for LocalFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let bytes = self.read(offset, len).context(|| format!("{} can't be read", self.path))?;
        Ok(bytes.into())
    }

    async fn stat(&self) -> Result<Attr> {
        attr_of(self.file.as_fd()).context(|| format!("{} can't be examined", self.path))
    }

    async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).context(|| format!("{} can't be written", self.path))
    }

    async fn set_attr(&self, changes: SetAttr) -> Result<Attr> {
        change(self.file.as_fd(), changes, |len| rustix::fs::ftruncate(&self.file, len))
            .context(|| format!("attributes of {} can't be changed", self.path))
    }

    /// What can't be written is told by the write.
    fn flushes(&self) -> bool {
        false
    }

    async fn sync(&self, data_only: bool) -> Result<()> {
        let file = Arc::clone(&self.file);
        let sync = move || {
            if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
        };
        blocking(&self.runtime, sync)
            .await
            .context(|| format!("{} can't be made durable", self.path))
    }

    async fn allocate(&self, offset: u64, len: u64, mode: u32) -> Result<()> {
        let file = Arc::clone(&self.file);
        let mode = FallocateFlags::from_bits_retain(mode);
        blocking(&self.runtime, move || rustix::fs::fallocate(file, mode, offset, len))
            .await
            .context(|| format!("room for {} can't be changed", self.path))
    }

    async fn seek(&self, offset: u64, to: SeekTo) -> Result<u64> {
        let position = match to {
            SeekTo::Data => SeekFrom::Data(offset),
            SeekTo::Hole => SeekFrom::Hole(offset),
        };
        // This moves the descriptor's own position, which nothing else here looks at.
        rustix::fs::seek(&self.file, position).context(|| format!("no such place in {}", self.path))
    }

    fn local(&self) -> Option<&fs::File> {
        Some(&self.file)
    }
}

/// Runs what waits for the disk on a thread that may wait.
pub(super) async fn blocking(
    runtime: &Handle,
    work: impl FnOnce() -> rustix::io::Result<()> + Send + 'static,
) -> std::io::Result<()> {
    Ok(runtime.spawn_blocking(work).await.map_err(std::io::Error::other)??)
}
