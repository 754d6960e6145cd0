//! Open files: reading and writing by handle.

use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::{Handle, Known, Vfs, is_gone, lock, stale};
use crate::error::{ErrorKind, IoContext as _, Result};
use crate::tree::{Attr, File, NewNode, OpenMode, SeekTo, SetAttr};

/// How much one step of a copy reads and writes.
///
/// Large enough that the calls don't count, small enough for many copies at once.
const COPY_STEP: usize = 1 << 20;

/// How much one call of [`Vfs::copy`] copies at most; the caller comes back for the rest.
///
/// A bound, so that the kernel's caller can be interrupted between two calls.
const COPY_MOST: u64 = 64 << 20;

/// An open file, and what for.
pub(super) struct OpenFile {
    file: Arc<dyn File>,
    mode: OpenMode,
}

/// A file that was just opened.
pub struct OpenedFile {
    /// The number to name it by.
    pub handle: Handle,
    /// The file.
    pub file: Arc<dyn File>,
    /// What it was opened for.
    pub mode: OpenMode,
}

impl Vfs {
    /// Opens a node's file; one without a name is opened again through what is open of it.
    ///
    /// With `drop_privileges` a truncation takes off the set-user-id and set-group-id bits, and so
    /// does opening to write what the kernel may write without asking.
    pub async fn open(
        &self,
        ino: u64,
        mode: OpenMode,
        drop_privileges: bool,
    ) -> Result<OpenedFile> {
        let opened = self.on(ino, |path| async move { self.tree.open(&path, mode).await }).await;
        let file = match opened {
            Err(error) if is_gone(&error) => {
                let file = self.open_again(ino, mode).ok_or(error)?;
                if mode.truncate {
                    file.set_attr(SetAttr { size: Some(0), ..SetAttr::default() }).await?;
                }
                file
            }
            other => self.checked(ino, other?).await?,
        };
        if drop_privileges && (mode.truncate || mode.writes() && file.local().is_some()) {
            take_off_privileges(&*file).await?;
        }
        if mode.truncate {
            self.touch_node(ino);
        }
        Ok(self.opened(ino, file, mode))
    }

