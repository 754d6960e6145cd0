//! Extended attributes of local files, also of those that can't be opened.

use std::os::fd::BorrowedFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use super::attr::proc_path;
use crate::tree::XattrMode;

/// Fits most values and lists, in bytes.
const USUAL_LEN: usize = 256;

/// The longest value, and the longest list of names, that Linux has, in bytes (`xattr(7)`).
const MAX_LEN: usize = 1 << 16;

/// The names of POSIX access control lists begin so. The mount doesn't enforce any, so none may
/// be set through it.
const ACCESS_LISTS: &[u8] = b"system.posix_acl_";

pub(super) fn read(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Bytes> {
    check(name)?;
    let path = proc_path(fd);
    read_growing(|buffer| rustix::fs::getxattr(&path, name, spare_capacity(buffer)))
}

/// The names, without those that [`read`] refuses.
pub(super) fn names(fd: BorrowedFd<'_>) -> Result<Vec<Bytes>> {
    let path = proc_path(fd);
    let list = match read_growing(|buffer| rustix::fs::listxattr(&path, spare_capacity(buffer))) {
        // Nothing can be there where nothing is kept.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let names = list.split(|byte| *byte == 0);
    Ok(names
        .filter(|name| !name.is_empty() && !name.starts_with(ACCESS_LISTS))
        .map(|name| list.slice_ref(name))
        .collect())
}

pub(super) fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
    check(name)?;
    let flags = match mode {
        XattrMode::Any => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    };
    rustix::fs::setxattr(proc_path(fd), name, value, flags)
}

pub(super) fn remove(fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    check(name)?;
    rustix::fs::removexattr(proc_path(fd), name)
}

fn check(name: &[u8]) -> Result<()> {
    if name.starts_with(ACCESS_LISTS) { Err(Errno::OPNOTSUPP) } else { Ok(()) }
}

fn read_growing(read: impl Fn(&mut Vec<u8>) -> Result<usize>) -> Result<Bytes> {
    let mut buffer = Vec::with_capacity(USUAL_LEN);
    match read(&mut buffer) {
        Err(Errno::RANGE) => {}
        other => return other.map(|_| buffer.into()),
    }
    let mut buffer = Vec::with_capacity(MAX_LEN);
    read(&mut buffer)?;
    Ok(buffer.into())
}
