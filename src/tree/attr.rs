//! What is told of an entry: its type, size, owner, times and identity.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::num::NonZeroU64;
use std::time::{Duration, SystemTime};

/// What kind of file an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// The attributes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// What it is.
    pub file_type: FileType,
    /// Length in bytes.
    pub size: u64,
    /// Room it takes, in units of 512 bytes.
    pub blocks: u64,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Whose it is; `None`: whoever mounted the tree.
    pub owner: Option<Owner>,
    /// The device number of a device node.
    pub rdev: u64,
    /// Last read.
    pub atime: SystemTime,
    /// Last change of the bytes.
    pub mtime: SystemTime,
    /// Last change of the attributes.
    pub ctime: SystemTime,
    /// Who this file is, in a tree where a file can have several names; `None` elsewhere.
    pub identity: Option<Identity>,
    /// Which bytes these are, in a tree where each change of a file makes a new one; `None` where
    /// bytes change in place. To the kernel another version is another file: so each has its own
    /// pages, and one that is open keeps its attributes.
    pub version: Option<ContentVersion>,
    /// How long this answer may be cached.
    pub ttl: Duration,
}

impl Attr {
    /// A regular file of `size` bytes last changed at `mtime`, readable by all.
    ///
    /// Its owner has the write bit also where nothing can be written, as on a disk that is mounted
    /// read-only: so a write is answered by the tree, with `EROFS`, and a copy can be written.
    pub fn file(size: u64, mtime: SystemTime, ttl: Duration) -> Self {
        Self {
            file_type: FileType::File,
            size,
            blocks: size.div_ceil(512),
            mode: 0o644,
            nlink: 1,
            owner: None,
            rdev: 0,
            atime: mtime,
            mtime,
            ctime: mtime,
            identity: None,
            version: None,
            ttl,
        }
    }

    /// A directory last changed at `mtime`, readable by all.
    pub fn dir(mtime: SystemTime, ttl: Duration) -> Self {
        Self { file_type: FileType::Directory, mode: 0o755, nlink: 2, ..Self::file(0, mtime, ttl) }
    }

    /// A symbolic link to a target of `len` bytes.
    pub fn symlink(len: u64, mtime: SystemTime, ttl: Duration) -> Self {
        Self { file_type: FileType::Symlink, mode: 0o777, ..Self::file(len, mtime, ttl) }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Which file this is, whatever name it was reached by: `st_dev` and `st_ino` of `stat(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The device it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}

/// A number that stands for the content of a file, as long as this process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentVersion(NonZeroU64);

impl ContentVersion {
    /// The version that a tag, such as an `ETag`, names.
    pub fn of(tag: &(impl Hash + ?Sized)) -> Self {
        let mut hasher = DefaultHasher::new();
        tag.hash(&mut hasher);
        Self(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }
}
