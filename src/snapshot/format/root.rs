//! Roots: what a version is.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::decode::Decoder;
use super::{Content, Mtime, encode};
use crate::chunk::{Flaw, Id, Place};

const MAGIC: [u8; 5] = *b"ATRT\x01";

/// What a version is: its top directory, its totals, and its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Permission bits of the top directory.
    pub mode: u32,
    /// When the top directory was last changed.
    pub mtime: Mtime,
    /// What the version holds.
    pub totals: Totals,
    /// Bytes that mean nothing, where the root would have a name that can't be used any more.
    pub salt: Bytes,
    /// Its pages, in order.
    pub pages: Vec<PageRef>,
}

/// What a version holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories, without the top one.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// The lengths of all files, in bytes.
    pub bytes: u64,
}

impl Totals {
    /// Takes back an entry that was counted.
    pub fn uncount<P>(&mut self, content: &Content<P>) {
        let mut one = Self::default();
        one.count(content);
        self.files = self.files.saturating_sub(one.files);
        self.directories = self.directories.saturating_sub(one.directories);
        self.symlinks = self.symlinks.saturating_sub(one.symlinks);
        self.bytes = self.bytes.saturating_sub(one.bytes);
    }

    /// Counts an entry.
    pub fn count<P>(&mut self, content: &Content<P>) {
        match content {
            Content::Directory => self.directories += 1,
            Content::Symlink(_) => self.symlinks += 1,
            Content::Inline(_) | Content::Frame { .. } | Content::Runs { .. } => {
                self.files += 1;
                self.bytes += content.len();
            }
        }
    }
}

/// Where a page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// The key of its first entry.
    pub first: Bytes,
    /// How many entries it has.
    pub count: u64,
    /// The pack it is in, in the area of metadata.
    pub pack: Id,
    /// Where in the pack.
    pub place: Place,
    /// The hash of the page.
    pub id: Id,
}

