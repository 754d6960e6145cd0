//! Project storage: a local directory, reached only below one descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;

use self::attr::{attr_at, attr_of, change};
use self::file::LocalFile;
use self::listing::Listing;
use self::owner::Maker;
use self::root::{Place, Root};
use super::{
    Attr, Entry, File, FileType, NewNode, OpenMode, Opened, RenameMode, SetAttr, Space, Tree,
    XattrMode,
};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::path::TreePath;

mod attr;
mod file;
mod listing;
mod owner;
mod root;
mod xattr;

/// A local directory as a tree, at POSIX quality.
///
/// No symbolic link is ever followed, so nothing in the directory, and nothing that is swapped
/// underneath, leads outside: the kernel has resolved links before a path arrives here, and one
/// that is on the way nevertheless is a name that isn't a directory.
///
/// Short local work runs where it is asked for; only what waits for the disk goes to a thread.
pub struct LocalTree {
    root: Root,
    maker: Maker,
    runtime: Handle,
}

impl LocalTree {
    /// Opens a directory as a tree.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `PermissionDenied`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(dir: &Path) -> Result<Self> {
        let root = Root::open(dir).context(|| format!("{} can't be opened", dir.display()))?;
        Ok(Self { root, maker: Maker::new(), runtime: Handle::current() })
    }

    fn opened(&self, path: &TreePath, fd: OwnedFd) -> Arc<dyn File> {
        Arc::new(LocalFile::new(path.clone(), fd, self.runtime.clone()))
    }

    /// Makes a node by `make`, then gives it its owner and mode.
    fn make(
        &self,
        path: &TreePath,
        new: NewNode,
        file_type: FileType,
        make: impl FnOnce(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<Attr> {
        let place = self.place(path, Errno::EXIST)?;
        make(place.dir.as_fd(), place.name).context(|| format!("{path} can't be made"))?;
        let finish = || {
            let fd = place.open(OFlags::PATH)?;
            self.maker.claim(fd.as_fd(), file_type)?;
            self.maker.finish(place.dir.as_fd(), fd.as_fd(), new)
        };
        finish().context(|| format!("{path} can't be given its owner")).inspect_err(|_| {
            place.remove(file_type);
        })
    }

    fn place<'a>(&'a self, path: &'a TreePath, of_root: Errno) -> Result<Place<'a>> {
        let place = if path.is_root() { Err(of_root) } else { self.root.place(path) };
        place.context(|| format!("{path} can't be reached"))
    }

    fn open_path(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd> {
        self.root.open_entry(path, flags).context(|| format!("{path} can't be opened"))
    }
}

#[async_trait]
impl Tree for LocalTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        let attr = self.root.place(path).and_then(|place| attr_at(place.dir.as_fd(), place.name));
        attr.context(|| format!("{path} can't be examined")).map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.lasting(attr::FRESH),
            _ => error,
        })
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        match self.open_path(dir, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => stream::iter(Listing::new(dir.clone(), fd)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        // Without NONBLOCK a FIFO would wait here for its other end.
        let flags = access(mode) | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match self.root.open_entry(path, flags) {
            Err(Errno::NXIO | Errno::NODEV) => return Err(not_regular(path)),
            other => other.context(|| format!("{path} can't be opened"))?,
        };
        match attr_of(fd.as_fd()).context(|| format!("{path} can't be examined"))?.file_type {
            FileType::File => Ok(self.opened(path, fd)),
            FileType::Directory => {
                Err(Error::new(ErrorKind::IsADirectory, format!("{path} is a directory")))
            }
            _ => Err(not_regular(path)),
        }
    }

    async fn create(&self, path: &TreePath, new: NewNode, mode: OpenMode) -> Result<Opened> {
        let place = self.place(path, Errno::EXIST)?;
        let flags = access(mode) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let bits = Mode::from_raw_mode(new.mode & 0o7777);
        let fd = rustix::fs::openat(&place.dir, place.name, flags | OFlags::CLOEXEC, bits)
            .context(|| format!("{path} can't be made"))?;
        let attr = self
            .maker
            .finish(place.dir.as_fd(), fd.as_fd(), new)
            .context(|| format!("{path} can't be given its owner"))
            .inspect_err(|_| place.remove(FileType::File))?;
        Ok(Opened { attr, file: self.opened(path, fd) })
    }

    async fn create_dir(&self, path: &TreePath, new: NewNode) -> Result<Attr> {
        let mode = Mode::from_raw_mode(new.mode & 0o7777);
        self.make(path, new, FileType::Directory, |dir, name| rustix::fs::mkdirat(dir, name, mode))
    }

    async fn create_node(
        &self,
        path: &TreePath,
        new: NewNode,
        file_type: FileType,
        rdev: u64,
    ) -> Result<Attr> {
        let kind = match file_type {
            FileType::File => rustix::fs::FileType::RegularFile,
            FileType::Fifo => rustix::fs::FileType::Fifo,
            FileType::Socket => rustix::fs::FileType::Socket,
            FileType::CharDevice => rustix::fs::FileType::CharacterDevice,
            FileType::BlockDevice => rustix::fs::FileType::BlockDevice,
            FileType::Directory | FileType::Symlink => return Err(not_regular(path)),
        };
        let mode = Mode::from_raw_mode(new.mode & 0o7777);
        self.make(path, new, file_type, |dir, name| {
            rustix::fs::mknodat(dir, name, kind, mode, rdev)
        })
    }

    async fn symlink(&self, path: &TreePath, target: &[u8], new: NewNode) -> Result<Attr> {
        // Linux keeps no mode of a symbolic link; all have this one.
        let new = NewNode { mode: 0o777, ..new };
        self.make(path, new, FileType::Symlink, |dir, name| {
            rustix::fs::symlinkat(target, dir, name)
        })
    }

    async fn link(&self, path: &TreePath, new_path: &TreePath) -> Result<Attr> {
        let from = self.place(path, Errno::PERM)?;
        let to = self.place(new_path, Errno::EXIST)?;
        rustix::fs::linkat(&from.dir, from.name, &to.dir, to.name, AtFlags::empty())
            .and_then(|()| attr_at(to.dir.as_fd(), to.name))
            .context(|| format!("{path} can't be linked to {new_path}"))
    }

    async fn remove_file(&self, path: &TreePath) -> Result<()> {
        let place = self.place(path, Errno::ISDIR)?;
        rustix::fs::unlinkat(&place.dir, place.name, AtFlags::empty())
            .context(|| format!("{path} can't be removed"))
    }

    async fn remove_dir(&self, path: &TreePath) -> Result<()> {
        let place = self.place(path, Errno::BUSY)?;
        rustix::fs::unlinkat(&place.dir, place.name, AtFlags::REMOVEDIR)
            .context(|| format!("{path} can't be removed"))
    }

    async fn rename(&self, from: &TreePath, to: &TreePath, mode: RenameMode) -> Result<()> {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let old = self.place(from, Errno::BUSY)?;
        let new = self.place(to, Errno::BUSY)?;
        rustix::fs::renameat_with(&old.dir, old.name, &new.dir, new.name, flags)
            .context(|| format!("{from} can't be renamed to {to}"))
    }

    async fn set_attr(&self, path: &TreePath, changes: SetAttr) -> Result<Attr> {
        let fd = self.open_path(path, OFlags::PATH)?;
        change(fd.as_fd(), changes, |len| attr::truncate(fd.as_fd(), len))
            .context(|| format!("attributes of {path} can't be changed"))
    }

    async fn read_link(&self, path: &TreePath) -> Result<Bytes> {
        let place = self.root.place(path).context(|| format!("{path} can't be reached"))?;
        let target = rustix::fs::readlinkat(&place.dir, place.name, Vec::new())
            .context(|| format!("{path} can't be read as a symbolic link"))?;
        Ok(target.into_bytes().into())
    }

    async fn xattr(&self, path: &TreePath, name: &[u8]) -> Result<Bytes> {
        let fd = self.open_path(path, OFlags::PATH)?;
        xattr::read(fd.as_fd(), name).context(|| about_xattr(path, name, "read"))
    }

    async fn xattrs(&self, path: &TreePath) -> Result<Vec<Bytes>> {
        let fd = self.open_path(path, OFlags::PATH)?;
        xattr::names(fd.as_fd()).context(|| format!("attributes of {path} can't be listed"))
    }

    async fn set_xattr(
        &self,
        path: &TreePath,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let fd = self.open_path(path, OFlags::PATH)?;
        xattr::set(fd.as_fd(), name, value, mode).context(|| about_xattr(path, name, "set"))
    }

    async fn remove_xattr(&self, path: &TreePath, name: &[u8]) -> Result<()> {
        let fd = self.open_path(path, OFlags::PATH)?;
        xattr::remove(fd.as_fd(), name).context(|| about_xattr(path, name, "removed"))
    }

    async fn sync_dir(&self, dir: &TreePath) -> Result<()> {
        let fd = self.open_path(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        file::blocking(&self.runtime, move || rustix::fs::fsync(fd))
            .await
            .context(|| format!("directory {dir} can't be made durable"))
    }

    async fn space(&self, path: &TreePath) -> Result<Space> {
        let fd = self.open_path(path, OFlags::PATH)?;
        let stat = rustix::fs::fstatvfs(fd)
            .context(|| format!("the room where {path} lies can't be examined"))?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            files: stat.f_files,
            files_free: stat.f_ffree,
        })
    }
}

