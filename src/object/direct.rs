//! Writing past the kernel's cache: pages of what was just in memory would only cost what they push
//! out, and more time than the disk needs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::OnceLock;

use bytes::{Buf as _, BytesMut};
use rustix::fs::OFlags;

/// Places in memory and in files have to be multiples of it, wherever the kernel allows this at
/// all, see `O_DIRECT` in open(2).
const ALIGNMENT: usize = 4096;

/// The least that is written so: each of these writes waits for the disk.
const LEAST_DIRECT: usize = 512 << 10;

/// A second way into a file, opened when it is first of use.
#[derive(Debug, Default)]
pub(crate) struct Direct(OnceLock<Option<File>>);

impl Direct {
    /// Writes as much of the beginning of `bytes` to `file` as can be written so; tells how much.
    pub(crate) fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
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

/// A buffer for so many bytes: of many, in such a place that the disk can take them from there.
pub(crate) fn room_for(len: usize) -> BytesMut {
    if len < LEAST_DIRECT {
        return BytesMut::with_capacity(len);
    }
    let mut buffer = BytesMut::with_capacity(len + ALIGNMENT);
    let skipped = buffer.as_ptr().addr().next_multiple_of(ALIGNMENT) - buffer.as_ptr().addr();
    buffer.resize(skipped, 0);
    buffer.advance(skipped);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_lie_where_the_disk_takes_them_from() {
        for len in [LEAST_DIRECT, (1 << 20) + 5, 4 << 20] {
            let mut buffer = room_for(len);
            let place = buffer.as_ptr();
            buffer.extend_from_slice(&vec![1; len]);
            let bytes = buffer.freeze();
            assert!(place == bytes.as_ptr() && place.addr().is_multiple_of(ALIGNMENT));
            assert_eq!(bytes.len(), len);
        }
    }
}