impl Root {
    /// Reads a root.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &Bytes) -> Result<Self, Flaw> {
        let mut decoder = Decoder::new(bytes, MAGIC)?;
        let (mode, mtime) = (decoder.mode()?, decoder.mtime()?);
        let totals = Totals {
            files: decoder.u64()?,
            directories: decoder.u64()?,
            symlinks: decoder.u64()?,
            bytes: decoder.u64()?,
        };
        let salt = decoder.bytes()?;
        let packs = decoder.list(Decoder::id)?;
        let mut used = 0;
        let pages = decoder.list(|decoder| {
            let (first, count) = (decoder.bytes()?, decoder.u64()?);
            let number = usize::try_from(decoder.u64()?).ok().filter(|number| *number <= used);
            used = used.max(number.map_or(0, |number| number + 1));
            let pack = number.and_then(|number| packs.get(number));
            let pack = *pack.ok_or("it refers to nothing")?;
            Ok(PageRef { first, count, pack, place: decoder.place()?, id: decoder.id()? })
        })?;
        decoder.end()?;
        // Each once, in the order in which the pages need them: one version has one root.
        if used != packs.len() || packs.iter().collect::<HashSet<_>>().len() != packs.len() {
            return Err("its packs aren't those of its pages".into());
        }
        if !pages.is_sorted_by(|one, two| one.first < two.first) {
            return Err("its pages aren't sorted".into());
        }
        Ok(Self { mode, mtime, totals, salt, pages })
    }

    /// Writes it.
    pub fn encode(&self) -> Bytes {
        let mut packs: Vec<Id> = Vec::new();
        let mut pages = Vec::new();
        for page in &self.pages {
            // Pages fill one pack after the other, so the last ones are the likely ones.
            let number = packs.iter().rposition(|pack| *pack == page.pack).unwrap_or_else(|| {
                packs.push(page.pack);
                packs.len() - 1
            });
            encode::bytes(&mut pages, &page.first);
            encode::number(&mut pages, page.count);
            encode::number(&mut pages, number as u64);
            encode::place(&mut pages, &page.place);
            encode::id(&mut pages, &page.id);
        }
        let mut out = MAGIC.to_vec();
        encode::number(&mut out, self.mode);
        encode::mtime(&mut out, self.mtime);
        let Totals { files, directories, symlinks, bytes } = self.totals;
        for total in [files, directories, symlinks, bytes] {
            encode::number(&mut out, total);
        }
        encode::bytes(&mut out, &self.salt);
        encode::number(&mut out, packs.len() as u64);
        for pack in &packs {
            encode::id(&mut out, pack);
        }
        encode::number(&mut out, self.pages.len() as u64);
        out.extend_from_slice(&pages);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::Codec;

    fn sample() -> Root {
        let place = Place { offset: 1, stored_len: 200, plain_len: 65_536, codec: Codec::Zstd };
        let page = |first: &'static str, pack: &str| PageRef {
            first: first.into(),
            count: 700,
            pack: Id::of(pack.as_bytes()),
            place,
            id: Id::of(first.as_bytes()),
        };
        Root {
            mode: 0o755,
            mtime: Mtime { seconds: -1, nanos: 999_999_999 },
            totals: Totals { files: 1400, directories: 3, symlinks: 1, bytes: 1 << 40 },
            salt: Bytes::new(),
            pages: vec![page("\0a", "one"), page("b\0x", "two"), page("c\0", "one")],
        }
    }

    #[test]
    fn a_root_reads_as_it_was_written() {
        assert_eq!(Root::decode(&sample().encode()).unwrap(), sample());
        let empty = Root { pages: Vec::new(), ..sample() };
        assert_eq!(Root::decode(&empty.encode()).unwrap(), empty);
    }

    /// The bytes are a promise: versions of today must be readable for ever.
    #[test]
    fn a_root_is_these_bytes() {
        let salt = Bytes::from_static(b"\xab\xcd");
        let root = Root { salt, pages: sample().pages[..1].to_vec(), ..sample() };
        let (pack, id) = (Id::of(b"one").to_string(), Id::of(b"\0a").to_string());
        let expected = [
            "4154525401",
            "ed03",
            "01",
            "ff93ebdc03",
            "f80a",
            "03",
            "01",
            "808080808020",
            "02abcd",
            "01",
            &pack,
            "01",
            "020061",
            "bc05",
            "00",
            "01c80180800401",
            &id,
        ];
        assert_eq!(data_encoding::HEXLOWER.encode(&root.encode()), expected.concat());
    }

    #[test]
    fn a_root_whose_packs_are_not_those_of_its_pages_is_refused() {
        let whole = sample().encode();
        let (one, two) = (Id::of(b"one"), Id::of(b"two"));
        let at = |id: &Id| whole.windows(Id::LEN).position(|bytes| bytes == id.as_bytes());
        let (start, end) = (at(&one).unwrap() - 1, at(&two).unwrap() + Id::LEN);
        let with = |list: &[&[u8]]| {
            let count = [u8::try_from(list.len()).unwrap()];
            let parts = [&whole[..start], &count, &list.concat(), &whole[end..]];
            Root::decode(&parts.concat().into())
        };
        let (one, two) = (&one.as_bytes()[..], &two.as_bytes()[..]);
        assert_eq!(with(&[one, two]).unwrap(), sample());
        for wrong in [&[one, two, &[7; 32]][..], &[one, one], &[one]] {
            assert!(with(wrong).is_err());
        }
        // Found by fuzzing: a pack, and no pages.
        let mut none = Root { pages: Vec::new(), ..sample() }.encode().to_vec();
        none.truncate(none.len() - 2);
        assert!(Root::decode(&[&none[..], &[1], &[7; 32], &[0]].concat().into()).is_err());
    }

    #[test]
    fn a_root_of_a_later_version_is_known_to_be_that() {
        let mut later = sample().encode().to_vec();
        later[4] = 2;
        assert_eq!(Root::decode(&later.into()).unwrap_err(), Flaw::Later(2));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), valid: bool) {
            if valid {
                bytes.splice(..0, MAGIC);
            }
            let _ = Root::decode(&bytes.into());
        }

        #[test]
        fn a_truncated_root_is_an_error(len in 0_usize..300) {
            let whole = sample().encode();
            prop_assert!(Root::decode(&whole.slice(..len % whole.len())).is_err());
        }
    }
}
