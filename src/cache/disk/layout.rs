//! How a version of an object lies on disk: which files hold it, and how its bytes are checked.

use std::ops::Range;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::cache::ObjectVersion;
use crate::object::ETag;

/// How many bytes one checksum covers: the least that is fetched, so that what a random reader
/// fetches can be kept.
pub const GRANULE: u64 = 16 << 10;

/// The same, as the length of a slice.
const GRANULE_LEN: usize = 16 << 10;

/// Objects up to this size keep their tail in the file of their bytes: a second file would cost
/// as much as the first. Larger ones have a file of nothing but bytes, for the kernel to read.
pub(super) const LARGEST_IN_ONE_FILE: u64 = 256 << 10;

/// What the name of the file that holds the tail of a larger object ends in.
pub(super) const TAIL_SUFFIX: &str = ".tail";

/// An entry is a checksum and the same again with these bits turned: a hole isn't one.
const MARK: u32 = 0x5aa5_c33c;

/// The length of an entry in bytes.
pub(super) const ENTRY: u64 = 8;

/// The same, as the length of a slice.
const ENTRY_LEN: usize = 8;

/// The length of a seal in bytes.
pub(super) const SEAL: u64 = 32;

/// What an identity begins with.
const MAGIC: &[u8; 8] = b"atelier2";

/// Longer than any key with its bucket, host and version.
const LONGEST_IDENTITY: usize = 16 << 10;

/// How long the hexadecimal name of a version is.
pub(super) const NAME: usize = 32;

/// Where the parts of a version of an object are.
///
/// The bytes are at their own offsets. The tail is one entry for each 16 KiB, zero while they
/// aren't there, of a larger object a seal, and the identity, whose hash is the file's name. A tail
/// that is cut off has no identity, so that its object isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The hash of the identity, as the first 16 bytes of its SHA-256.
    pub(super) name: String,
    /// The length of the object.
    pub(super) size: u64,
    /// Which object, which version.
    pub(super) identity: Vec<u8>,
    /// What each checksum starts from, so that no other object's bytes fit.
    seed: u32,
}

impl Layout {
    /// The layout of a version; `None` for one that can't be kept, since it is empty or its
    /// entity tag doesn't say that bytes are the same (RFC 9110, section 8.8.1).
    pub(super) fn of(version: &ObjectVersion) -> Option<Self> {
        let ETag(etag) = &version.etag;
        if version.size == 0 || etag.is_empty() || etag.starts_with("W/") {
            return None;
        }
        let object = version.object.as_bytes();
        let mut identity = Vec::with_capacity(MAGIC.len() + 16 + object.len() + etag.len());
        identity.extend_from_slice(MAGIC);
        identity.extend(version.size.to_le_bytes());
        identity.extend(u32::try_from(object.len()).ok()?.to_le_bytes());
        identity.extend_from_slice(object);
        identity.extend_from_slice(etag.as_bytes());
        let len = u32::try_from(identity.len() + 4).ok()?;
        identity.extend(len.to_le_bytes());
        (identity.len() <= LONGEST_IDENTITY).then(|| Self::from_identity(version.size, identity))
    }

    fn from_identity(size: u64, identity: Vec<u8>) -> Self {
        let hash = Sha256::digest(&identity);
        let name = HEXLOWER.encode(&hash[..NAME / 2]);
        let seed = u32::from_le_bytes([hash[16], hash[17], hash[18], hash[19]]);
        Self { name, size, identity, seed }
    }

    /// Reads an identity, and whose it is; `None` when it is none.
    pub(super) fn parse(identity: &[u8]) -> Option<(Self, ObjectVersion)> {
        let rest = identity.strip_prefix(MAGIC)?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (object_len, rest) = rest.split_first_chunk::<4>()?;
        let object_len = usize::try_from(u32::from_le_bytes(*object_len)).ok()?;
        let (object, rest) = rest.split_at_checked(object_len)?;
        let (etag, len) = rest.split_last_chunk::<4>()?;
        let version = ObjectVersion {
            object: str::from_utf8(object).ok()?.into(),
            etag: ETag(str::from_utf8(etag).ok()?.to_owned()),
            size: u64::from_le_bytes(*size),
        };
        let whole = usize::try_from(u32::from_le_bytes(*len)).ok()? == identity.len();
        let layout = Self::of(&version).filter(|_| whole)?;
        Some((layout, version))
    }

