//! Trees: everything that can be mounted, addressed by path.
//!
//! A [`Tree`] has three required operations; everything else refuses by default, so a read-only
//! tree is a short file. The router that joins trees is a tree itself. What every tree promises
//! is written down once, as the contract suite in `tests/tree_contract.rs`.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

pub use self::attr::{Attr, ContentVersion, FileType, Identity, Owner};

mod attr;
pub mod bucket;
pub mod local;
pub mod memory;
pub mod namespace;
pub mod quota;
pub mod secrets;
pub mod snapshot;
pub mod tracked;

/// A directory tree that can be mounted.
///
/// Nothing here knows of inodes, handles or FUSE. Operations are called concurrently, also on the
/// same path, and each ends: a tree that waits for something remote puts a deadline on it.
#[async_trait]
pub trait Tree: Send + Sync + 'static {
    /// Describes the entry at `path` itself; a symbolic link is not followed.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory` when a name on the way isn't one, `PermissionDenied`.
    async fn stat(&self, path: &TreePath) -> Result<Attr>;

    /// Lists a directory without `.` and `..`, each name once, with its attributes.
    ///
    /// # Errors
    /// As items of the stream: `NotFound`, `NotADirectory`, `PermissionDenied`.
    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>>;

    /// Opens a regular file.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, `PermissionDenied`; `ReadOnlyFilesystem` for a `mode` that
    /// writes where nothing can be written.
    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>>;

    /// Makes a new regular file and opens it.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    async fn create(&self, _path: &TreePath, _new: NewNode, _mode: OpenMode) -> Result<Opened> {
        Err(read_only())
    }

    /// Makes a directory.
    async fn create_dir(&self, _path: &TreePath, _new: NewNode) -> Result<Attr> {
        Err(read_only())
    }

    /// Makes a node that isn't a directory: an unopened file, a FIFO, a socket, a device.
    async fn create_node(
        &self,
        _path: &TreePath,
        _new: NewNode,
        _file_type: FileType,
        _rdev: u64,
    ) -> Result<Attr> {
        Err(read_only())
    }

    /// Makes a symbolic link at `path` that holds `target`.
    async fn symlink(&self, _path: &TreePath, _target: &[u8], _new: NewNode) -> Result<Attr> {
        Err(read_only())
    }

    /// Gives the file at `path` a second name.
    async fn link(&self, _path: &TreePath, _new_path: &TreePath) -> Result<Attr> {
        Err(read_only())
    }

    /// Removes a name that isn't a directory; open files stay readable.
    async fn remove_file(&self, _path: &TreePath) -> Result<()> {
        Err(read_only())
    }

    /// Removes an empty directory.
    async fn remove_dir(&self, _path: &TreePath) -> Result<()> {
        Err(read_only())
    }

    /// Renames, atomically replacing what `to` names unless `mode` says otherwise.
    async fn rename(&self, _from: &TreePath, _to: &TreePath, _mode: RenameMode) -> Result<()> {
        Err(read_only())
    }

    /// Changes attributes and returns them as they are then.
    async fn set_attr(&self, _path: &TreePath, _changes: SetAttr) -> Result<Attr> {
        Err(read_only())
    }

    /// Reads what a symbolic link holds.
    async fn read_link(&self, path: &TreePath) -> Result<Bytes> {
        Err(Error::new(ErrorKind::InvalidInput, format!("{path} isn't a symbolic link")))
    }

    /// Reads an extended attribute, see `xattr(7)`.
    ///
    /// # Errors
    /// `NoAttribute` when there is none of that name.
    async fn xattr(&self, path: &TreePath, name: &[u8]) -> Result<Bytes> {
        let name = name.escape_ascii();
        Err(Error::new(ErrorKind::NoAttribute, format!("{path} has no attribute {name}")))
    }

    /// Lists the names of the extended attributes.
    async fn xattrs(&self, _path: &TreePath) -> Result<Vec<Bytes>> {
        Ok(Vec::new())
    }

    /// Sets an extended attribute.
    async fn set_xattr(
        &self,
        _path: &TreePath,
        _name: &[u8],
        _value: &[u8],
        _mode: XattrMode,
    ) -> Result<()> {
        Err(read_only())
    }

    /// Removes an extended attribute.
    async fn remove_xattr(&self, _path: &TreePath, _name: &[u8]) -> Result<()> {
        Err(read_only())
    }

    /// Makes the entries of a directory durable.
    async fn sync_dir(&self, _dir: &TreePath) -> Result<()> {
        Ok(())
    }

    /// This tree by number instead of path, where it is a version's, which never changes.
    fn by_number(&self) -> Option<&snapshot::SnapshotTree> {
        None
    }

    /// Tells how much room there is where `path` lies, see `statvfs(3)`.
    async fn space(&self, _path: &TreePath) -> Result<Space> {
        Ok(Space::default())
    }
}

