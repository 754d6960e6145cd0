//! What a journal consists of: marks that begin and end.
//!
//! ```text
//! begin  1 (this entry) or 2 (all below it, too), number u64, length u32, path
//! end    3, number u64
//! ```
//!
//! Numbers are little-endian. Zeroes are no record: what was given back to the disk reads as such.

use crate::path::TreePath;
use crate::snapshot::Depth;

const BEGIN: u8 = 1;
const BEGIN_BELOW: u8 = 2;
const END: u8 = 3;

/// Length of what precedes a path, in bytes.
const HEAD: usize = 13;

/// One record of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// From here on the path may change.
    Begin { mark: u64, path: TreePath, depth: Depth },
    /// It doesn't any more.
    End { mark: u64 },
}

/// Why there is no record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The bytes end before it does: it isn't written yet.
    Unfinished,
    /// These bytes were never written as a record.
    Nonsense,
}

pub(super) fn begin(out: &mut Vec<u8>, mark: u64, path: &TreePath, depth: Depth) {
    let path = path.as_bytes();
    out.push(if depth == Depth::Entry { BEGIN } else { BEGIN_BELOW });
    out.extend_from_slice(&mark.to_le_bytes());
    out.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(path);
}

pub(super) fn end(out: &mut Vec<u8>, mark: u64) {
    out.push(END);
    out.extend_from_slice(&mark.to_le_bytes());
}

/// Reads the record that `bytes` begin with; tells its length, too.
pub(super) fn read(bytes: &[u8]) -> Result<(Record, usize), Absent> {
    let number = bytes.get(1..9).and_then(|number| number.first_chunk());
    let mark = number.map(|number| u64::from_le_bytes(*number)).ok_or(Absent::Unfinished);
    match bytes.first() {
        None => Err(Absent::Unfinished),
        Some(&END) => Ok((Record::End { mark: mark? }, 9)),
        Some(&kind @ (BEGIN | BEGIN_BELOW)) => {
            let mark = mark?;
            let len = bytes.get(9..HEAD).and_then(|len| len.first_chunk());
            let len = u32::from_le_bytes(*len.ok_or(Absent::Unfinished)?) as usize;
            let path = bytes.get(HEAD..HEAD + len).ok_or(Absent::Unfinished)?;
            let path = TreePath::parse(path).map_err(|_| Absent::Nonsense)?;
            let depth = if kind == BEGIN { Depth::Entry } else { Depth::Below };
            Ok((Record::Begin { mark, path, depth }, HEAD + len))
        }
        Some(_) => Err(Absent::Nonsense),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_as_they_were_written() {
        let mut bytes = Vec::new();
        let path = TreePath::parse("src/model.py").unwrap();
        begin(&mut bytes, 7, &path, Depth::Entry);
        let first = bytes.len();
        begin(&mut bytes, 8, &TreePath::root(), Depth::Below);
        let second = bytes.len() - first;
        end(&mut bytes, 7);
        let begun = Record::Begin { mark: 7, path, depth: Depth::Entry };
        assert_eq!(read(&bytes), Ok((begun, first)));
        let below = Record::Begin { mark: 8, path: TreePath::root(), depth: Depth::Below };
        assert_eq!(read(&bytes[first..]), Ok((below, second)));
        assert_eq!(read(&bytes[first + second..]), Ok((Record::End { mark: 7 }, 9)));
        assert_eq!(read(&[]), Err(Absent::Unfinished));
        assert_eq!(read(&[0; 64]), Err(Absent::Nonsense));
        for len in 1..first {
            assert_eq!(read(&bytes[..len]), Err(Absent::Unfinished), "{len}");
        }
    }
}