/// The flags of `open(2)` for a mode.
fn access(mode: OpenMode) -> OFlags {
    let mut flags = match (mode.read, mode.write || mode.append) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    flags.set(OFlags::APPEND, mode.append);
    flags.set(OFlags::TRUNC, mode.truncate);
    flags
}

fn not_regular(path: &TreePath) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{path} isn't a regular file"))
}

fn about_xattr(path: &TreePath, name: &[u8], done: &str) -> String {
    format!("attribute {} of {path} can't be {done}", name.escape_ascii())
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::os::unix::fs::symlink;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Waker};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::tree::{Owner, SeekTo};

    const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    fn tree() -> (tempfile::TempDir, LocalTree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = LocalTree::open(dir.path()).unwrap();
        (dir, tree)
    }

    fn me() -> Owner {
        let uid = rustix::process::geteuid().as_raw();
        Owner { uid, gid: rustix::process::getegid().as_raw() }
    }

    /// Someone else where this process may make files for others, else itself.
    fn caller() -> Owner {
        if me().uid == 0 { Owner { uid: 4711, gid: 4712 } } else { me() }
    }

    #[tokio::test]
    async fn a_new_node_belongs_to_the_caller_with_all_of_its_mode() {
        let (_dir, tree) = tree();
        let new = |mode| NewNode { mode, owner: caller() };
        let made = tree.create(&path("file"), new(0o4755), WRITE).await.unwrap();
        assert_eq!((made.attr.owner, made.attr.mode), (Some(caller()), 0o4755));
        let dir = tree.create_dir(&path("dir"), new(0o1777)).await.unwrap();
        assert_eq!((dir.owner, dir.mode), (Some(caller()), 0o1777));
        let link = tree.symlink(&path("link"), b"file", new(0o777)).await.unwrap();
        assert_eq!(link.owner, Some(caller()));
        let fifo = tree.create_node(&path("fifo"), new(0o600), FileType::Fifo, 0).await.unwrap();
        assert_eq!((fifo.owner, fifo.mode), (Some(caller()), 0o600));
    }

    #[tokio::test]
    async fn a_set_group_id_directory_passes_its_group_on() {
        let (_dir, tree) = tree();
        let own = NewNode { mode: 0o2775, owner: me() };
        let shared = tree.create_dir(&path("shared"), own).await.unwrap();
        let group = shared.owner.unwrap().gid;
        let new = NewNode { mode: 0o755, owner: caller() };
        let file = tree.create(&path("shared/file"), new, WRITE).await.unwrap().attr;
        assert_eq!((file.owner.unwrap().gid, file.mode), (group, 0o755));
        let below = tree.create_dir(&path("shared/below"), new).await.unwrap();
        assert_eq!((below.owner.unwrap().gid, below.mode), (group, 0o2755));
        assert_eq!(below.owner.unwrap().uid, caller().uid);
    }

    #[tokio::test]
    async fn a_device_keeps_its_number_where_this_process_may_make_one() {
        let (_dir, tree) = tree();
        let new = NewNode { mode: 0o600, owner: caller() };
        let null = rustix::fs::makedev(1, 3);
        match tree.create_node(&path("null"), new, FileType::CharDevice, null).await {
            Ok(attr) => assert_eq!((attr.file_type, attr.rdev), (FileType::CharDevice, null)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotPermitted),
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_swapped_for_a_link_leads_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), "outside").unwrap();
        let (dir, tree) = tree();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        std::fs::write(dir.path().join("dir/file"), "inside").unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let swapping = scope.spawn(|| {
                let (from, to) = (dir.path().join("dir"), dir.path().join("link"));
                while !done.load(Ordering::Relaxed) {
                    let flags = RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, &to, flags)
                        .unwrap();
                }
            });
            let mut outcomes = [0, 0];
            let file = path("dir/file");
            for _ in 0..20_000 {
                match tree.open(&file, OpenMode::READ).now_or_never().unwrap() {
                    Ok(file) => {
                        let read = file.read_at(0, 99).now_or_never().unwrap().unwrap();
                        assert_eq!(&read[..], b"inside");
                        outcomes[0] += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::NotADirectory);
                        outcomes[1] += 1;
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
            swapping.join().unwrap();
            assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
        });
    }

    #[tokio::test]
    async fn holes_are_found() {
        let (_dir, tree) = tree();
        let new = NewNode { mode: 0o644, owner: caller() };
        let file = tree.create(&path("sparse"), new, WRITE).await.unwrap().file;
        file.write_at(1 << 30, b"data").await.unwrap();
        let data = file.seek(0, SeekTo::Data).await.unwrap();
        assert!(data > 0 && data <= 1 << 30, "{data}");
        assert_eq!(file.seek(0, SeekTo::Hole).await.unwrap(), 0);
        assert_eq!(file.stat().await.unwrap().size, (1 << 30) + 4);
        let past = file.seek(1 << 31, SeekTo::Data).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::NoSuchAddress);
    }

    #[test]
    fn what_waits_for_the_disk_can_be_asked_for_on_a_thread_without_a_runtime() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let tree = runtime.block_on(async { LocalTree::open(dir.path()).unwrap() });
        let root = TreePath::root();
        let mut work = pin!(tree.sync_dir(&root));
        let first = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if first.is_pending() {
            runtime.block_on(work).unwrap();
        }
    }
}
