//! A tree that keeps a journal of what is changed in it, so that a checkpoint needn't look at what
//! isn't.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use self::file::TrackedFile;
use super::{
    Attr, Entry, File, FileType, NewNode, OpenMode, Opened, RenameMode, SetAttr, Space, Tree,
    XattrMode,
};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::Depth;

mod epoch;
mod file;
mod journal;
mod record;
mod since;

pub use journal::{Journal, Mark};
pub use since::{Known, Since};

/// Another tree, of whose changes a journal is kept.
///
/// All changes have to go through it.
pub struct TrackedTree {
    inner: Arc<dyn Tree>,
    journal: Arc<Journal>,
    gate: Arc<Gate>,
}

/// Whether changes are allowed still.
#[derive(Default)]
struct Gate(AtomicBool);

impl Gate {
    fn pass(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            let message = "the project's files belong to another host now";
            return Err(Error::new(ErrorKind::ReadOnlyFilesystem, message));
        }
        Ok(())
    }
}

impl TrackedTree {
    /// Keeps a journal of what is changed in `inner`.
    pub fn over(inner: Arc<dyn Tree>, journal: Arc<Journal>) -> Self {
        Self { inner, journal, gate: Arc::default() }
    }

    /// Refuses every change from now on, also through files that are open.
    pub fn seal(&self) {
        self.gate.0.store(true, Ordering::Relaxed);
    }

    fn mark(&self, path: &TreePath, depth: Depth) -> Result<Mark> {
        self.gate.pass()?;
        self.journal.mark(path, depth)
    }

    /// Marks everything while a file may change that has other names too, unknown ones.
    fn mark_other_names(&self, attr: &Attr) -> Result<Option<Mark>> {
        if attr.is_dir() || attr.nlink < 2 {
            return Ok(None);
        }
        self.mark(&TreePath::root(), Depth::Below).map(Some)
    }

    /// Runs what frees room. Where there is none to note it, the next checkpoint has to look at
    /// everything: before it is done and after it, in case one is made between.
    async fn free<T>(&self, path: &TreePath, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.mark(path, Depth::Entry) {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                self.journal.doubt()?;
                let done = work.await;
                self.journal.doubt()?;
                done
            }
            Err(error) => Err(error),
            Ok(_mark) => work.await,
        }
    }
}

#[async_trait]
impl Tree for TrackedTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        self.inner.stat(path).await
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        self.inner.list(dir)
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        if !mode.writes() {
            return self.inner.open(path, mode).await;
        }
        let mut marks = vec![self.mark(path, Depth::Entry)?];
        if mode.truncate {
            // It is changed before it is open.
            marks.extend(self.mark_other_names(&self.inner.stat(path).await?)?);
        }
        let file = self.inner.open(path, mode).await?;
        if marks.len() == 1 {
            marks.extend(self.mark_other_names(&file.stat().await?)?);
        }
        Ok(Arc::new(TrackedFile::new(file, marks, self.gate.clone())))
    }

    async fn create(&self, path: &TreePath, new: NewNode, mode: OpenMode) -> Result<Opened> {
        let marks = vec![self.mark(path, Depth::Entry)?];
        let Opened { attr, file } = self.inner.create(path, new, mode).await?;
        let file = Arc::new(TrackedFile::new(file, marks, self.gate.clone()));
        Ok(Opened { attr, file })
    }

    async fn create_dir(&self, path: &TreePath, new: NewNode) -> Result<Attr> {
        // What was in a directory of this name before is gone.
        let _mark = self.mark(path, Depth::Below)?;
        self.inner.create_dir(path, new).await
    }

    async fn create_node(
        &self,
        path: &TreePath,
        new: NewNode,
        file_type: FileType,
        rdev: u64,
    ) -> Result<Attr> {
        let _mark = self.mark(path, Depth::Entry)?;
        self.inner.create_node(path, new, file_type, rdev).await
    }

    async fn symlink(&self, path: &TreePath, target: &[u8], new: NewNode) -> Result<Attr> {
        let _mark = self.mark(path, Depth::Entry)?;
        self.inner.symlink(path, target, new).await
    }

    async fn link(&self, path: &TreePath, new_path: &TreePath) -> Result<Attr> {
        let mark = self.mark(new_path, Depth::Entry)?;
        self.journal.moved(path, new_path)?;
        let attr = self.inner.link(path, new_path).await?;
        // Whoever opened it since has the old name alone.
        if self.journal.moved(path, new_path).is_err() {
            std::mem::forget(mark);
        }
        Ok(attr)
    }

    async fn remove_file(&self, path: &TreePath) -> Result<()> {
        self.free(path, self.inner.remove_file(path)).await
    }

    async fn remove_dir(&self, path: &TreePath) -> Result<()> {
        self.free(path, self.inner.remove_dir(path)).await
    }

    async fn rename(&self, from: &TreePath, to: &TreePath, mode: RenameMode) -> Result<()> {
        let marks = (self.mark(from, Depth::Below)?, self.mark(to, Depth::Below)?);
        let follow = || {
            self.journal.moved(from, to)?;
            if mode == RenameMode::Exchange { self.journal.moved(to, from) } else { Ok(()) }
        };
        follow()?;
        self.inner.rename(from, to, mode).await?;
        // Files that were opened since have the old name alone; if that can't be noted, all that
        // was renamed stays marked.
        if follow().is_err() {
            std::mem::forget(marks);
        }
        Ok(())
    }

    async fn set_attr(&self, path: &TreePath, changes: SetAttr) -> Result<Attr> {
        let shrinks = changes.size == Some(0);
        let others = self.mark_other_names(&self.inner.stat(path).await?);
        let set = self.inner.set_attr(path, changes);
        if shrinks {
            if others.is_err() {
                self.journal.doubt()?;
            }
            return self.free(path, set).await;
        }
        let _marks = (self.mark(path, Depth::Entry)?, others?);
        set.await
    }

    async fn read_link(&self, path: &TreePath) -> Result<Bytes> {
        self.inner.read_link(path).await
    }

    async fn xattr(&self, path: &TreePath, name: &[u8]) -> Result<Bytes> {
        self.inner.xattr(path, name).await
    }

    async fn xattrs(&self, path: &TreePath) -> Result<Vec<Bytes>> {
        self.inner.xattrs(path).await
    }

    async fn set_xattr(
        &self,
        path: &TreePath,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        // An access control list is an attribute, and changes the permission bits.
        let _mark = self.mark(path, Depth::Entry)?;
        self.inner.set_xattr(path, name, value, mode).await
    }

    async fn remove_xattr(&self, path: &TreePath, name: &[u8]) -> Result<()> {
        let _mark = self.mark(path, Depth::Entry)?;
        self.inner.remove_xattr(path, name).await
    }

    async fn sync_dir(&self, dir: &TreePath) -> Result<()> {
        self.inner.sync_dir(dir).await
    }

    async fn space(&self, path: &TreePath) -> Result<Space> {
        self.inner.space(path).await
    }
}
