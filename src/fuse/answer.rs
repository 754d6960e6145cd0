//! Answers to the kernel: the one place that logs, counts and chooses the errno.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::errno::errno;
use super::passthrough::Passthrough;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;
use crate::tree::{Attr, FileType, Owner, PageCache, Space};
use crate::vfs::{Known, OpenedFile};

/// The unit in which room is told, in bytes; what every tool expects of a disk.
const BLOCK: u64 = 4096;

/// The longest name that a file may have, in bytes, see `statvfs(3)`.
const NAME_MAX: u32 = 255;

/// Inode numbers are never used twice, so there is one generation only.
const GENERATION: Generation = Generation(0);

/// A reply that can be sent a result.
pub(super) trait Answer<T>: Sized {
    /// Tells the kernel what it asked for.
    fn grant(self, value: T);

    /// Tells the kernel why not.
    fn refuse(self, errno: Errno);

    /// Answers `operation` with its result.
    fn send(self, operation: &'static str, result: Result<T>, metrics: &Metrics) {
        metrics.answered.add(1);
        match result {
            Ok(value) => self.grant(value),
            Err(error) => {
                metrics.refused.add(1);
                log(operation, &error);
                self.refuse(errno(error.kind()));
            }
        }
    }
}

/// Logs an error: loudly what means trouble, quietly what programs ask for all day.
fn log(operation: &'static str, error: &Error) {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Damaged | ErrorKind::TimedOut | ErrorKind::TooManyOpenFiles => {
            tracing::warn!(operation, ?error, "a request failed");
        }
        // Not what a program tries to find out what it may do: something was lost.
        ErrorKind::NotPermitted | ErrorKind::StaleHandle
            if matches!(operation, "write" | "flush" | "fsync") =>
        {
            tracing::warn!(operation, ?error, "a write was refused");
        }
        _ => tracing::debug!(operation, ?error, "a request was refused"),
    }
}

/// Attributes as the kernel gets them.
pub(super) struct Shown {
    pub(super) attr: FileAttr,
    pub(super) ttl: Duration,
}

impl Shown {
    /// Shows a node; one that has no owner of its own belongs to `owner`.
    pub(super) fn new(ino: u64, attr: &Attr, owner: Owner) -> Self {
        let Owner { uid, gid } = attr.owner.unwrap_or(owner);
        let shown = FileAttr {
            ino: INodeNo(ino),
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            crtime: attr.ctime,
            kind: kind(attr.file_type),
            perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
            nlink: attr.nlink,
            uid,
            gid,
            // The kernel has 12 bits of major and 20 of minor number, as the lower half here.
            rdev: u32::try_from(attr.rdev & u64::from(u32::MAX)).unwrap_or_default(),
            blksize: u32::try_from(BLOCK).unwrap_or_default(),
            flags: 0,
        };
        Self { attr: shown, ttl: attr.ttl }
    }

    /// Shows that there is nothing, which may be believed for `ttl`.
    pub(super) fn nowhere(ttl: Duration) -> Self {
        Self { ttl, ..Self::new(0, &Attr::file(0, UNIX_EPOCH, ttl), Owner { uid: 0, gid: 0 }) }
    }

    pub(super) fn of(known: &Known, owner: Owner) -> Self {
        Self::new(known.ino, &known.attr, owner)
    }
}

/// An answer to `getxattr` or `listxattr`, which may only want to know how long the value is.
pub(super) struct XattrReply {
    pub(super) reply: ReplyXattr,
    /// How many bytes fit; 0 asks for the length.
    pub(super) size: u32,
}

impl Answer<Bytes> for XattrReply {
    fn grant(self, value: Bytes) {
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        match self.size {
            0 => self.reply.size(len),
            size if len > size => self.reply.error(Errno::ERANGE),
            _ => self.reply.data(&value),
        }
    }

    fn refuse(self, errno: Errno) {
        self.reply.error(errno);
    }
}

