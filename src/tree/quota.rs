//! A tree that holds no more than it may.
//!
//! What counts is the length of regular files, each once however many names it has: sparse files
//! too, so that whoever maps a file and writes into it always has the room. A file without a name
//! counts until it is closed. Directories, links and attributes don't count.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::RwLock;

use self::file::QuotaFile;
use self::gauge::{Gauge, Hold};
use super::{
    Attr, Entry, File, FileType, NewNode, OpenMode, Opened, RenameMode, SetAttr, Space, Tree,
    XattrMode,
};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

mod file;
mod gauge;

/// Another tree, whose files may have so many bytes together.
///
/// All changes have to go through it.
pub struct QuotaTree {
    inner: Arc<dyn Tree>,
    gauge: Arc<Gauge>,
    /// Held to read while a name leads to a file that begins to be used, to write while a name
    /// comes or goes: so a file is known to be used before its last name is gone, or not at all.
    names: RwLock<()>,
}

impl QuotaTree {
    /// Limits a tree to `limit` bytes; what is in it already counts.
    ///
    /// # Errors
    /// Those of listing it.
    pub async fn over(inner: Arc<dyn Tree>, limit: u64) -> Result<Self> {
        let (mut used, mut linked) = (0_u64, HashSet::new());
        let mut ahead = vec![TreePath::root()];
        while let Some(dir) = ahead.pop() {
            let mut entries = inner.list(&dir);
            while let Some(Entry { name, attr }) = entries.try_next().await? {
                match attr.file_type {
                    FileType::Directory => ahead.push(dir.join(&name)?),
                    FileType::File if attr.nlink < 2 || linked.insert(attr.identity) => {
                        used = used.saturating_add(attr.size);
                    }
                    _ => {}
                }
            }
        }
        Ok(Self { inner, gauge: Arc::new(Gauge::new(limit, used)), names: RwLock::default() })
    }

    /// Refuses every change from now on, also through files that are open.
    pub fn seal(&self) {
        self.gauge.seal();
    }

    /// Sets another limit, also while files are open. What is there stays, also when it is more;
    /// `u64::MAX` is none.
    pub fn set_limit(&self, limit: u64) {
        self.gauge.set_limit(limit);
    }

    /// Whether a change was ever refused since there was no room for it.
    pub fn ran_out(&self) -> bool {
        self.gauge.ran_out()
    }

    /// How many bytes its files have together.
    pub fn used(&self) -> u64 {
        self.gauge.used()
    }

    /// Holds the regular file at a path, and describes it; `None` for what is none.
    async fn hold(&self, path: &TreePath) -> Result<Option<(Hold, Attr)>> {
        let attr = self.inner.stat(path).await?;
        Ok(match attr.file_type {
            FileType::File => Some((self.hold_of(&attr)?, attr)),
            _ => None,
        })
    }

    fn hold_of(&self, attr: &Attr) -> Result<Hold> {
        let identity = attr.identity.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "files that can't be told apart can't be counted")
        })?;
        Ok(self.gauge.hold(identity))
    }

    /// The same for a file that is about to lose the name, if that is its last one.
    async fn hold_last(&self, path: &TreePath) -> Result<Option<Hold>> {
        let Some((hold, attr)) = self.hold(path).await? else { return Ok(None) };
        if attr.nlink > 1 {
            return Ok(None);
        }
        self.len(&hold, path).await?;
        Ok(Some(hold))
    }

    /// The length that is counted for a file at a path.
    async fn len(&self, hold: &Hold, path: &TreePath) -> Result<u64> {
        match hold.file.len() {
            Some(len) => Ok(len),
            // It is held, so it is changed by nobody who doesn't find this out first.
            None => Ok(hold.file.found(self.inner.stat(path).await?.size)),
        }
    }

    /// Runs what gives the file at a path the length `then`.
    async fn resize<T>(
        &self,
        path: &TreePath,
        then: u64,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, Option<Hold>)> {
        let Some((hold, _)) = self.hold(path).await? else { return Ok((work.await?, None)) };
        let changing = hold.file.changing.lock().await;
        let len = self.len(&hold, path).await?;
        let actual = async { self.inner.stat(path).await.ok().map(|attr| attr.size) };
        let done = change(&self.gauge, &hold, (len, then), work, actual).await?;
        drop(changing);
        Ok((done, Some(hold)))
    }
}