    /// How many bytes from the end of a file its identity begins, by its last four bytes.
    pub(super) fn identity_len(last: [u8; 4]) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(last)).ok().filter(|len| *len <= LONGEST_IDENTITY)
    }

    /// Whether bytes and tail are in one file.
    pub(super) fn is_one_file(&self) -> bool {
        self.size <= LARGEST_IN_ONE_FILE
    }

    /// The file of the bytes.
    pub(super) fn data_path(&self, root: &Path) -> PathBuf {
        data_path(root, &self.name)
    }

    /// The file of the tail, if it is another one.
    pub(super) fn tail_path(&self, root: &Path) -> Option<PathBuf> {
        (!self.is_one_file()).then(|| tail_path(root, &self.name))
    }

    /// How many entries there are.
    pub(super) fn granules(&self) -> u64 {
        self.size.div_ceil(GRANULE)
    }

    /// Where the entry of a granule is in the file of the tail.
    pub(super) fn entry_at(&self, granule: u64) -> u64 {
        self.tail_at() + granule * ENTRY
    }

    /// Where the seal is in the file of the tail, of an object that has one.
    pub(super) fn seal_at(&self) -> u64 {
        self.entry_at(self.granules())
    }

    /// Where the identity is in the file of the tail; it ends that file.
    pub(super) fn identity_at(&self) -> u64 {
        self.seal_at() + if self.is_one_file() { 0 } else { SEAL }
    }

    /// All that the file of a small object holds.
    pub(super) fn whole_file(&self, bytes: &[u8]) -> Vec<u8> {
        let entries =
            (0..).zip(bytes.chunks(GRANULE_LEN)).flat_map(|(at, part)| self.entry(at, part));
        let mut file = Vec::with_capacity(bytes.len() + 256 + self.identity.len());
        file.extend_from_slice(bytes);
        file.resize(bytes.len().next_multiple_of(ENTRY_LEN), 0);
        file.extend(entries);
        file.extend_from_slice(&self.identity);
        file
    }

    /// Where the tail begins in its file, so that each entry is written as a whole.
    fn tail_at(&self) -> u64 {
        if self.is_one_file() { self.size.next_multiple_of(ENTRY) } else { 0 }
    }

    /// The granules that hold `bytes`.
    pub(super) fn granules_of(&self, bytes: &Range<u64>) -> Range<u64> {
        bytes.start / GRANULE..bytes.end.min(self.size).div_ceil(GRANULE)
    }

    /// The bytes of a run of granules.
    pub(super) fn bytes_of(&self, granules: &Range<u64>) -> Range<u64> {
        granules.start * GRANULE..(granules.end * GRANULE).min(self.size)
    }

    /// The entry of a granule with these bytes.
    pub(super) fn entry(&self, granule: u64, bytes: &[u8]) -> [u8; 8] {
        let sum = self.sum(granule, bytes);
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&sum.to_le_bytes());
        entry[4..].copy_from_slice(&(sum ^ MARK).to_le_bytes());
        entry
    }

    /// Whether these are the bytes of a granule with this checksum.
    pub(super) fn fits(&self, granule: u64, bytes: &[u8], sum: u32) -> bool {
        self.sum(granule, bytes) == sum
    }

    #[allow(clippy::cast_possible_truncation)] // Any mixture of the number will do.
    fn sum(&self, granule: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed.wrapping_add(granule as u32), bytes)
    }
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The granule isn't there.
    Absent,
    /// It is, with this checksum.
    Sum(u32),
    /// This was never written.
    Damaged,
}

