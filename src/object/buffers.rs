//! Buffers that are used again: to clear the pages of a fresh one costs the kernel more than it
//! costs us to fill them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::direct::room_for;

/// The least that is worth it, in bytes: the allocator keeps smaller ones by itself.
const LEAST: usize = 128 << 10;

/// Buffers that nobody uses now. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Buffers(Arc<Mutex<Spare>>);

#[derive(Debug)]
struct Spare {
    /// The one that was used last is the last. They hold what they held then.
    buffers: VecDeque<BytesMut>,
    bytes: usize,
    most: usize,
}

impl Default for Buffers {
    /// For a few who read at the same time.
    fn default() -> Self {
        Self::new(8 << 20)
    }
}

impl Buffers {
    /// None yet, of which at most so many bytes lie there for later.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Spare { buffers: VecDeque::new(), bytes: 0, most })))
    }

    /// An empty buffer for so many bytes.
    pub(crate) fn take(&self, len: usize) -> BytesMut {
        let mut buffer = self.take_as_it_is(len);
        buffer.clear();
        buffer
    }

    /// A buffer of so many bytes, whatever they are: all of them are to be written over.
    pub(crate) fn take_to_overwrite(&self, len: usize) -> BytesMut {
        let mut buffer = self.take_as_it_is(len);
        buffer.resize(len, 0);
        buffer
    }

    /// Reads `len` bytes of a local file at `offset`; shorter only where it ends.
    ///
    /// # Errors
    /// Those of `pread(2)`.
    pub(crate) fn read(&self, file: impl AsFd, offset: u64, len: usize) -> io::Result<Bytes> {
        if len < LEAST {
            return Ok(read_fresh(file, offset, len)?.into());
        }
        let mut buffer = self.take_to_overwrite(len);
        let mut filled = 0;
        while filled < len {
            match rustix::io::pread(&file, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        buffer.truncate(filled);
        Ok(self.lend(buffer))
    }

    /// The bytes of a buffer, which comes back when the last who reads them is gone.
    pub(crate) fn lend(&self, buffer: BytesMut) -> Bytes {
        if buffer.capacity() < LEAST {
            return buffer.freeze();
        }
        Bytes::from_owner(Lent { buffer, buffers: self.clone() })
    }

    fn take_as_it_is(&self, len: usize) -> BytesMut {
        if len < LEAST {
            return room_for(len);
        }
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &BytesMut| (len..=len.saturating_mul(2)).contains(&buffer.capacity());
        let found = spare.buffers.iter().rposition(fits);
        match found.and_then(|at| spare.buffers.remove(at)) {
            Some(buffer) => {
                spare.bytes -= buffer.capacity();
                buffer
            }
            None => room_for(len),
        }
    }

    fn take_back(&self, buffer: BytesMut) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.bytes += buffer.capacity();
        spare.buffers.push_back(buffer);
        while spare.bytes > spare.most
            && let Some(oldest) = spare.buffers.pop_front()
        {
            spare.bytes -= oldest.capacity();
        }
    }
}

/// Reads `len` bytes of a local file at `offset` into a fresh buffer; shorter only where it ends.
///
/// # Errors
/// Those of `pread(2)`.
pub(crate) fn read_fresh(file: impl AsFd, offset: u64, len: usize) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset.checked_add(bytes.len() as u64).ok_or(Errno::INVAL)?;
        match rustix::io::pread(&file, spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// A buffer whose bytes are read.
struct Lent {
    buffer: BytesMut,
    buffers: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.buffers.take_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 32 << 20;

    fn filled(buffers: &Buffers, byte: u8, len: usize) -> Bytes {
        let mut buffer = buffers.take(len);
        buffer.resize(len, byte);
        buffers.lend(buffer)
    }

    #[test]
    fn a_buffer_is_used_again_when_nobody_reads_it_any_more() {
        let buffers = Buffers::new(MOST);
        let one = filled(&buffers, 1, 1 << 20);
        let (place, part) = (one.as_ptr(), one.slice(5..10));
        drop(one);
        let two = filled(&buffers, 2, 1 << 20);
        assert_ne!(two.as_ptr(), place);
        assert_eq!(part, [1; 5][..]);
        drop(part);
        let three = filled(&buffers, 3, 700 << 10);
        assert_eq!(three.as_ptr(), place);
        assert!(three.len() == 700 << 10 && three.iter().all(|byte| *byte == 3));
        assert!(two.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn a_file_is_read_to_its_end_and_no_further() {
        use std::io::Write as _;

        let buffers = Buffers::new(MOST);
        let content: Vec<u8> = (0..600_000_u32).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for (offset, len) in [(0, 300_000), (5, 10), (400_000, 300_000), (599_999, 300_000)] {
            let bytes = buffers.read(&file, offset as u64, len).unwrap();
            assert_eq!(bytes, content[offset..content.len().min(offset + len)]);
        }
        assert!(buffers.read(&file, 600_000, 300_000).unwrap().is_empty());
    }

    #[test]
    fn little_lies_there_and_none_that_is_far_too_large() {
        let buffers = Buffers::new(MOST);
        let many: Vec<_> = (0..20).map(|byte| filled(&buffers, byte, 4 << 20)).collect();
        drop(many);
        let lying = || {
            let spare = buffers.0.lock().unwrap();
            (spare.bytes, spare.buffers.iter().map(BytesMut::capacity).sum::<usize>())
        };
        assert!(lying().0 <= MOST && lying().0 > MOST / 2);
        let before = lying().0;
        drop(buffers.take(1 << 20));
        assert_eq!(lying(), (before, before));
        drop(buffers.take(4 << 20));
        assert!(lying().0 < before);
    }
}
