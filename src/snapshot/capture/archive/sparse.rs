//! Sparse files of pax archives, with their holes filled.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::pax::Sparse;

/// A map in front of the data ends at a multiple of this, in bytes.
const BLOCK: usize = 512;

/// No number in a map has more digits.
const DIGITS: usize = 20;

/// No map in front of the data has more pieces: it is kept in memory, and a few compressed bytes may
/// be as many pieces as one likes.
const MOST_PIECES: u64 = 1 << 20;

/// The bytes of a file of which only the data are in the archive.
pub(super) struct Expanded<R> {
    source: R,
    /// Where the data that are left belong: offset and length in bytes.
    map: VecDeque<(u64, u64)>,
    at: u64,
    size: u64,
}

impl<R: Read> Expanded<R> {
    /// # Errors
    /// `InvalidData` when the map makes no sense.
    pub(super) fn new(mut source: R, sparse: &Sparse) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a sparse file makes no sense");
        let map = if sparse.map_in_data { read_map(&mut source)? } else { sparse.map.clone() };
        let size = sparse.size.ok_or_else(invalid)?;
        let mut end = 0;
        for (offset, len) in &map {
            if *offset < end {
                return Err(invalid());
            }
            end = offset.checked_add(*len).filter(|end| *end <= size).ok_or_else(invalid)?;
        }
        Ok(Self { source, map: map.into(), at: 0, size })
    }

    /// Length with the holes, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let fit = |len: u64| usize::try_from(len).unwrap_or(usize::MAX).min(into.len());
        while self.map.front().is_some_and(|(offset, len)| offset + len <= self.at) {
            self.map.pop_front();
        }
        let hole_end = self.map.front().map_or(self.size, |(offset, _)| *offset);
        let len = if self.at < hole_end {
            let len = fit(hole_end - self.at);
            into[..len].fill(0);
            len
        } else if let Some((offset, len)) = self.map.front() {
            let len = fit(offset + len - self.at);
            let read = self.source.read(&mut into[..len])?;
            if read == 0 && len > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read
        } else {
            0
        };
        self.at += len as u64;
        Ok(len)
    }
}

/// Reads a map: how many pairs, then each offset and length, a decimal number a line, filled up to a
/// whole block.
fn read_map(source: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
    let mut consumed = 0_usize;
    let mut number = || {
        let mut text = String::new();
        loop {
            let mut byte = [0];
            source.read_exact(&mut byte)?;
            consumed += 1;
            match byte[0] {
                b'\n' => break,
                byte if text.len() < DIGITS => text.push(char::from(byte)),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        text.parse::<u64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    let mut map = Vec::new();
    let pieces = number()?;
    if pieces > MOST_PIECES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    for _ in 0..pieces {
        map.push((number()?, number()?));
    }
    let padding = consumed.next_multiple_of(BLOCK) - consumed;
    io::copy(&mut source.take(padding as u64), &mut io::sink())?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(source: &[u8], sparse: &Sparse) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Expanded::new(source, sparse)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn holes_are_zeros() {
        let map = vec![(2, 3), (5, 0), (7, 1)];
        let sparse = Sparse { size: Some(9), map, ..Sparse::default() };
        assert_eq!(expanded(b"abcd", &sparse).unwrap(), b"\0\0abc\0\0d\0");
        assert!(expanded(b"abc", &sparse).is_err(), "it ends early");
        let all = Sparse { size: Some(3), ..Sparse::default() };
        assert_eq!(expanded(b"", &all).unwrap(), [0; 3]);
    }

    #[test]
    fn a_map_may_be_in_front_of_the_data() {
        let sparse = Sparse { size: Some(4), map_in_data: true, ..Sparse::default() };
        let mut source = b"1\n2\n2\n".to_vec();
        source.resize(BLOCK, 0);
        source.extend(b"ab");
        assert_eq!(expanded(&source, &sparse).unwrap(), b"\0\0ab");
        for wrong in [&b"x\n"[..], b"1\n", b"99999999999999999999999\n", b"1\n3\n2\n", b"1048577\n"]
        {
            assert!(expanded(wrong, &sparse).is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn a_map_that_overlaps_or_leads_outside_is_refused() {
        for map in [vec![(0, 5), (4, 1)], vec![(8, 2)], vec![(u64::MAX, 2)]] {
            let sparse = Sparse { size: Some(9), map, ..Sparse::default() };
            assert!(expanded(&[1; 20], &sparse).is_err());
        }
    }
}
