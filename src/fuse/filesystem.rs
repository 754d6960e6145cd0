//! What the kernel asks, request by request.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::admission::Need;
use super::answer::{self, Answer as _, CreateReply, OpenReply, Shown, XattrReply};
use super::dispatch::{self, Fuse, drops_privileges, new_node};
use super::request;
use crate::tree::SetAttr;
use crate::vfs::Handle;

impl Filesystem for Fuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        dispatch::negotiate(config, &self.opens, &self.admission);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.metrics.lookups.add(1);
        let (vfs, name) = (self.admit(request, Need::of_lookup(parent.0)), name.to_owned());
        self.answer_entry("lookup", reply, async move {
            vfs.await?.lookup(parent.0, name.as_bytes()).await
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.vfs.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let vfs = self.vfs.clone();
        let handle = handle.map(|handle| Handle(handle.0));
        self.answer_attr("getattr", reply, ino.0, async move { vfs.stat(ino.0, handle).await });
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
        let changes = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(request::set_time),
            mtime: mtime.map(request::set_time),
        };
        let (vfs, drops) = (self.admit(request, Need::Content), drops_privileges(request));
        let handle = handle.map(|handle| Handle(handle.0));
        self.answer_attr("setattr", reply, ino.0, async move {
            vfs.await?.set_attr(ino.0, handle, changes, drops).await
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = self.admit(request, Need::Metadata);
        self.answer("readlink", reply, async move { vfs.await?.read_link(ino.0).await });
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
        let (vfs, name, new) =
            (self.admit(request, Need::Content), name.to_owned(), new_node(request, mode));
        self.answer_entry("mknod", reply, async move {
            let kind = request::file_type(mode)?;
            vfs.await?.create_node(parent.0, name.as_bytes(), new, kind, rdev.into()).await
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
        let (vfs, name, new) =
            (self.admit(request, Need::Content), name.to_owned(), new_node(request, mode));
        self.answer_entry("mkdir", reply, async move {
            vfs.await?.create_dir(parent.0, name.as_bytes(), new).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.admit(request, Need::Content), name.to_owned());
        self.answer("unlink", reply, async move {
            vfs.await?.remove_file(parent.0, name.as_bytes()).await
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.admit(request, Need::Content), name.to_owned());
        self.answer("rmdir", reply, async move {
            vfs.await?.remove_dir(parent.0, name.as_bytes()).await
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
        let (vfs, name, new) =
            (self.admit(request, Need::Content), name.to_owned(), new_node(request, 0o777));
        let target = target.as_os_str().to_owned();
        self.answer_entry("symlink", reply, async move {
            vfs.await?.symlink(parent.0, name.as_bytes(), target.as_bytes(), new).await
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (vfs, name, new_name) =
            (self.admit(request, Need::Content), name.to_owned(), new_name.to_owned());
        self.answer("rename", reply, async move {
            let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
            let mode = request::rename_mode(flags)?;
            vfs.await?.rename(parent.0, name, new_parent.0, new_name, mode).await
        });
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (vfs, name) = (self.admit(request, Need::Content), new_name.to_owned());
        self.answer_entry("link", reply, async move {
            vfs.await?.link(ino.0, new_parent.0, name.as_bytes()).await
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, drops) = (self.admit(request, Need::Content), drops_privileges(request));
        let mode = request::open_mode(flags);
        let reply = OpenReply { reply, ino: ino.0, passthrough: self.opens.clone() };
        self.answer("open", reply, async move { vfs.await?.open(ino.0, mode, drops).await });
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
        let (vfs, owner, name) = (self.admit(request, Need::Content), self.owner, name.to_owned());
        let new = new_node(request, mode);
        let (mode, exclusive) =
            (request::open_mode(OpenFlags(flags)), request::is_exclusive(flags));
        let reply = CreateReply { reply, passthrough: self.opens.clone() };
        self.answer("create", reply, async move {
            let name = name.as_bytes();
            let (known, opened) = vfs.await?.create(parent.0, name, new, mode, exclusive).await?;
            Ok((Shown::of(&known, owner), opened))
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
        self.metrics.kernel_reads.add(1);
        let vfs = self.vfs.clone();
        self.answer("read", reply, async move {
            vfs.read(Handle(handle.0), offset, size as usize).await
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
        self.answer("write", reply, async move {
            vfs.write(Handle(handle.0), offset, &data, drops).await?;
            Ok(u32::try_from(data.len()).unwrap_or(u32::MAX))
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
        self.answer("flush", reply, async move { vfs.flush(Handle(handle.0)).await });
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.opens.released(ino.0);
        self.vfs.release(Handle(handle.0));
        self.send(reply, "release", Ok(()));
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
        self.answer("fsync", reply, async move { vfs.sync(Handle(handle.0), data_only).await });
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, flags) = (self.admit(request, Need::Metadata), FopenFlags::empty());
        let work = async move { Ok((FileHandle(vfs.await?.open_dir(ino.0).0), flags)) };
        self.answer("opendir", reply, work);
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (vfs, metrics) = (self.vfs.clone(), self.metrics.clone());
        self.run(async move {
            let listed = vfs.read_dir(Handle(handle.0), offset, false, |entry| {
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
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (vfs, metrics, owner) = (self.vfs.clone(), self.metrics.clone(), self.owner);
        self.run(async move {
            let listed = vfs.read_dir(Handle(handle.0), offset, true, |entry| {
                let shown = Shown::new(entry.ino, entry.attr, owner);
                answer::add_entry(&mut reply, &shown, entry.next_offset, entry.name)
            });
            let listed = listed.await;
            reply.send("readdirplus", listed, &metrics);
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
        self.send(reply, "releasedir", Ok(()));
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
        self.answer("fsyncdir", reply, async move { vfs.sync_dir(ino.0).await });
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let vfs = self.vfs.clone();
        self.answer("statfs", reply, async move { vfs.space(ino.0).await });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, name) = (self.admit(request, Need::Content), name.to_owned());
        let (value, mode) = (Bytes::copy_from_slice(value), request::xattr_mode(flags));
        self.answer("setxattr", reply, async move {
            vfs.await?.set_xattr(ino.0, name.as_bytes(), &value, mode).await
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (admission, name) = (self.admission.clone(), name.to_owned());
        let vfs = self.admit(request, Need::Metadata);
        self.answer("getxattr", XattrReply { reply, size }, async move {
            match name.as_bytes() {
                list if admission.is_list(list) => admission.list(ino.0, list).await,
                name => vfs.await?.xattr(ino.0, name).await,
            }
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = self.admit(request, Need::Metadata);
        self.answer("listxattr", XattrReply { reply, size }, async move {
            let names = vfs.await?.xattrs(ino.0).await?;
            Ok(names.iter().flat_map(|name| name.iter().copied().chain([0])).collect::<Bytes>())
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.admit(request, Need::Content), name.to_owned());
        self.answer("removexattr", reply, async move {
            vfs.await?.remove_xattr(ino.0, name.as_bytes()).await
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
        self.answer("fallocate", reply, async move {
            vfs.allocate(Handle(handle.0), offset, len, mode.cast_unsigned()).await
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
        self.answer("lseek", reply, async move {
            let (offset, to) = request::seek_to(offset, whence)?;
            vfs.seek(Handle(handle.0), offset, to).await
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
        self.answer("copy_file_range", reply, async move {
            let (from, to) = ((Handle(from.0), offset_in), (Handle(to.0), offset_out));
            Ok(u32::try_from(vfs.copy(from, to, len).await?).unwrap_or(u32::MAX))
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
