//! A directory's entries with their attributes, read as they are asked for.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::Dir;
use rustix::io::Errno;

use super::attr::attr_at;
use crate::error::{Error, Result};
use crate::path::TreePath;
use crate::tree::{Attr, Entry};

/// An open directory that is being listed.
pub(super) struct Listing {
    path: TreePath,
    dir: Option<Dir>,
    error: Option<Errno>,
}

impl Listing {
    pub(super) fn new(path: TreePath, fd: OwnedFd) -> Self {
        match Dir::new(fd) {
            Ok(dir) => Self { path, dir: Some(dir), error: None },
            Err(errno) => Self { path, dir: None, error: Some(errno) },
        }
    }

    /// `None` for a name that was removed since it was read.
    fn attr(dir: &Dir, name: &CStr) -> rustix::io::Result<Option<Attr>> {
        match attr_at(dir.fd()?, name.to_bytes()) {
            Ok(attr) => Ok(Some(attr)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Iterator for Listing {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let failed = |errno: Errno, path: &TreePath| {
            Some(Err(Error::io(errno.into(), format!("{path} can't be listed"))))
        };
        if let Some(errno) = self.error.take() {
            return failed(errno, &self.path);
        }
        let dir = self.dir.as_mut()?;
        loop {
            let entry = match dir.read()? {
                Ok(entry) => entry,
                Err(errno) => return failed(errno, &self.path),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match Self::attr(dir, name) {
                Ok(Some(attr)) => {
                    let name = Bytes::copy_from_slice(name.to_bytes());
                    return Some(Ok(Entry { name, attr }));
                }
                Ok(None) => {}
                Err(errno) => return failed(errno, &self.path),
            }
        }
    }
}
