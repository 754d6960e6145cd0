//! The index of a zip archive, read as it is needed: see section 4 of PKWARE's APPNOTE.TXT.

use std::fs::File;
use std::io::{self, BufReader, Read, Take};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::bufread::DeflateDecoder;
use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use crate::snapshot::format::Mtime;

/// How much of an archive is read at a time, in bytes: most files in it are small.
const BUFFER: usize = 64 << 10;

/// Length of the record at the end of an archive, without its comment, in bytes.
const END_LEN: usize = 22;

/// Length of what tells where the record of a large archive is, in bytes.
const LOCATOR_LEN: usize = 20;

/// Stands for a number that has no room here and is elsewhere.
const ELSEWHERE: u64 = 0xffff_ffff;

/// The entries of an archive, in the order of its index.
pub(super) struct Index {
    reader: BufReader<Placed>,
    /// Where the index ends, in bytes.
    end: u64,
    /// How many bytes there are before the archive, such as a program that unpacks it.
    shift: u64,
    /// How many entries there should be still.
    left: u64,
}

/// What the index says of an entry.
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// Mode and type as Unix has them; 0 where the program that wrote it had none.
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
    /// Length of the plain bytes.
    pub(super) size: u64,
    /// Length in the archive.
    pub(super) stored: u64,
    flags: u16,
    method: u16,
    crc: u32,
    header: u64,
}

impl Index {
    /// Finds the index of an archive.
    pub(super) fn find(file: &Arc<File>) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let tail_len = len.min(END_LEN as u64 + u64::from(u16::MAX));
        let mut tail = vec![0; usize::try_from(tail_len).map_err(|_| damaged("it is too long"))?];
        file.read_exact_at(&mut tail, len - tail_len)?;
        let at = (0..tail.len().saturating_sub(END_LEN - 1)).rev().find(|at| {
            let comment =
                tail.get(at + 20..at + 22).map_or(0, |field| usize::from(u16_at(field, 0)));
            tail[*at..].starts_with(b"PK\x05\x06") && at + END_LEN + comment <= tail.len()
        });
        let at = at.ok_or_else(|| damaged("the end of its index is missing"))?;
        let record = &tail[at..];
        let at = len - tail_len + at as u64;
        let small = (u16_at(record, 10).into(), u32_at(record, 12), u32_at(record, 16));
        let (count, size, offset, end) = match large(file, at)? {
            Some((count, size, offset, end)) => (count, size, offset, end),
            None => (small.0, small.1, small.2, at),
        };
        let start = end.checked_sub(size).ok_or_else(|| damaged("its index is too long"))?;
        let shift = start.checked_sub(offset).ok_or_else(|| damaged("its index is cut"))?;
        Ok(Self { reader: reader(file, start), end, shift, left: count })
    }

    fn read_next(&mut self) -> io::Result<Entry> {
        let mut fixed = [0; 46];
        self.reader.read_exact(&mut fixed)?;
        if !fixed.starts_with(b"PK\x01\x02") {
            return Err(damaged("its index is broken"));
        }
        let mut bytes = |len: u16| {
            let mut bytes = vec![0; len.into()];
            self.reader.read_exact(&mut bytes).map(|()| bytes)
        };
        let mut name = bytes(u16_at(&fixed, 28))?;
        let extra = bytes(u16_at(&fixed, 30))?;
        bytes(u16_at(&fixed, 32))?;
        let mut mtime = dos_time(u16_at(&fixed, 14), u16_at(&fixed, 12));
        let (mut stored, mut size) = (u32_at(&fixed, 20), u32_at(&fixed, 24));
        let mut header = u32_at(&fixed, 42);
        let mut has_ntfs = false;
        for (kind, field) in Fields(&extra) {
            match kind {
                // Those that have no room, in this order.
                0x0001 => {
                    let mut large = field.chunks_exact(8).map(|number| u64_at(number, 0));
                    for number in [&mut size, &mut stored, &mut header] {
                        if *number == ELSEWHERE {
                            *number = large.next().ok_or_else(|| damaged("a length is missing"))?;
                        }
                    }
                }
                // The name in UTF-8, if it is that of this name.
                0x7075 if field.len() > 5 && u32_at(field, 1) == crc_of(&name) => {
                    name = field[5..].to_vec();
                }
                // NTFS: four bytes reserved, a tag, its length, then three times.
                0x000a if field.len() >= 16 => {
                    mtime = ntfs_time(u64_at(field, 8)).unwrap_or(mtime);
                    has_ntfs = true;
                }
                0x5455 if field.len() >= 5 && field[0] & 1 == 1 && !has_ntfs => {
                    let seconds = u32_at(field, 1).cast_signed() << 32 >> 32;
                    mtime = Mtime { seconds, nanos: 0 };
                }
                _ => {}
            }
        }
        // Programs for Windows once wrote backslashes, against the rules.
        if fixed[5] == 0 && !name.contains(&b'/') {
            name.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
        }
        let header =
            header.checked_add(self.shift).ok_or_else(|| damaged("an entry is nowhere"))?;
        Ok(Entry {
            name,
            mode: (u32_at(&fixed, 38) >> 16).try_into().unwrap_or(0),
            mtime,
            size,
            stored,
            flags: u16_at(&fixed, 8),
            method: u16_at(&fixed, 10),
            crc: u32_at(&fixed, 16).try_into().unwrap_or(0),
            header,
        })
    }
}

