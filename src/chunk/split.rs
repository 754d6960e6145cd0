//! Cuts the bytes of a large file where their content says so.

use std::io::{self, Read};

use bytes::Bytes;
use fastcdc::v2020::FastCDC;

/// Files up to this length, in bytes, are one frame.
pub const WHOLE: usize = 512 << 10;

/// The least, the aimed-at and the greatest length of a chunk, in bytes.
///
/// Everything in a store is cut with the same numbers, so that equal content meets.
const LENGTHS: (usize, usize, usize) = (16 << 10, 64 << 10, 256 << 10);

/// How much is read at a time, in bytes.
const BLOCK: usize = 4 << 20;

/// The chunks of a stream of bytes, cut by FastCDC v2020.
pub struct Chunks<R> {
    source: R,
    /// What was read and isn't handed out yet.
    rest: Bytes,
    ended: bool,
}

impl<R: Read> Chunks<R> {
    /// Cuts what `source` holds.
    pub fn new(source: R) -> Self {
        Self { source, rest: Bytes::new(), ended: false }
    }

    fn refill(&mut self) -> io::Result<()> {
        let mut block = Vec::with_capacity(self.rest.len() + BLOCK);
        block.extend_from_slice(&self.rest);
        let read = self.source.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        self.ended = read < BLOCK;
        self.rest = block.into();
        Ok(())
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let (least, average, most) = LENGTHS;
        // A cut depends on up to `most` bytes, so there must be as many, or the end.
        if self.rest.len() < most
            && !self.ended
            && let Err(error) = self.refill()
        {
            return Some(Err(error));
        }
        if self.rest.is_empty() {
            return None;
        }
        let (_, end) = FastCDC::new(&self.rest, least, average, most).cut(0, self.rest.len());
        Some(Ok(self.rest.split_to(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Id;

    /// Bytes that look random and are the same each time.
    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33).to_le_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }

    fn chunks(bytes: &[u8]) -> Vec<Bytes> {
        Chunks::new(bytes).collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn the_chunks_are_the_bytes() {
        for len in [0, 1, 16 << 10, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12_345] {
            let bytes = noise(len, 1);
            let chunks = chunks(&bytes);
            assert_eq!(chunks.concat(), bytes, "{len}");
            assert!(chunks.iter().all(|chunk| chunk.len() <= LENGTHS.2));
        }
        assert_eq!(chunks(&[]).len(), 0);
    }

    #[test]
    fn a_reader_that_gives_little_at_a_time_makes_no_difference() {
        struct Dribble<'a>(&'a [u8]);
        impl Read for Dribble<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let len = buffer.len().min(7777);
                self.0.read(&mut buffer[..len])
            }
        }
        let bytes = noise(9 << 20, 2);
        let dribbled: io::Result<Vec<_>> = Chunks::new(Dribble(&bytes)).collect();
        assert_eq!(dribbled.unwrap(), chunks(&bytes));
    }

    #[test]
    fn an_insertion_changes_the_chunks_around_it_only() {
        let mut bytes = noise(8 << 20, 3);
        let before: Vec<_> = chunks(&bytes).iter().map(|chunk| Id::of(chunk)).collect();
        bytes.splice((4 << 20)..(4 << 20), *b"something new");
        let after: Vec<_> = chunks(&bytes).iter().map(|chunk| Id::of(chunk)).collect();
        let new = after.iter().filter(|id| !before.contains(id)).count();
        assert!((1..=4).contains(&new), "{new} of {} chunks are new", after.len());
    }

    /// The cuts are a part of the format: other ones would store everything again.
    #[test]
    fn the_cuts_stay_where_they_are() {
        let lens: Vec<_> = chunks(&noise(1 << 20, 4)).iter().map(Bytes::len).collect();
        assert_eq!(lens.iter().sum::<usize>(), 1 << 20);
        assert_eq!(lens[..3], [41_606, 66_692, 65_745]);
    }
}
