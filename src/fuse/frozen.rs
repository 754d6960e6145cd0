//! What the kernel asks of versions, which never change: names once, bytes once, opens never.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use bytes::Bytes;
use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyXattr, Request,
};

use super::admission::Need;
use super::answer::{self, Answer as _, Shown, XattrReply};
use super::dispatch::{self, Fuse};
use crate::vfs::frozen::Frozen;
use crate::vfs::frozen::push::Read;

/// Whether the kernel asks before it opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opens {
    /// Never: nobody but who mounted it may enter, and he may read everything in it.
    Unasked,
    /// Each time, so that who opens is checked.
    Asked,
}

/// How versions are read.
pub(super) struct Reading {
    pub(super) opens: Opens,
    /// Takes note of what is read.
    pub(super) noted: SyncSender<Read>,
}

impl Filesystem for Fuse<Frozen, Reading> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        dispatch::negotiate_reading(config);
        let unasked = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        if self.opens.opens == Opens::Unasked && config.add_capabilities(unasked).is_err() {
            self.opens.opens = Opens::Asked;
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.metrics.lookups.add(1);
        let (vfs, name) = (self.admit(request, Need::Metadata), name.to_owned());
        self.answer_entry("lookup", reply, async move {
            vfs.await?.lookup(parent.0, name.as_bytes()).await
        });
    }

    /// Nothing is known of an inode but its number, so there is nothing to forget.
    fn forget(&self, _request: &Request, _ino: INodeNo, _count: u64) {}

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let vfs = self.vfs.clone();
        self.answer_attr("getattr", reply, ino.0, async move { vfs.stat(ino.0).await });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = self.admit(request, Need::Metadata);
        self.answer("readlink", reply, async move { vfs.await?.read_link(ino.0).await });
    }

    /// The first `ENOSYS` tells the kernel not to ask again, see `FUSE_NO_OPEN_SUPPORT` in
    /// `linux/fuse.h`; from then on it keeps all pages from one open to the next.
    fn open(&self, request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.opens.opens {
            Opens::Unasked => reply.error(Errno::ENOSYS),
            Opens::Asked => {
                let vfs = self.admit(request, Need::Content);
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                let work = async move { vfs.await.map(|_| (FileHandle(0), flags)) };
                self.answer("open", reply, work);
            }
        }
    }

    /// The same for directories, whose listings the kernel then keeps while their time of change
    /// is the same.
    fn opendir(&self, request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.opens.opens {
            Opens::Unasked => reply.error(Errno::ENOSYS),
            Opens::Asked => {
                let vfs = self.admit(request, Need::Metadata);
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                let work = async move { vfs.await.map(|_| (FileHandle(0), flags)) };
                self.answer("opendir", reply, work);
            }
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.metrics.kernel_reads.add(1);
        let vfs = self.vfs.clone();
        self.answer("read", reply, async move { vfs.read(ino.0, offset, size as usize).await });
        // Whoever is too slow to take it misses nothing that he needs.
        let (at, len) = (Instant::now(), u64::from(size));
        let _ = self.opens.noted.try_send(Read { at, ino: ino.0, offset, len });
    }

    /// Says once and for all that a close has nothing to report.
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (vfs, metrics) = (self.vfs.clone(), self.metrics.clone());
        self.run(async move {
            let listed = vfs.read_dir(ino.0, offset, |entry| {
                let kind = answer::kind(entry.attr.file_type);
                let name = OsStr::from_bytes(entry.name);
                reply.add(INodeNo(entry.ino), entry.next_offset, kind, name)
            });
            let listed = listed.await;
            reply.send("readdir", listed, &metrics);
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (vfs, metrics, owner) = (self.vfs.clone(), self.metrics.clone(), self.owner);
        self.run(async move {
            let listed = vfs.read_dir(ino.0, offset, |entry| {
                let shown = Shown::new(entry.ino, entry.attr, owner);
                answer::add_entry(&mut reply, &shown, entry.next_offset, entry.name)
            });
            let listed = listed.await;
            reply.send("readdirplus", listed, &metrics);
        });
    }

    /// Tells of no room, as nothing can be written: so `df` doesn't count the disk twice.
    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.send(reply, "statfs", Ok(crate::tree::Space::default()));
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (vfs, name) = (self.admit(request, Need::Metadata), name.to_owned());
        self.answer("getxattr", XattrReply { reply, size }, async move {
            vfs.await?.xattr(ino.0, name.as_bytes())
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = self.admit(request, Need::Metadata);
        self.answer("listxattr", XattrReply { reply, size }, async move {
            let names = vfs.await?.xattrs(ino.0)?;
            Ok(names.iter().flat_map(|name| name.iter().copied().chain([0])).collect::<Bytes>())
        });
    }

    /// Says once and for all that files have no holes.
    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// Refuses as a regular file does, since programs ask every file whether it is a terminal.
    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Says once and for all that files are always ready.
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
