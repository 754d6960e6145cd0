//! Buffers that are used again: to clear the pages of a fresh one costs the kernel more than it
//! costs us to fill them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::object::direct::room_for;

/// The least that is worth it, in bytes: the allocator keeps smaller ones by itself.
const LEAST: usize = 128 << 10;

/// The most bytes that lie there for later.
const MOST: usize = 32 << 20;

/// Buffers that nobody uses now. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Spare>>);

#[derive(Default)]
struct Spare {
    /// The one that was used last is the last.
    buffers: VecDeque<BytesMut>,
    bytes: usize,
}

impl Buffers {
    /// An empty buffer for so many bytes.
    pub(super) fn take(&self, len: usize) -> BytesMut {
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

    /// The bytes of a buffer, which comes back when the last who reads them is gone.
    pub(super) fn lend(&self, buffer: BytesMut) -> Bytes {
        if buffer.capacity() < LEAST {
            return buffer.freeze();
        }
        Bytes::from_owner(Lent { buffer, buffers: self.clone() })
    }

    fn take_back(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.bytes += buffer.capacity();
        spare.buffers.push_back(buffer);
        while spare.bytes > MOST
            && let Some(oldest) = spare.buffers.pop_front()
        {
            spare.bytes -= oldest.capacity();
        }
    }
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

    fn filled(buffers: &Buffers, byte: u8, len: usize) -> Bytes {
        let mut buffer = buffers.take(len);
        buffer.resize(len, byte);
        buffers.lend(buffer)
    }

    #[test]
    fn a_buffer_is_used_again_when_nobody_reads_it_any_more() {
        let buffers = Buffers::default();
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
    fn little_lies_there_and_none_that_is_far_too_large() {
        let buffers = Buffers::default();
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
