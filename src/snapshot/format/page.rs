//! Pages of entries.

use std::cmp::Ordering;
use std::collections::HashMap;

use bytes::Bytes;

use super::decode::{Decoder, Result};
use super::{Content, Entry, encode};
use crate::chunk::{Flaw, Id, Run};

const MAGIC: [u8; 5] = *b"ATPG\x01";

/// Pages are cut so that they are this long on average, in bytes.
const AVERAGE_LEN: u64 = 64 << 10;

/// No page is cut before it has this length: a short one isn't worth a request.
const LEAST_LEN: u64 = 16 << 10;

/// A page of this length is cut, wherever it is.
const MOST_LEN: u64 = 512 << 10;

/// Entries that follow each other.
///
/// It holds the bytes it was read from and where each entry begins in them, and reads an entry
/// when it is asked for: so a million entries take little more memory than they do in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    bytes: Bytes,
    packs: Vec<Id>,
    directories: Vec<Bytes>,
    /// Where each entry begins.
    entries: Vec<u32>,
}

impl Page {
    /// Reads a page; each entry is checked, so that none fails later.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: Bytes) -> std::result::Result<Self, Flaw> {
        let mut decoder = Decoder::new(&bytes, MAGIC)?;
        let packs = decoder.list(Decoder::id)?;
        let directories = decoder.list(Decoder::bytes)?;
        let mut last = None;
        let entries = decoder.list(|decoder| {
            let start = u32::try_from(decoder.at()).map_err(|_| "it is too long")?;
            let key = key(decoder, &directories)?;
            if last.replace(key).is_some_and(|last| last >= key) {
                return Err("its entries aren't sorted");
            }
            entry(decoder, &packs)?;
            Ok(start)
        })?;
        decoder.end()?;
        Ok(Self { bytes, packs, directories, entries })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The packs that its entries need.
    pub fn packs(&self) -> &[Id] {
        &self.packs
    }

    /// The entry at a position: its directory, its name, and itself.
    pub fn get(&self, at: usize) -> Option<(Bytes, Bytes, Entry)> {
        let mut decoder = self.decoder(at)?;
        let directory = index(decoder.u64().ok()?, self.directories.len()).ok()?;
        let name = decoder.bytes().ok()?;
        Some((self.directories[directory].clone(), name, entry(&mut decoder, &self.packs).ok()?))
    }

    /// The directory and the name of the entry at a position.
    pub fn key(&self, at: usize) -> Option<(&[u8], &[u8])> {
        key(&mut self.decoder(at)?, &self.directories).ok()
    }

    /// The position of an entry, or where it would be.
    pub fn find(&self, directory: &[u8], name: &[u8]) -> std::result::Result<usize, usize> {
        // The order of keys is that of the pairs, since NUL is less than any byte of a path.
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.key(middle).cmp(&Some((directory, name))) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// What it takes in memory, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + self.bytes.len()
            + self.entries.capacity() * size_of::<u32>()
            + self.directories.capacity() * size_of::<Bytes>()
            + self.packs.capacity() * size_of::<Id>()
    }

    fn decoder(&self, at: usize) -> Option<Decoder<'_>> {
        Some(Decoder::resume(&self.bytes, *self.entries.get(at)? as usize))
    }
}

/// The directory and the name that an entry begins with.
fn key<'a>(decoder: &mut Decoder<'a>, directories: &'a [Bytes]) -> Result<(&'a [u8], &'a [u8])> {
    let directory = index(decoder.u64()?, directories.len())?;
    Ok((&directories[directory], decoder.borrowed()?))
}

/// What follows the key of an entry.
fn entry(decoder: &mut Decoder<'_>, packs: &[Id]) -> Result<Entry> {
    let kind = decoder.byte()?;
    let (mode, mtime) = (decoder.mode()?, decoder.mtime()?);
    let pack = |decoder: &mut Decoder<'_>| -> Result<Id> {
        Ok(packs[index(decoder.u64()?, packs.len())?])
    };
    let content = match kind {
        0 => Content::Directory,
        1 => Content::Symlink(decoder.bytes()?),
        2 => Content::Inline(decoder.bytes()?),
        3 => Content::Frame { pack: pack(decoder)?, place: decoder.place()?, id: decoder.id()? },
        4 => {
            let (size, id) = (decoder.u64()?, decoder.id()?);
            let runs = decoder.list(|decoder| {
                let pack = pack(decoder)?;
                Ok(Run { pack, first: decoder.u32()?, count: decoder.u32()?, len: decoder.u64()? })
            })?;
            let sum = runs.iter().try_fold(0_u64, |sum, run| sum.checked_add(run.len));
            if sum != Some(size) {
                return Err("a file's length isn't that of its parts");
            }
            Content::Runs { size, id, runs }
        }
        _ => return Err("an entry's kind is unknown"),
    };
    Ok(Entry { mode, mtime, content })
}