impl Iterator for Index {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.reader.get_ref().at - self.reader.buffer().len() as u64;
        if at >= self.end {
            // Old programs count 65,536 entries as none.
            let missing = std::mem::take(&mut self.left) & 0xffff != 0;
            return missing.then(|| Err(damaged("entries are missing in its index")));
        }
        self.left = self.left.wrapping_sub(1);
        let next = self.read_next();
        if next.is_err() {
            (self.end, self.left) = (0, 0);
        }
        Some(next)
    }
}

impl Entry {
    /// Why it can't be read, though nothing is wrong with the archive.
    pub(super) fn unreadable(&self) -> Option<&'static str> {
        match (self.flags & 1, self.method) {
            (1, _) => Some("it is encrypted"),
            (_, 0 | 8) => None,
            _ => Some("it is compressed in a way that isn't read"),
        }
    }

    /// Its plain bytes; reading them to the end checks them.
    pub(super) fn open(&self, file: &Arc<File>) -> io::Result<impl Read> {
        let mut header = [0; 30];
        file.read_exact_at(&mut header, self.header)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(damaged("an entry isn't where its index says"));
        }
        let before = 30 + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let stored = reader(file, self.header.saturating_add(before)).take(self.stored);
        let plain = match self.method {
            0 => Plain::Stored(stored),
            _ => Plain::Deflated(DeflateDecoder::new(stored)),
        };
        // One that is longer than it says isn't read on and on.
        let plain = plain.take(self.size.saturating_add(1));
        Ok(Checked { plain, crc: crc32fast::Hasher::new(), len: 0, of: (self.size, self.crc) })
    }
}

/// The bytes of an entry, as they were before they were put into the archive.
enum Plain {
    Stored(Take<BufReader<Placed>>),
    Deflated(DeflateDecoder<Take<BufReader<Placed>>>),
}

impl Read for Plain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(stored) => stored.read(into),
            Self::Deflated(deflated) => deflated.read(into),
        }
    }
}

/// Bytes whose length and checksum are looked at when they end.
struct Checked<R> {
    plain: R,
    crc: crc32fast::Hasher,
    len: u64,
    /// What they should be.
    of: (u64, u32),
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.plain.read(into)?;
        self.crc.update(&into[..len]);
        self.len += len as u64;
        let ended = len == 0 && !into.is_empty();
        if (ended && (self.len, self.crc.clone().finalize()) != self.of) || self.len > self.of.0 {
            return Err(damaged("the checksum of an entry is another one"));
        }
        Ok(len)
    }
}