/// An open file. Dropping it closes it.
#[async_trait]
pub trait File: Send + Sync + 'static {
    /// Reads `len` bytes at `offset`; shorter only at the end of the file.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Describes the open file, also when its last name is gone.
    async fn stat(&self) -> Result<Attr>;

    /// Writes all of `bytes` at `offset`, or at the end where the file was opened to append.
    async fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<()> {
        Err(read_only())
    }

    /// Changes attributes of the open file; [`SetAttr::size`] truncates or extends it.
    async fn set_attr(&self, _changes: SetAttr) -> Result<Attr> {
        Err(read_only())
    }

    /// Runs at each `close(2)` of a descriptor: the last chance to report an error.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Whether [`flush`](Self::flush) may do or report anything; without, `close(2)` needs no word.
    fn flushes(&self) -> bool {
        true
    }

    /// Makes the bytes durable, and the attributes too unless `data_only`.
    async fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    /// Reserves, punches or zeroes a range; `mode` as in `fallocate(2)`.
    async fn allocate(&self, _offset: u64, _len: u64, _mode: u32) -> Result<()> {
        Err(read_only())
    }

    /// Finds the next data or hole from `offset` on, see `lseek(2)`.
    async fn seek(&self, offset: u64, to: SeekTo) -> Result<u64> {
        let size = self.stat().await?.size;
        if offset >= size {
            return Err(ErrorKind::NoSuchAddress.into());
        }
        Ok(match to {
            SeekTo::Data => offset,
            SeekTo::Hole => size,
        })
    }

    /// What the kernel may do with the pages of this file after it is closed.
    fn page_cache(&self) -> PageCache {
        PageCache::PerOpen
    }

    /// The complete local file behind this one, if the kernel may read it directly, and write it
    /// where this one can be written: then nothing that happens to the bytes is told to the tree.
    fn local(&self) -> Option<&fs::File> {
        None
    }

    /// Is told that the kernel was given the [`local`](Self::local) file to read and to write:
    /// whoever maps it may write on when this is dropped, and nobody is told.
    fn handed_over(&self) {}
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name: any bytes but `/` and NUL.
    pub name: Bytes,
    /// Its attributes.
    pub attr: Attr,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // They are the flags of open(2), in any combination.
pub struct OpenMode {
    /// Bytes will be read.
    pub read: bool,
    /// Bytes will be written.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// The file is emptied first.
    pub truncate: bool,
}

impl OpenMode {
    /// Opened to be read only.
    pub const READ: Self = Self { read: true, write: false, append: false, truncate: false };

    /// Whether the file can change through this handle or by its opening.
    pub fn writes(self) -> bool {
        self.write || self.append || self.truncate
    }
}

/// Mode and owner of a node that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Permission bits, the caller's umask already taken off.
    pub mode: u32,
    /// The caller.
    pub owner: Owner,
}

/// A file that was made and opened in one step.
pub struct Opened {
    /// Its attributes.
    pub attr: Attr,
    /// The open file.
    pub file: Arc<dyn File>,
}

/// Changes to attributes; what is `None` stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Length in bytes: cuts off, or extends with zeroes.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of the bytes.
    pub mtime: Option<SetTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time at which it is set.
    Now,
    /// This one.
    At(SystemTime),
}

/// What a rename does with a target that exists, see `renameat2(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// Replaces it.
    #[default]
    Replace,
    /// Refuses.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// How an extended attribute is set, see `setxattr(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Whether it is there or not.
    #[default]
    Any,
    /// Only where it isn't there yet.
    Create,
    /// Only where it is there already.
    Replace,
}

/// What to look for from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The next byte that is stored.
    Data,
    /// The next range that isn't.
    Hole,
}

/// What the kernel may keep of a file's pages when it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// Nothing at all, not even while it is open: each read and write comes here.
    Never,
    /// Nothing: the next open reads anew.
    PerOpen,
    /// Everything: the bytes of this file, or of its [`version`](Attr::version), never change.
    Keep,
}

/// Room on the place behind a tree, in bytes and in files, see `statvfs(3)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Space {
    /// All of it, in bytes.
    pub total: u64,
    /// What is free, in bytes.
    pub free: u64,
    /// What an ordinary user may still take, in bytes.
    pub available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

fn read_only() -> Error {
    Error::new(ErrorKind::ReadOnlyFilesystem, "this part of the project is read-only")
}