/// Runs a change by which a file of one length gets another, if there is room for it. What is
/// counted when it fails is the `actual` length, if that can be found out.
async fn change<T>(
    gauge: &Gauge,
    hold: &Hold,
    (len, then): (u64, u64),
    work: impl Future<Output = Result<T>>,
    actual: impl Future<Output = Option<u64>>,
) -> Result<T> {
    gauge.take(then.saturating_sub(len)).await?;
    let done = work.await;
    let now = if done.is_ok() { then } else { actual.await.unwrap_or(len) };
    gauge.correct(len.max(then), now);
    hold.file.changed(now);
    done
}

#[async_trait]
impl Tree for QuotaTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        self.inner.stat(path).await
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        self.inner.list(dir)
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        if mode.writes() {
            self.gauge.check_unsealed()?;
        }
        let _names = self.names.read().await;
        let open = self.inner.open(path, mode);
        let (file, hold) = if mode.truncate {
            self.resize(path, 0, open).await?
        } else {
            let hold = self.hold(path).await?.map(|(hold, _)| hold);
            (open.await?, hold)
        };
        Ok(match hold {
            Some(hold) => Arc::new(QuotaFile::new(file, hold, self.gauge.clone(), mode.append)),
            None => file,
        })
    }

    async fn create(&self, path: &TreePath, new: NewNode, mode: OpenMode) -> Result<Opened> {
        self.gauge.check_unsealed()?;
        let _names = self.names.read().await;
        let Opened { attr, file } = self.inner.create(path, new, mode).await?;
        let hold = self.hold_of(&attr)?;
        let file = Arc::new(QuotaFile::new(file, hold, self.gauge.clone(), mode.append));
        Ok(Opened { attr, file })
    }

    async fn create_dir(&self, path: &TreePath, new: NewNode) -> Result<Attr> {
        self.gauge.check_unsealed()?;
        self.inner.create_dir(path, new).await
    }

    async fn create_node(
        &self,
        path: &TreePath,
        new: NewNode,
        file_type: FileType,
        rdev: u64,
    ) -> Result<Attr> {
        self.gauge.check_unsealed()?;
        self.inner.create_node(path, new, file_type, rdev).await
    }

    async fn symlink(&self, path: &TreePath, target: &[u8], new: NewNode) -> Result<Attr> {
        self.gauge.check_unsealed()?;
        self.inner.symlink(path, target, new).await
    }

    async fn link(&self, path: &TreePath, new_path: &TreePath) -> Result<Attr> {
        self.gauge.check_unsealed()?;
        let _names = self.names.write().await;
        self.inner.link(path, new_path).await
    }

    async fn remove_file(&self, path: &TreePath) -> Result<()> {
        self.gauge.check_unsealed()?;
        let _names = self.names.write().await;
        let last = self.hold_last(path).await?;
        self.inner.remove_file(path).await?;
        if let Some(hold) = last {
            hold.file.lost_its_name();
        }
        Ok(())
    }

    async fn remove_dir(&self, path: &TreePath) -> Result<()> {
        self.gauge.check_unsealed()?;
        self.inner.remove_dir(path).await
    }

    async fn rename(&self, from: &TreePath, to: &TreePath, mode: RenameMode) -> Result<()> {
        self.gauge.check_unsealed()?;
        let _names = self.names.write().await;
        let replaced = match mode {
            RenameMode::Replace if from != to => match self.hold_last(to).await {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                other => other?,
            },
            _ => None,
        };
        self.inner.rename(from, to, mode).await?;
        if let Some(hold) = replaced {
            hold.file.lost_its_name();
        }
        Ok(())
    }

    async fn set_attr(&self, path: &TreePath, changes: SetAttr) -> Result<Attr> {
        self.gauge.check_unsealed()?;
        let _names = self.names.read().await;
        let set = self.inner.set_attr(path, changes);
        match changes.size {
            Some(then) => Ok(self.resize(path, then, set).await?.0),
            None => set.await,
        }
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
        self.gauge.check_unsealed()?;
        self.inner.set_xattr(path, name, value, mode).await
    }

    async fn remove_xattr(&self, path: &TreePath, name: &[u8]) -> Result<()> {
        self.gauge.check_unsealed()?;
        self.inner.remove_xattr(path, name).await
    }

    async fn sync_dir(&self, dir: &TreePath) -> Result<()> {
        self.inner.sync_dir(dir).await
    }

    /// The room that may be used, or less where the disk behind has less.
    async fn space(&self, path: &TreePath) -> Result<Space> {
        let disk = self.inner.space(path).await?;
        let total = self.gauge.limit();
        if total == u64::MAX {
            return Ok(disk);
        }
        let free = total.saturating_sub(self.gauge.used());
        Ok(Space { total, free, available: free.min(disk.available), ..disk })
    }
}