/// Count, length, place and end of the index of an archive that is too large for the small record
/// at `at`.
fn large(file: &File, at: u64) -> io::Result<Option<(u64, u64, u64, u64)>> {
    let Some(locator_at) = at.checked_sub(LOCATOR_LEN as u64) else { return Ok(None) };
    let mut locator = [0; LOCATOR_LEN];
    file.read_exact_at(&mut locator, locator_at)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    // Where it says, or right before where something lies before the archive.
    for record_at in [u64_at(&locator, 8), locator_at.saturating_sub(56)] {
        let mut record = [0; 56];
        if file.read_exact_at(&mut record, record_at).is_ok() && record.starts_with(b"PK\x06\x06") {
            let numbers = (u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48));
            return Ok(Some((numbers.0, numbers.1, numbers.2, record_at)));
        }
    }
    Err(damaged("the end of its index is missing"))
}

/// Extra fields: their kind and what they hold.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u16_at(head, 2).into())?;
        self.0 = rest;
        Some((u16_at(head, 0), field))
    }
}

/// A time of DOS, which counts two seconds at a place that nobody knows; it is taken for UTC.
fn dos_time(date: u16, time: u16) -> Mtime {
    let field = |of: u16, from: u32, bits: u32| i8::try_from(of >> from & ((1 << bits) - 1)).ok();
    let parsed = || {
        let year = i16::try_from(1980 + (date >> 9)).ok()?;
        let date = Date::new(year, field(date, 5, 4)?, field(date, 0, 5)?).ok()?;
        let second = (field(time, 0, 5)? * 2).min(59);
        let time = Time::new(field(time, 11, 5)?, field(time, 5, 6)?, second, 0).ok()?;
        TimeZone::UTC.to_timestamp(date.to_datetime(time)).ok()
    };
    Mtime { seconds: parsed().map_or(0, Timestamp::as_second), nanos: 0 }
}

/// A time of NTFS, which counts 100 ns since 1601.
fn ntfs_time(time: u64) -> Option<Mtime> {
    const TICKS: u64 = 10_000_000;
    const TO_1970: i64 = 11_644_473_600;
    let seconds = i64::try_from(time / TICKS).ok()?.checked_sub(TO_1970)?;
    Some(Mtime { seconds, nanos: u32::try_from(time % TICKS).ok()? * 100 })
}

fn crc_of(name: &[u8]) -> u64 {
    crc32fast::hash(name).into()
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Numbers are little-endian; those who ask know that there is one.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16_at(bytes, at)) | u64::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) | u32_at(bytes, at + 4) << 32
}

/// Reads a file from a place of its own, whoever else reads it.
struct Placed {
    file: Arc<File>,
    at: u64,
}

fn reader(file: &Arc<File>, at: u64) -> BufReader<Placed> {
    BufReader::with_capacity(BUFFER, Placed { file: file.clone(), at })
}

impl Read for Placed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(into, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        // 2001-09-09 01:46:40.
        let date = [21 << 9, 9 << 5, 9].iter().sum();
        let time = [1 << 11, 46 << 5, 20].iter().sum();
        assert_eq!(dos_time(date, time).seconds, 1_000_000_000);
        assert_eq!(dos_time(0, 0).seconds, 0, "there is no month 0");
        let ntfs = ntfs_time(116_444_736_000_000_005);
        assert_eq!(ntfs, Some(Mtime { seconds: 0, nanos: 500 }));
        assert_eq!(ntfs_time(0).unwrap().seconds, -11_644_473_600);
    }

    #[test]
    fn extra_fields_may_end_anywhere() {
        let bytes = [0x55, 0x54, 2, 0, 1, 2, 0x0a, 0, 0, 0];
        let fields: Vec<_> = Fields(&bytes).collect();
        assert_eq!(fields, [(0x5455, &[1, 2][..]), (0x000a, &[])]);
        for len in 0..bytes.len() {
            assert!(Fields(&bytes[..len]).count() < 2);
        }
    }
}
