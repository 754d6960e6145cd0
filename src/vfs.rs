//! Inodes, handles and lookup counts over any tree.
//!
//! A front end such as FUSE names files by inode number and open files by handle; a [`Tree`] knows
//! only paths. [`Vfs`] stands between them: it keeps which number stands for which name, as
//! (parent, name, references) and never as a path, so that a renamed directory carries along what
//! lies in it. It caches nothing else.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::file::OpenFile;
use self::handle::Handles;
use self::inode::{Nodes, Place};
use self::listing::Directories;
use self::moves::Moves;
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, FileType, NewNode, RenameMode, SetAttr, Space, Tree, XattrMode};

pub use self::file::OpenedFile;
pub use self::handle::Handle;
pub use self::inode::ROOT;
pub use self::listing::Listed;

mod file;
mod handle;
mod inode;
mod listing;
mod moves;

/// A node as the front end is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its inode number.
    pub ino: u64,
    /// Its attributes.
    pub attr: Attr,
}

/// Any tree, by inode numbers and handles.
///
/// Every operation that returns a [`Known`] has counted a lookup of it, which the front end takes
/// back with [`forget`](Vfs::forget).
pub struct Vfs {
    tree: Arc<dyn Tree>,
    /// Guards which number stands for which name. No two of these locks are held at once, and
    /// none across an await.
    nodes: Mutex<Nodes>,
    /// Guards which files are open.
    files: Mutex<Handles<OpenFile>>,
    directories: Directories,
    moves: Moves,
}

impl Vfs {
    /// Puts numbers over a tree.
    pub fn new(tree: Arc<dyn Tree>) -> Self {
        Self {
            tree,
            nodes: Mutex::new(Nodes::new()),
            files: Mutex::new(Handles::new()),
            directories: Directories::default(),
            moves: Moves::default(),
        }
    }