    /// Makes a file and opens it; unless `exclusive`, one that is there already is opened.
    pub async fn create(
        &self,
        parent: u64,
        name: &[u8],
        new: NewNode,
        mode: OpenMode,
        exclusive: bool,
    ) -> Result<(Known, OpenedFile)> {
        let created = self
            .below(parent, name, |path| async move { self.tree.create(&path, new, mode).await });
        match created.await {
            Ok(opened) => {
                let known = self.made(parent, name, Ok(opened.attr))?;
                let opened = self.opened(known.ino, opened.file, mode);
                Ok((known, opened))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !exclusive => {
                let known = self.lookup(parent, name).await?;
                match self.open(known.ino, mode, false).await {
                    Ok(opened) => Ok((known, opened)),
                    Err(error) => {
                        self.forget(known.ino, 1);
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Reads `len` bytes at `offset`; shorter only at the end.
    pub async fn read(&self, handle: Handle, offset: u64, len: usize) -> Result<Bytes> {
        self.open_file(handle)?.read_at(offset, len).await
    }

    /// Writes all of `bytes` at `offset`, or at the end where the file was opened to append.
    ///
    /// With `drop_privileges` it takes off the set-user-id and set-group-id bits, as a write by an
    /// unprivileged process does.
    pub async fn write(
        &self,
        handle: Handle,
        offset: u64,
        bytes: &[u8],
        drop_privileges: bool,
    ) -> Result<()> {
        let (ino, open) = lock(&self.files).at(handle)?;
        if drop_privileges {
            take_off_privileges(&*open.file).await?;
        }
        let written = open.file.write_at(offset, bytes).await;
        self.touch_node(ino);
        written
    }

    /// Copies up to `len` bytes between two open files; returns how many, 0 at the end.
    pub async fn copy(
        &self,
        (from, from_offset): (Handle, u64),
        (to, to_offset): (Handle, u64),
        len: u64,
    ) -> Result<u64> {
        let source = self.open_file(from)?;
        let (ino, target) = lock(&self.files).at(to)?;
        let len = len.min(COPY_MOST);
        if source.local().is_some() && target.file.local().is_some() {
            let (source, target) = (Arc::clone(&source), Arc::clone(&target.file));
            match copy_local((source, from_offset), (target, to_offset), len).await {
                // Then they aren't on one file system.
                Err(error) if error.kind() == ErrorKind::CrossesDevices => {}
                copied => {
                    self.touch_node(ino);
                    return copied;
                }
            }
        }
        let mut copied = 0;
        while copied < len {
            let step = usize::try_from(len - copied).unwrap_or(COPY_STEP).min(COPY_STEP);
            let bytes = source.read_at(from_offset + copied, step).await?;
            if bytes.is_empty() {
                break;
            }
            match target.file.write_at(to_offset + copied, &bytes).await {
                Ok(()) => copied += bytes.len() as u64,
                // What was copied is reported; the next call meets the error again.
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.touch_node(ino);
        Ok(copied)
    }

    /// Runs at each `close(2)` of a descriptor: the last chance to report an error.
    pub async fn flush(&self, handle: Handle) -> Result<()> {
        self.open_file(handle)?.flush().await
    }

    /// Makes the bytes durable, and the attributes too unless `data_only`.
    pub async fn sync(&self, handle: Handle, data_only: bool) -> Result<()> {
        self.open_file(handle)?.sync(data_only).await
    }

    /// Reserves, punches or zeroes a range; `mode` as in `fallocate(2)`.
    pub async fn allocate(&self, handle: Handle, offset: u64, len: u64, mode: u32) -> Result<()> {
        let (ino, open) = lock(&self.files).at(handle)?;
        let allocated = open.file.allocate(offset, len, mode).await;
        self.touch_node(ino);
        allocated
    }

    /// Finds the next data or hole from `offset` on.
    pub async fn seek(&self, handle: Handle, offset: u64, to: SeekTo) -> Result<u64> {
        self.open_file(handle)?.seek(offset, to).await
    }

    /// Closes a handle.
    pub fn release(&self, handle: Handle) {
        let removed = lock(&self.files).remove(handle);
        if let Some((ino, _, true)) = removed {
            lock(&self.nodes).closed(ino);
        }
    }

    /// Refuses a file that isn't the one that the node stands for: a rename or a new version was
    /// faster. The kernel looks the name up anew then, and opens what it finds.
    pub(super) async fn checked(&self, ino: u64, file: Arc<dyn File>) -> Result<Arc<dyn File>> {
        if lock(&self.nodes).is_particular(ino) {
            let attr = file.stat().await?;
            if !lock(&self.nodes).stands_for(ino, &attr) {
                return Err(stale(ino));
            }
        }
        Ok(file)
    }

    /// The open file behind a handle.
    pub(super) fn open_file(&self, handle: Handle) -> Result<Arc<dyn File>> {
        lock(&self.files).at(handle).map(|(_, open)| Arc::clone(&open.file))
    }

    /// Any open file of a node, if there is one: to write, one that was opened for that.
    pub(super) fn any_open(&self, ino: u64, to_write: bool) -> Option<Arc<dyn File>> {
        let files = lock(&self.files);
        files.of(ino).find(|open| open.mode.write || !to_write).map(|open| Arc::clone(&open.file))
    }

    /// An open file of a node that can do what `mode` asks.
    fn open_again(&self, ino: u64, mode: OpenMode) -> Option<Arc<dyn File>> {
        let files = lock(&self.files);
        let covers = |open: &OpenMode| {
            (open.read || !mode.read)
                && (open.write || !mode.write && !mode.truncate)
                && open.append == mode.append
        };
        files.of(ino).find(|open| covers(&open.mode)).map(|open| Arc::clone(&open.file))
    }

    pub(super) fn opened(&self, ino: u64, file: Arc<dyn File>, mode: OpenMode) -> OpenedFile {
        let open = OpenFile { file: Arc::clone(&file), mode };
        lock(&self.nodes).note_opened(ino);
        let handle = lock(&self.files).insert(ino, open);
        OpenedFile { handle, file, mode }
    }
}

/// Copies between two files that have local ones behind them, which may share the bytes then; on a
/// thread that may wait.
async fn copy_local(
    (source, mut from): (Arc<dyn File>, u64),
    (target, mut to): (Arc<dyn File>, u64),
    len: u64,
) -> Result<u64> {
    let copy = move || match (source.local(), target.local()) {
        (Some(source), Some(target)) => {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len)
        }
        _ => Err(Errno::BADF),
    };
    let copied = tokio::task::spawn_blocking(copy).await.map_err(std::io::Error::other);
    let copied = copied.and_then(|copied| Ok(copied?));
    Ok(copied.context(|| "a range can't be copied".to_owned())? as u64)
}

/// Takes off the set-user-id bit, and the set-group-id bit where the group may execute.
async fn take_off_privileges(file: &dyn File) -> Result<Attr> {
    let attr = file.stat().await?;
    let kept = without_privileges(attr.mode);
    if kept == attr.mode {
        return Ok(attr);
    }
    file.set_attr(SetAttr { mode: Some(kept), ..SetAttr::default() }).await
}

/// The mode that is left after an unprivileged write, see `chmod(2)` and `inode(7)`.
pub(super) fn without_privileges(mode: u32) -> u32 {
    let set_gid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | set_gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_leaves_no_privileges_but_mandatory_locking() {
        assert_eq!(without_privileges(0o6755), 0o755);
        assert_eq!(without_privileges(0o2644), 0o2644);
        assert_eq!(without_privileges(0o644), 0o644);
    }
}