impl Entry {
    /// Reads an entry.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let half = |at: usize| {
            bytes
                .get(at..at + 4)
                .and_then(|half| half.try_into().ok())
                .map_or(0, u32::from_le_bytes)
        };
        match (half(0), half(4)) {
            (0, 0) => Self::Absent,
            (sum, turned) if sum ^ MARK == turned => Self::Sum(sum),
            _ => Self::Damaged,
        }
    }
}

/// The directory of the files of a name.
pub(super) fn shelf_path(root: &Path, name: &str) -> PathBuf {
    root.join(name.get(..2).unwrap_or_default())
}

/// The file of the bytes of a name.
pub(super) fn data_path(root: &Path, name: &str) -> PathBuf {
    shelf_path(root, name).join(name)
}

/// The file of the tail of a name.
pub(super) fn tail_path(root: &Path, name: &str) -> PathBuf {
    shelf_path(root, name).join(format!("{name}{TAIL_SUFFIX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(object: &str, etag: &str, size: u64) -> ObjectVersion {
        ObjectVersion { object: object.into(), etag: ETag(etag.into()), size }
    }

    #[test]
    fn an_identity_is_read_back() {
        for (object, etag, size) in
            [("https://host/bucket/key", "\"1\"", 1), ("", "x", u64::MAX), ("ü\0/", "\"é\"", 7)]
        {
            let version = version(object, etag, size);
            let layout = Layout::of(&version).unwrap();
            assert_eq!(Layout::parse(&layout.identity), Some((layout.clone(), version)));
            let last = *layout.identity.last_chunk::<4>().unwrap();
            assert_eq!(Layout::identity_len(last), Some(layout.identity.len()));
            assert_eq!(Layout::parse(&layout.identity[..layout.identity.len() - 1]), None);
        }
    }

    #[test]
    fn each_part_of_an_identity_makes_another_name() {
        let name = |object, etag, size| Layout::of(&version(object, etag, size)).unwrap().name;
        let names = [name("ab", "c", 1), name("a", "bc", 1), name("ab", "c", 2), name("a", "c", 1)];
        for (at, one) in names.iter().enumerate() {
            assert_eq!(one.len(), NAME);
            assert!(names[at + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    fn what_names_no_bytes_is_not_kept() {
        assert_eq!(Layout::of(&version("a", "W/\"1\"", 1)), None);
        assert_eq!(Layout::of(&version("a", "", 1)), None);
        assert_eq!(Layout::of(&version("a", "\"1\"", 0)), None);
        assert_eq!(Layout::of(&version(&"a".repeat(20_000), "\"1\"", 1)), None);
    }

    #[test]
    fn an_entry_belongs_to_one_place_of_one_object() {
        let layout = Layout::of(&version("a", "\"1\"", 1 << 20)).unwrap();
        let other = Layout::of(&version("b", "\"1\"", 1 << 20)).unwrap();
        let Entry::Sum(sum) = Entry::parse(&layout.entry(3, b"bytes")) else { panic!("no sum") };
        assert!(layout.fits(3, b"bytes", sum));
        assert!(!layout.fits(3, b"bytez", sum));
        assert!(!layout.fits(4, b"bytes", sum));
        assert!(!other.fits(3, b"bytes", sum));
        assert_eq!(Entry::parse(&[0; 8]), Entry::Absent);
        assert_eq!(Entry::parse(&[1; 8]), Entry::Damaged);
        assert_eq!(Entry::parse(&[]), Entry::Absent);
    }

    #[test]
    fn bytes_and_granules_are_counted_alike() {
        let layout = Layout::of(&version("a", "\"1\"", 3 * GRANULE + 5)).unwrap();
        assert_eq!(layout.granules(), 4);
        assert_eq!(layout.granules_of(&(GRANULE - 1..GRANULE + 1)), 0..2);
        assert_eq!(layout.granules_of(&(0..u64::MAX)), 0..4);
        assert_eq!(layout.bytes_of(&(2..4)), 2 * GRANULE..3 * GRANULE + 5);
        assert!(layout.is_one_file());
        assert_eq!(layout.identity_at(), 3 * GRANULE + 8 + 4 * ENTRY);
    }
}
