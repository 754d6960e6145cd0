//! FUSE: requests in, replies out.
//!
//! Thin on purpose: each request becomes a call of [`Vfs`], each result an [`Answer`]. A request is
//! polled once on the thread that took it. What is ready goes back without a thread switch; what
//! has to wait is spawned, so that a slow store holds none of the few FUSE threads.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use tokio::runtime;

use self::answer::{Answer, Shown, XattrReply};
use crate::tree::{NewNode, Owner, SetAttr, SetTime};
use crate::vfs::{Handle, Vfs};

pub use self::device::{Unmount, unmount};
pub use self::session::{Access, Flag, MountOptions, Session, mount};

mod answer;
mod device;
mod errno;
pub mod mounts;
mod request;
mod session;

/// The largest read or write, in bytes: what 256 pages hold, the kernel's default limit.
const MAX_REQUEST: u32 = 1 << 20;

/// How many requests that nobody waits for, such as read-ahead, may be under way.
///
/// The kernel's default of 12 starves several streams of read-ahead from a remote store.
const MAX_BACKGROUND: u16 = 128;

/// The front end that fuser calls.
struct Fuse {
    vfs: Arc<Vfs>,
    runtime: runtime::Handle,
    /// Whose a node is that has no owner of its own.
    owner: Owner,
}

impl Fuse {
    /// Polls the work once here and spawns it when it has to wait.
    ///
    /// When it panics its reply is dropped, which answers `EIO`; the thread lives on.
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _context = self.runtime.enter();
        let mut work = Box::pin(work);
        let mut context = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => drop(self.runtime.spawn(work)),
            Err(_) => tracing::error!("a request panicked and was answered with EIO"),
        }
    }

    fn new_node(&self, request: &Request, mode: u32) -> NewNode {
        // The kernel has taken the umask off: FUSE_DONT_MASK isn't negotiated.
        NewNode { mode: mode & 0o7777, owner: Owner { uid: request.uid(), gid: request.gid() } }
    }
}

/// Whether a change of the bytes takes off set-user-id bits: for all but root, who has CAP_FSETID.
fn drops_privileges(request: &Request) -> bool {
    request.uid() != 0
}