impl Answer<()> for ReplyEmpty {
    fn grant(self, (): ()) {
        self.ok();
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Answer<()> for ReplyDirectory {
    fn grant(self, (): ()) {
        self.ok();
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Answer<()> for ReplyDirectoryPlus {
    fn grant(self, (): ()) {
        self.ok();
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Answer<Bytes> for ReplyData {
    fn grant(self, bytes: Bytes) {
        self.data(&bytes);
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Answer<Shown> for ReplyEntry {
    fn grant(self, shown: Shown) {
        self.entry(&shown.ttl, &shown.attr, GENERATION);
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Answer<Shown> for ReplyAttr {
    fn grant(self, shown: Shown) {
        self.attr(&shown.ttl, &shown.attr);
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

/// An answer to `open`, which may hand the file over to the kernel.
pub(super) struct OpenReply {
    pub(super) reply: ReplyOpen,
    pub(super) ino: u64,
    pub(super) passthrough: Arc<Passthrough>,
}

impl Answer<OpenedFile> for OpenReply {
    fn grant(self, opened: OpenedFile) {
        let Self { reply, ino, passthrough } = self;
        let (handle, mut flags) = (FileHandle(opened.handle.0), open_flags(&opened));
        let tell = |local: &std::fs::File| reply.open_backing(local);
        match passthrough.opened(ino, &*opened.file, opened.mode, tell) {
            Some(backing) => {
                // It has no pages here to keep.
                flags.remove(FopenFlags::FOPEN_KEEP_CACHE);
                reply.opened_passthrough(handle, flags, &backing);
            }
            None => reply.opened(handle, flags),
        }
    }

    fn refuse(self, errno: Errno) {
        self.reply.error(errno);
    }
}

/// An answer to `opendir`, and to `open` where nothing is told of the file.
impl Answer<(FileHandle, FopenFlags)> for ReplyOpen {
    fn grant(self, (handle, flags): (FileHandle, FopenFlags)) {
        self.opened(handle, flags);
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

/// An answer to `create`.
pub(super) struct CreateReply {
    pub(super) reply: ReplyCreate,
    pub(super) passthrough: Arc<Passthrough>,
}

impl Answer<(Shown, OpenedFile)> for CreateReply {
    fn grant(self, (shown, opened): (Shown, OpenedFile)) {
        let Self { reply, passthrough } = self;
        let (handle, mut flags) = (FileHandle(opened.handle.0), open_flags(&opened));
        let tell = |local: &std::fs::File| reply.open_backing(local);
        let ino = shown.attr.ino.0;
        match passthrough.opened(ino, &*opened.file, opened.mode, tell) {
            // It was there already, and is open like that.
            Some(backing) => {
                flags.remove(FopenFlags::FOPEN_KEEP_CACHE);
                let (ttl, attr) = (&shown.ttl, &shown.attr);
                reply.created_passthrough(ttl, attr, GENERATION, handle, flags, &backing);
            }
            None => reply.created(&shown.ttl, &shown.attr, GENERATION, handle, flags),
        }
    }

    fn refuse(self, errno: Errno) {
        self.reply.error(errno);
    }
}

impl Answer<u32> for ReplyWrite {
    fn grant(self, len: u32) {
        self.written(len);
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Answer<u64> for ReplyLseek {
    fn grant(self, offset: u64) {
        self.offset(i64::try_from(offset).unwrap_or(i64::MAX));
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Answer<Space> for ReplyStatfs {
    fn grant(self, space: Space) {
        let block = u32::try_from(BLOCK).unwrap_or_default();
        self.statfs(
            space.total / BLOCK,
            space.free / BLOCK,
            space.available / BLOCK,
            space.files,
            space.files_free,
            block,
            NAME_MAX,
            block,
        );
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

/// Adds an entry to a listing with attributes; tells whether it didn't fit any more.
pub(super) fn add_entry(
    reply: &mut ReplyDirectoryPlus,
    shown: &Shown,
    next_offset: u64,
    name: &[u8],
) -> bool {
    let name = std::os::unix::ffi::OsStrExt::from_bytes(name);
    let name: &std::ffi::OsStr = name;
    reply.add(shown.attr.ino, next_offset, name, &shown.ttl, &shown.attr, GENERATION)
}

/// The type of a node in fuser's words.
pub(super) fn kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::File => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

fn open_flags(opened: &OpenedFile) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    match opened.file.page_cache() {
        PageCache::Keep => flags |= FopenFlags::FOPEN_KEEP_CACHE,
        PageCache::PerOpen => {}
        PageCache::Never => flags |= FopenFlags::FOPEN_DIRECT_IO,
    }
    if !opened.mode.writes() || !opened.file.flushes() {
        // Nothing was written, or all of it was answered: close(2) has nothing to report.
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    flags
}