    /// Finds `name` in a directory.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Known> {
        let attr =
            self.below(parent, name, |path| async move { self.tree.stat(&path).await }).await?;
        Ok(self.enter(parent, name, attr))
    }

    /// Takes back `count` lookups of a node.
    pub fn forget(&self, ino: u64, count: u64) {
        lock(&self.nodes).forget(ino, count);
    }

    /// How many nodes the front end knows, the root among them.
    pub fn known_nodes(&self) -> usize {
        lock(&self.nodes).len()
    }

    /// Describes a node, by its path or, where it has none any more, by one of its open files.
    ///
    /// # Errors
    /// `StaleHandle` when its path leads to another file now; `NotFound`.
    pub async fn stat(&self, ino: u64, handle: Option<Handle>) -> Result<Attr> {
        if let Some(handle) = handle {
            return self.open_file(handle)?.stat().await;
        }
        let found = self.on(ino, |path| async move { self.tree.stat(&path).await }).await;
        match found {
            Ok(attr) if lock(&self.nodes).stands_for(ino, &attr) => Ok(attr),
            Ok(_) => match self.any_open(ino, false) {
                Some(file) => file.stat().await,
                None => Err(stale(ino)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => match self.any_open(ino, false) {
                Some(file) => file.stat().await,
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Changes attributes of a node, through an open file where one is given or only that is left.
    ///
    /// A new owner takes off the set-user-id and set-group-id bits, and so does a new size with
    /// `drop_privileges`.
    pub async fn set_attr(
        &self,
        ino: u64,
        handle: Option<Handle>,
        changes: SetAttr,
        drop_privileges: bool,
    ) -> Result<Attr> {
        let attr = self.change(ino, handle, changes).await?;
        let new_owner = changes.uid.is_some() || changes.gid.is_some();
        let drops = new_owner || drop_privileges && changes.size.is_some();
        let kept = file::without_privileges(attr.mode);
        if drops && changes.mode.is_none() && !attr.is_dir() && kept != attr.mode {
            let mode = SetAttr { mode: Some(kept), ..SetAttr::default() };
            return self.change(ino, handle, mode).await;
        }
        Ok(attr)
    }

    async fn change(&self, ino: u64, handle: Option<Handle>, changes: SetAttr) -> Result<Attr> {
        let attr = if let Some(handle) = handle {
            self.open_file(handle)?.set_attr(changes).await
        } else {
            let done =
                self.on(ino, |path| async move { self.tree.set_attr(&path, changes).await }).await;
            match done {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    match self.any_open(ino, changes.size.is_some()) {
                        Some(file) => file.set_attr(changes).await,
                        None => Err(error),
                    }
                }
                other => other,
            }
        };
        self.touch_node(ino);
        attr
    }

    /// Makes a directory.
    pub async fn create_dir(&self, parent: u64, name: &[u8], new: NewNode) -> Result<Known> {
        let made =
            self.below(parent, name, |path| async move { self.tree.create_dir(&path, new).await });
        self.made(parent, name, made.await)
    }

    /// Makes a node that isn't a directory.
    pub async fn create_node(
        &self,
        parent: u64,
        name: &[u8],
        new: NewNode,
        file_type: FileType,
        rdev: u64,
    ) -> Result<Known> {
        let made = self.below(parent, name, |path| async move {
            self.tree.create_node(&path, new, file_type, rdev).await
        });
        self.made(parent, name, made.await)
    }

    /// Makes a symbolic link that holds `target`.
    pub async fn symlink(
        &self,
        parent: u64,
        name: &[u8],
        target: &[u8],
        new: NewNode,
    ) -> Result<Known> {
        let made = self
            .below(parent, name, |path| async move { self.tree.symlink(&path, target, new).await });
        self.made(parent, name, made.await)
    }

    /// Gives a file a second name.
    pub async fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Known> {
        let linked = self.on(ino, |path| async move {
            let new_path = self.child_path(parent, name)?;
            self.tree.link(&path, &new_path).await
        });
        let linked = linked.await;
        self.touch_node(ino);
        self.made(parent, name, linked)
    }

    /// Removes a name that isn't a directory.
    pub async fn remove_file(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.below(parent, name, |path| async move { self.tree.remove_file(&path).await }).await?;
        self.unlinked(parent, name);
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn remove_dir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.below(parent, name, |path| async move { self.tree.remove_dir(&path).await }).await?;
        self.unlinked(parent, name);
        Ok(())
    }

    /// Renames `name` in `parent` to `new_name` in `new_parent`.
    pub async fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let from = self.child_path(parent, name)?;
        let to = self.child_path(new_parent, new_name)?;
        let under_way = self.moves.begin(&from, &to);
        self.tree.rename(&from, &to, mode).await?;
        let replaced = lock(&self.nodes).at(new_parent, new_name);
        let open = replaced.is_some_and(|ino| lock(&self.files).has(ino));
        let (from, to) = (Place::new(parent, name), Place::new(new_parent, new_name));
        lock(&self.nodes).rename(from, to, mode, open);
        drop(under_way);
        self.directories.touch(parent);
        self.directories.touch(new_parent);
        Ok(())
    }

    /// Reads what a symbolic link holds.
    pub async fn read_link(&self, ino: u64) -> Result<Bytes> {
        self.on(ino, |path| async move { self.tree.read_link(&path).await }).await
    }

    /// Reads an extended attribute.
    pub async fn xattr(&self, ino: u64, name: &[u8]) -> Result<Bytes> {
        self.on(ino, |path| async move { self.tree.xattr(&path, name).await }).await
    }

    /// Lists the names of the extended attributes.
    pub async fn xattrs(&self, ino: u64) -> Result<Vec<Bytes>> {
        self.on(ino, |path| async move { self.tree.xattrs(&path).await }).await
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.on(ino, |path| async move { self.tree.set_xattr(&path, name, value, mode).await })
            .await?;
        self.touch_node(ino);
        Ok(())
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.on(ino, |path| async move { self.tree.remove_xattr(&path, name).await }).await?;
        self.touch_node(ino);
        Ok(())
    }

    /// Makes the entries of a directory durable.
    pub async fn sync_dir(&self, ino: u64) -> Result<()> {
        self.on(ino, |path| async move { self.tree.sync_dir(&path).await }).await
    }

    /// Tells how much room there is where a node lies.
    pub async fn space(&self, ino: u64) -> Result<Space> {
        self.on(ino, |path| async move { self.tree.space(&path).await }).await
    }

    /// Runs an operation on a node's path; again, when a rename moved it meanwhile.
    async fn on<T, F>(&self, ino: u64, operation: impl Fn(TreePath) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.settled(|| self.path(ino), operation).await
    }

    /// The same for a name in a directory.
    async fn below<T, F>(
        &self,
        parent: u64,
        name: &[u8],
        operation: impl Fn(TreePath) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.settled(|| self.child_path(parent, name), operation).await
    }

    async fn settled<T, F>(
        &self,
        path: impl Fn() -> Result<TreePath>,
        operation: impl Fn(TreePath) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            let before = path()?;
            match operation(before.clone()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if !self.moves.settled(&before).await && path()? == before {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    fn path(&self, ino: u64) -> Result<TreePath> {
        lock(&self.nodes).path(ino).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("inode {ino} has no name any more"))
        })
    }

    fn child_path(&self, parent: u64, name: &[u8]) -> Result<TreePath> {
        self.path(parent)?.join(name)
    }

    fn enter(&self, parent: u64, name: &[u8], attr: Attr) -> Known {
        Known { ino: lock(&self.nodes).enter(parent, name, &attr), attr }
    }

    fn made(&self, parent: u64, name: &[u8], made: Result<Attr>) -> Result<Known> {
        let known = self.enter(parent, name, made?);
        self.directories.touch(parent);
        Ok(known)
    }

    fn unlinked(&self, parent: u64, name: &[u8]) {
        let ino = lock(&self.nodes).at(parent, name);
        let open = ino.is_some_and(|ino| lock(&self.files).has(ino));
        lock(&self.nodes).unlink(parent, name, open);
        self.directories.touch(parent);
    }

    /// Notes that a node's attributes changed, for whoever is listing a directory with it.
    fn touch_node(&self, ino: u64) {
        if self.directories.any_open() {
            for parent in lock(&self.nodes).parents(ino) {
                self.directories.touch(parent);
            }
        }
    }
}

fn stale(ino: u64) -> Error {
    Error::new(ErrorKind::StaleHandle, format!("the name of inode {ino} leads to another file now"))
}

/// Locks a mutex; what a panicked holder left is still a table of numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