impl Filesystem for Fuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            // Without it the kernel asks for security.capability before every write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel can't do that");
            }
        }
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, owner, name) = (self.vfs.clone(), self.owner, name.to_owned());
        self.run(async move {
            let found = vfs.lookup(parent.0, name.as_bytes()).await;
            reply.send("lookup", found.map(|known| Shown::of(&known, owner)));
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.vfs.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, owner) = (self.vfs.clone(), self.owner);
        self.run(async move {
            let attr = vfs.stat(ino.0, handle.map(|handle| Handle(handle.0))).await;
            reply.send("getattr", attr.map(|attr| Shown::new(ino.0, &attr, owner)));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (vfs, owner, drops) = (self.vfs.clone(), self.owner, drops_privileges(request));
        let changes = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        self.run(async move {
            let handle = handle.map(|handle| Handle(handle.0));
            let attr = vfs.set_attr(ino.0, handle, changes, drops).await;
            reply.send("setattr", attr.map(|attr| Shown::new(ino.0, &attr, owner)));
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = self.vfs.clone();
        self.run(async move { reply.send("readlink", vfs.read_link(ino.0).await) });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (vfs, owner, name) = (self.vfs.clone(), self.owner, name.to_owned());
        let new = self.new_node(request, mode);
        self.run(async move {
            let made = match request::file_type(mode) {
                Ok(kind) => {
                    vfs.create_node(parent.0, name.as_bytes(), new, kind, rdev.into()).await
                }
                Err(error) => Err(error),
            };
            reply.send("mknod", made.map(|known| Shown::of(&known, owner)));
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (vfs, owner, name) = (self.vfs.clone(), self.owner, name.to_owned());
        let new = self.new_node(request, mode);
        self.run(async move {
            let made = vfs.create_dir(parent.0, name.as_bytes(), new).await;
            reply.send("mkdir", made.map(|known| Shown::of(&known, owner)));
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        self.run(async move {
            reply.send("unlink", vfs.remove_file(parent.0, name.as_bytes()).await);
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        self.run(async move {
            reply.send("rmdir", vfs.remove_dir(parent.0, name.as_bytes()).await);
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (vfs, owner, name) = (self.vfs.clone(), self.owner, name.to_owned());
        let (new, target) = (self.new_node(request, 0o777), target.to_owned());
        self.run(async move {
            let target = target.as_os_str().as_bytes();
            let made = vfs.symlink(parent.0, name.as_bytes(), target, new).await;
            reply.send("symlink", made.map(|known| Shown::of(&known, owner)));
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (vfs, name, new_name) = (self.vfs.clone(), name.to_owned(), new_name.to_owned());
        self.run(async move {
            let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
            let renamed = match request::rename_mode(flags) {
                Ok(mode) => vfs.rename(parent.0, name, new_parent.0, new_name, mode).await,
                Err(error) => Err(error),
            };
            reply.send("rename", renamed);
        });
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (vfs, owner, name) = (self.vfs.clone(), self.owner, new_name.to_owned());
        self.run(async move {
            let linked = vfs.link(ino.0, new_parent.0, name.as_bytes()).await;
            reply.send("link", linked.map(|known| Shown::of(&known, owner)));
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, drops) = (self.vfs.clone(), drops_privileges(request));
        self.run(async move {
            reply.send("open", vfs.open(ino.0, request::open_mode(flags), drops).await);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, owner, name) = (self.vfs.clone(), self.owner, name.to_owned());
        let new = self.new_node(request, mode);
        self.run(async move {
            let mode = request::open_mode(OpenFlags(flags));
            let exclusive = request::is_exclusive(flags);
            let made = vfs.create(parent.0, name.as_bytes(), new, mode, exclusive).await;
            reply.send("create", made.map(|(known, open)| (Shown::of(&known, owner), open)));
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move {
            reply.send("read", vfs.read(Handle(handle.0), offset, size as usize).await);
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let drops = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // Copied, since the work may outlive fuser's buffer.
        let (vfs, data) = (self.vfs.clone(), Bytes::copy_from_slice(data));
        self.run(async move {
            let written = vfs.write(Handle(handle.0), offset, &data, drops).await;
            let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
            reply.send("write", written.map(|()| len));
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move { reply.send("flush", vfs.flush(Handle(handle.0)).await) });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.vfs.release(Handle(handle.0));
        reply.send("release", Ok(()));
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move { reply.send("fsync", vfs.sync(Handle(handle.0), data_only).await) });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.vfs.open_dir(ino.0);
        reply.opened(FileHandle(handle.0), fuser::FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move {
            let listed = vfs.read_dir(Handle(handle.0), offset, false, |entry| {
                let kind = answer::kind(entry.attr.file_type);
                let name = OsStr::from_bytes(entry.name);
                reply.add(INodeNo(entry.ino), entry.next_offset, kind, name)
            });
            let listed = listed.await;
            reply.send("readdir", listed);
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (vfs, owner) = (self.vfs.clone(), self.owner);
        self.run(async move {
            let listed = vfs.read_dir(Handle(handle.0), offset, true, |entry| {
                let shown = Shown::new(entry.ino, entry.attr, owner);
                answer::add_entry(&mut reply, &shown, entry.next_offset, entry.name)
            });
            let listed = listed.await;
            reply.send("readdirplus", listed);
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.vfs.release_dir(Handle(handle.0));
        reply.send("releasedir", Ok(()));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move { reply.send("fsyncdir", vfs.sync_dir(ino.0).await) });
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let vfs = self.vfs.clone();
        self.run(async move { reply.send("statfs", vfs.space(ino.0).await) });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        let (value, mode) = (Bytes::copy_from_slice(value), request::xattr_mode(flags));
        self.run(async move {
            let set = vfs.set_xattr(ino.0, name.as_bytes(), &value, mode).await;
            reply.send("setxattr", set);
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        self.run(async move {
            let value = vfs.xattr(ino.0, name.as_bytes()).await;
            XattrReply { reply, size }.send("getxattr", value);
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = self.vfs.clone();
        self.run(async move {
            let names = vfs.xattrs(ino.0).await.map(|names| {
                names.iter().flat_map(|name| name.iter().copied().chain([0])).collect::<Bytes>()
            });
            XattrReply { reply, size }.send("listxattr", names);
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        self.run(async move {
            reply.send("removexattr", vfs.remove_xattr(ino.0, name.as_bytes()).await);
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move {
            let mode = mode.cast_unsigned();
            reply.send("fallocate", vfs.allocate(Handle(handle.0), offset, len, mode).await);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move {
            let found = match request::seek_to(offset, whence) {
                Ok((offset, to)) => vfs.seek(Handle(handle.0), offset, to).await,
                Err(error) => Err(error),
            };
            reply.send("lseek", found);
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        from: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        to: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let vfs = self.vfs.clone();
        self.run(async move {
            let (from, to) = ((Handle(from.0), offset_in), (Handle(to.0), offset_out));
            let copied = vfs.copy(from, to, len).await;
            reply.send("copy_file_range", copied.map(|len| u32::try_from(len).unwrap_or(u32::MAX)));
        });
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

    /// Says once and for all that files are always ready: here `ENOSYS` is meant to be permanent.
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

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time),
    }
}
