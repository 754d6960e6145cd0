//! The way from the root's descriptor down to an entry, on which no symbolic link is followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use crate::path::TreePath;
use crate::tree::FileType;

/// The longest path, in bytes and with its NUL, that the kernel takes at once (`PATH_MAX`).
const MAX_PATH_LEN: usize = 4096;

/// A directory behind a descriptor, and everything below it.
pub(super) struct Root {
    fd: OwnedFd,
    /// Whether `openat2(2)` is there: Linux has it since 5.6, but some containers forbid it.
    openat2: bool,
}

/// A directory, and a name in it that may or may not be there.
pub(super) struct Place<'a> {
    pub(super) dir: Dir<'a>,
    /// `.` for the root itself.
    pub(super) name: &'a [u8],
}

/// A directory on the way.
pub(super) enum Dir<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

impl Place<'_> {
    /// Opens the entry itself.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, self.name, flags, Mode::empty())
    }

    /// Takes back a node that was just made and couldn't be finished.
    pub(super) fn remove(&self, file_type: FileType) {
        let flags = match file_type {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        // The failure that led here is the one to report.
        let _ = rustix::fs::unlinkat(&self.dir, self.name, flags);
    }
}

impl Root {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
        let openat2 = resolve(&fd, b".", OFlags::PATH).is_ok();
        Ok(Self { fd, openat2 })
    }

    /// Finds the directory an entry is in.
    ///
    /// # Errors
    /// `NOTDIR` when a name on the way is a symbolic link, like anything that isn't a directory.
    pub(super) fn place<'a>(&'a self, path: &'a TreePath) -> Result<Place<'a>> {
        let path = path.as_bytes();
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(end) => (Dir::Below(self.dir(&path[..end])?), &path[end + 1..]),
            None if path.is_empty() => (Dir::Root(self.fd.as_fd()), &b"."[..]),
            None => (Dir::Root(self.fd.as_fd()), path),
        };
        Ok(Place { dir, name })
    }

    /// Opens an entry itself.
    ///
    /// # Errors
    /// `LOOP` when the entry is a symbolic link, unless the flags have `PATH`; `NOTDIR` when one
    /// is on the way.
    pub(super) fn open_entry(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd> {
        if self.takes(path.as_bytes()) && !path.is_root() {
            match resolve(&self.fd, path.as_bytes(), flags) {
                // A link at the end or on the way? Going by the parent tells.
                Err(Errno::LOOP) => {}
                other => return other,
            }
        }
        self.place(path)?.open(flags)
    }

    fn dir(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if self.takes(path) {
            return resolve(&self.fd, path, flags).map_err(|errno| match errno {
                Errno::LOOP => Errno::NOTDIR,
                other => other,
            });
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut names = path.split(|byte| *byte == b'/');
        let first = names.next().unwrap_or(b".");
        let first = rustix::fs::openat(&self.fd, first, flags, Mode::empty())?;
        names.try_fold(first, |dir, name| rustix::fs::openat(&dir, name, flags, Mode::empty()))
    }

    fn takes(&self, path: &[u8]) -> bool {
        self.openat2 && path.len() < MAX_PATH_LEN
    }
}

fn resolve(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), below)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways down, so that the one for old kernels is as good as the other.
    fn roots(dir: &Path) -> [Root; 2] {
        let walking = Root { openat2: false, ..Root::open(dir).unwrap() };
        [Root::open(dir).unwrap(), walking]
    }

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[test]
    fn no_link_is_followed_on_either_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("a/etc")).unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("a/near")).unwrap();
        for root in roots(dir.path()) {
            let open = |text: &str, flags| root.open_entry(&path(text), flags).map(drop);
            assert_eq!(open("a/b/file", OFlags::RDONLY), Ok(()));
            assert_eq!(open("a/etc", OFlags::RDONLY), Err(Errno::LOOP));
            assert_eq!(open("a/etc", OFlags::PATH), Ok(()));
            assert_eq!(open("a/etc", OFlags::RDONLY | OFlags::DIRECTORY), Err(Errno::NOTDIR));
            assert_eq!(open("a/etc/passwd", OFlags::RDONLY), Err(Errno::NOTDIR));
            assert_eq!(open("a/near/file", OFlags::RDONLY), Err(Errno::NOTDIR));
            assert_eq!(open("a/b/file/below", OFlags::PATH), Err(Errno::NOTDIR));
            assert_eq!(open("a/none/below", OFlags::PATH), Err(Errno::NOENT));
            assert_eq!(root.open_entry(&TreePath::root(), OFlags::PATH).map(drop), Ok(()));
            let below = path("a/near/new");
            assert_eq!(root.place(&below).map(drop), Err(Errno::NOTDIR));
        }
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_walked() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut deep = TreePath::root();
        while deep.as_bytes().len() <= MAX_PATH_LEN {
            deep = deep.join(vec![b'n'; 200]).unwrap();
            let place = root.place(&deep).unwrap();
            rustix::fs::mkdirat(&place.dir, place.name, Mode::from_raw_mode(0o755)).unwrap();
        }
        assert!(root.open_entry(&deep, OFlags::PATH).is_ok());
    }
}
