//! Writing past the kernel's cache: what is kept was just handed to somebody else, so that pages of
//! it would only cost what they push out, and more time than the disk needs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::OnceLock;

use rustix::fs::OFlags;

/// Places in memory and in files have to be multiples of it, wherever the kernel allows this at
/// all, see `O_DIRECT` in open(2).
pub(in crate::cache) const ALIGNMENT: usize = 4096;

/// The least that is written so: each of these writes waits for the disk.
pub(in crate::cache) const LEAST_DIRECT: usize = 512 << 10;

/// A second way into a file, opened when it is first of use.
#[derive(Debug, Default)]
pub(super) struct Direct(OnceLock<Option<File>>);

impl Direct {
    /// Writes as much of the beginning of `bytes` to `file` as can be written so; tells how much.
    pub(super) fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let len = bytes.len() / ALIGNMENT * ALIGNMENT;
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
            && offset.is_multiple_of(ALIGNMENT as u64);
        if len < LEAST_DIRECT || !aligned {
            return Ok(0);
        }
        let Some(direct) = self.0.get_or_init(|| reopen(file).ok()) else { return Ok(0) };
        match direct.write_all_at(&bytes[..len], offset) {
            Ok(()) => Ok(len),
            // A file system that wants another alignment.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Opens the same file again, whatever is at its path by now.
fn reopen(file: &File) -> io::Result<File> {
    let flag = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(flag).open(path)
}
