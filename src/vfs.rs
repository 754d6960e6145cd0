//! Inodes, handles and lookup counts over any tree.
//!
//! A front end such as FUSE names files by inode number and open files by handle; a [`Tree`] knows
//! only paths. [`Vfs`] stands between them: it keeps which number stands for which name, as
//! (parent, name, references) and never as a path, so that a renamed directory carries along what
//! lies in it. It caches nothing else.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use self::file::OpenFile;
use self::handle::Handles;
use self::inode::Nodes;
use self::listing::Directories;
use self::moves::Moves;
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, SetAttr, Space, Tree, XattrMode};

pub use self::file::OpenedFile;
pub use self::handle::Handle;
pub use self::inode::ROOT;
pub use self::listing::Listed;
pub use self::place::{Forgettable, Place};

mod file;
pub mod frozen;
mod handle;
mod inode;
mod kept;
mod listing;
mod moves;
mod names;
mod passing;
mod place;

/// How often a lookup starts over because of renames, before it takes what it finds.
const PATIENCE: u32 = 8;

/// How often an operation starts over because something may have been elsewhere and be back.
const RETURNS: u32 = 64;

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
    /// Guards which files without a name are open until their node is forgotten.
    kept: Mutex<HashMap<u64, Handle>>,
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
            kept: Mutex::default(),
        }
    }

    /// Finds `name` in a directory.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Known> {
        let mut attempts = 0..PATIENCE;
        loop {
            let before = lock(&self.nodes).changes();
            let stat = self.below(parent, name, |path| async move { self.tree.stat(&path).await });
            let attr = stat.await?;
            if attempts.next().is_none() || !lock(&self.nodes).contradicts(parent, name, &attr) {
                return Ok(self.enter(parent, name, attr));
            }
            // Another file than ours has the name: found before a rename that the table shows
            // already, or after one that it doesn't show yet. Without one it was changed outside.
            let waited = self.moves.settled(&self.child_path(parent, name)?).await;
            if !waited && lock(&self.nodes).changes() == before {
                return Ok(self.enter(parent, name, attr));
            }
        }
    }

    /// Takes back `count` lookups of a node.
    pub fn forget(&self, ino: u64, count: u64) {
        lock(&self.nodes).forget(ino, count);
        self.drop_if_forgotten(ino);
    }

    /// Where it comes out from now on what the front end had better forget: files that weren't opened
    /// and were found long ago. The last one who asked gets them.
    pub fn forgettable(&self) -> Receiver<Forgettable> {
        lock(&self.nodes).forgettable()
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
            Err(error) if is_gone(&error) => match self.any_open(ino, false) {
                Some(file) => file.stat().await,
                None if lock(&self.nodes).is_removed_dir(ino) => Ok(removed_dir()),
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
                Err(error) if is_gone(&error) => match self.any_open(ino, changes.size.is_some()) {
                    Some(file) => file.set_attr(changes).await,
                    None => Err(error),
                },
                other => other,
            }
        };
        self.touch_node(ino);
        attr
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
        let mut attempts = 0..RETURNS;
        loop {
            let changes = lock(&self.nodes).changes();
            let before = path()?;
            match operation(before.clone()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if !self.moves.settled(&before).await
                        && path()? == before
                        && !self.was_away(changes, &mut attempts)
                    {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Whether something may have been elsewhere for a moment since names had changed so often, and
    /// be back: it is worth another attempt, while there are any.
    fn was_away(&self, changes: u64, attempts: &mut Range<u32>) -> bool {
        lock(&self.nodes).changes() != changes && attempts.next().is_some()
    }

    /// The path of a node.
    ///
    /// # Errors
    /// `StaleHandle` when it has none any more: the kernel then looks its name up anew, and finds
    /// what has taken its place.
    fn path(&self, ino: u64) -> Result<TreePath> {
        lock(&self.nodes).path(ino).ok_or_else(|| {
            Error::new(ErrorKind::StaleHandle, format!("inode {ino} has no name any more"))
        })
    }

    fn child_path(&self, parent: u64, name: &[u8]) -> Result<TreePath> {
        self.path(parent)?.join(name)
    }

    fn enter(&self, parent: u64, name: &[u8], attr: Attr) -> Known {
        Known { ino: lock(&self.nodes).enter(parent, name, &attr), attr }
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

/// Whether an error says that a node's path leads nowhere.
fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::StaleHandle)
}

/// What is left of a directory that was removed under whoever stands in it.
fn removed_dir() -> Attr {
    Attr { nlink: 0, ..Attr::dir(SystemTime::now(), Duration::ZERO) }
}

fn stale(ino: u64) -> Error {
    Error::new(ErrorKind::StaleHandle, format!("the name of inode {ino} leads to another file now"))
}

/// Locks a mutex; what a panicked holder left is still a table of numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