fn index(number: u64, len: usize) -> Result<usize> {
    let index = usize::try_from(number).ok().filter(|index| *index < len);
    index.ok_or("it refers to nothing")
}

/// About how long an entry is, in bytes, wherever it stands.
fn typical_len(name: &[u8], entry: &Entry) -> u64 {
    let content = match &entry.content {
        Content::Directory => 0,
        Content::Symlink(bytes) | Content::Inline(bytes) => bytes.len(),
        Content::Frame { .. } => Id::LEN + 12,
        Content::Runs { runs, .. } => Id::LEN + 8 + 12 * runs.len(),
    };
    (name.len() + 16 + content) as u64
}

/// Collects sorted entries and cuts them into pages at places that the entries choose.
#[derive(Debug, Default)]
pub struct PageBuilder {
    packs: Vec<Id>,
    pack_numbers: HashMap<Id, u64>,
    directories: Vec<Bytes>,
    records: Vec<u8>,
    count: u64,
    first: Option<Vec<u8>>,
}

/// A page that is ready to be stored.
#[derive(Debug)]
pub struct EncodedPage {
    /// The key of its first entry.
    pub first: Vec<u8>,
    /// How many entries it has.
    pub count: u64,
    /// Its bytes.
    pub bytes: Bytes,
    /// The packs that its entries need.
    pub packs: Vec<Id>,
}

impl PageBuilder {
    /// Whether the next entry begins a page.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the next entry; returns the page that ends with it, if one does.
    pub fn push(&mut self, directory: &Bytes, name: &[u8], entry: &Entry) -> Option<EncodedPage> {
        let key = [directory, &b"\0"[..], name].concat();
        if self.directories.last() != Some(directory) {
            self.directories.push(directory.clone());
        }
        encode::number(&mut self.records, self.directories.len() as u64 - 1);
        encode::bytes(&mut self.records, name);
        self.entry(entry);
        self.count += 1;
        // Whether an entry ends its page is its own choice, so that a change elsewhere moves no
        // end. The chance is in proportion to its length.
        let draw = u64::from_le_bytes(*Id::of(&key).as_bytes().first_chunk().unwrap_or(&[0; 8]));
        let chosen = draw % AVERAGE_LEN < typical_len(name, entry);
        let total = self.records.len() as u64;
        self.first.get_or_insert(key);
        ((chosen && total >= LEAST_LEN) || total >= MOST_LEN).then(|| self.cut()).flatten()
    }

    /// Ends the last page, if there is one.
    pub fn cut(&mut self) -> Option<EncodedPage> {
        let page = std::mem::take(self);
        let mut out = MAGIC.to_vec();
        encode::number(&mut out, page.packs.len() as u64);
        for pack in &page.packs {
            encode::id(&mut out, pack);
        }
        encode::number(&mut out, page.directories.len() as u64);
        for directory in &page.directories {
            encode::bytes(&mut out, directory);
        }
        encode::number(&mut out, page.count);
        out.extend_from_slice(&page.records);
        let (first, count, packs) = (page.first?, page.count, page.packs);
        Some(EncodedPage { first, count, bytes: out.into(), packs })
    }

    fn entry(&mut self, Entry { mode, mtime, content }: &Entry) {
        self.records.push(match content {
            Content::Directory => 0,
            Content::Symlink(_) => 1,
            Content::Inline(_) => 2,
            Content::Frame { .. } => 3,
            Content::Runs { .. } => 4,
        });
        encode::number(&mut self.records, *mode);
        encode::mtime(&mut self.records, *mtime);
        match content {
            Content::Directory => {}
            Content::Symlink(bytes) | Content::Inline(bytes) => {
                encode::bytes(&mut self.records, bytes);
            }
            Content::Frame { pack, place, id } => {
                self.pack(pack);
                encode::place(&mut self.records, place);
                encode::id(&mut self.records, id);
            }
            Content::Runs { size, id, runs } => {
                encode::number(&mut self.records, *size);
                encode::id(&mut self.records, id);
                encode::number(&mut self.records, runs.len() as u64);
                for run in runs {
                    self.pack(&run.pack);
                    encode::number(&mut self.records, run.first);
                    encode::number(&mut self.records, run.count);
                    encode::number(&mut self.records, run.len);
                }
            }
        }
    }

    fn pack(&mut self, pack: &Id) {
        let next = self.packs.len() as u64;
        let number = *self.pack_numbers.entry(*pack).or_insert_with(|| {
            self.packs.push(*pack);
            next
        });
        encode::number(&mut self.records, number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::{Codec, Place};
    use crate::snapshot::format::Mtime;

    fn encode(entries: &[(&str, &str, Entry)]) -> Bytes {
        let mut builder = PageBuilder::default();
        for (directory, name, entry) in entries {
            let directory = Bytes::copy_from_slice(directory.as_bytes());
            assert!(builder.push(&directory, name.as_bytes(), entry).is_none());
        }
        builder.cut().unwrap().bytes
    }

    fn entry(content: Content) -> Entry {
        Entry { mode: 0o644, mtime: Mtime { seconds: 1_700_000_000, nanos: 5 }, content }
    }

    fn samples() -> Vec<(&'static str, &'static str, Entry)> {
        let (pack, id) = (Id::of(b"pack"), Id::of(b"content"));
        let place = Place { offset: 300, stored_len: 700, plain_len: 5000, codec: Codec::Zstd };
        let run = |first| Run { pack, first, count: 2, len: 300_000 };
        let runs = vec![run(1), run(9)];
        vec![
            ("", "a", entry(Content::Directory)),
            ("", "link", entry(Content::Symlink("a/b".into()))),
            ("a", "frame", entry(Content::Frame { pack, place, id })),
            ("a", "inline", entry(Content::Inline("hello".into()))),
            ("a", "runs", entry(Content::Runs { size: 600_000, id, runs })),
        ]
    }

    #[test]
    fn a_page_reads_as_it_was_written() {
        let samples = samples();
        let page = Page::decode(encode(&samples)).unwrap();
        assert_eq!(page.len(), samples.len());
        for (at, (directory, name, entry)) in samples.iter().enumerate() {
            let found = page.get(at).unwrap();
            assert_eq!((&found.0[..], &found.1[..]), (directory.as_bytes(), name.as_bytes()));
            assert_eq!(&found.2, entry);
            assert_eq!(page.find(directory.as_bytes(), name.as_bytes()), Ok(at));
        }
        assert_eq!(page.find(b"a", b"g"), Err(3));
    }

    /// The bytes are a promise: versions of today must be readable for ever.
    #[test]
    fn a_page_is_these_bytes() {
        let hex = data_encoding::HEXLOWER.encode(&encode(&samples()));
        let (pack, id) = (Id::of(b"pack").to_string(), Id::of(b"content").to_string());
        let head = ["4154504701", "01", &pack, "02", "00", "0161", "05"].concat();
        let common = "a40380c49fd50c05";
        let expected = [
            head.as_str(),
            // directory, name, kind, mode and mtime, content
            "00",
            "0161",
            "00",
            common,
            "00",
            "046c696e6b",
            "01",
            common,
            "03612f62",
            "01",
            "056672616d65",
            "03",
            common,
            "00",
            "ac02bc05882701",
            &id,
            "01",
            "06696e6c696e65",
            "02",
            common,
            "0568656c6c6f",
            "01",
            "0472756e73",
            "04",
            common,
            "c0cf24",
            &id,
            "02",
            "000102e0a712",
            "000902e0a712",
        ];
        assert_eq!(hex, expected.concat());
    }

    #[test]
    fn a_page_of_a_later_version_is_known_to_be_that() {
        let mut later = encode(&samples()).to_vec();
        later[4] = 2;
        assert_eq!(Page::decode(later.into()).unwrap_err(), Flaw::Later(2));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), valid: bool) {
            if valid {
                bytes.splice(..0, MAGIC);
            }
            let _ = Page::decode(bytes.into());
        }

        #[test]
        fn a_damaged_page_is_an_error_or_another_page(at in 0_usize..300, bit in 0..8, cut: bool) {
            let whole = encode(&samples());
            let at = at % whole.len();
            if cut {
                prop_assert!(Page::decode(whole.slice(..at)).is_err());
            } else {
                let mut changed = whole.to_vec();
                changed[at] ^= 1_u8 << bit;
                if let Ok(page) = Page::decode(changed.into()) {
                    prop_assert_ne!(page, Page::decode(whole).unwrap());
                }
            }
        }

        #[test]
        fn pages_end_in_the_same_places_after_a_change(at in 0_usize..5000) {
            let name = |n: usize| format!("{n:05}");
            let cuts = |skip: Option<usize>| {
                let mut builder = PageBuilder::default();
                let content = |n: usize| Content::Inline(vec![0; n % 100].into());
                (0..5000)
                    .filter(|n| Some(*n) != skip)
                    .filter_map(|n| builder.push(&Bytes::new(), name(n).as_bytes(), &entry(content(n))))
                    .map(|page| Id::of(&page.bytes))
                    .collect::<Vec<_>>()
            };
            let (before, after) = (cuts(None), cuts(Some(at)));
            let new = after.iter().filter(|id| !before.contains(id)).count();
            prop_assert!(before.len() >= 3);
            prop_assert!(new <= 3, "{} of {} pages are new", new, after.len());
        }
    }
}
