//! Roots: what a version is.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::decode::{Decoder, Result};
use super::{Content, Mtime, encode};
use crate::chunk::{Id, Place};

const MAGIC: &[u8; 5] = b"ATRT\x01";

/// What a version is: its top directory, its totals, and its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Permission bits of the top directory.
    pub mode: u32,
    /// When the top directory was last changed.
    pub mtime: Mtime,
    /// What the version holds.
    pub totals: Totals,
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
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut decoder = Decoder::new(bytes, MAGIC)?;
        let (mode, mtime) = (decoder.mode()?, decoder.mtime()?);
        let totals = Totals {
            files: decoder.u64()?,
            directories: decoder.u64()?,
            symlinks: decoder.u64()?,
            bytes: decoder.u64()?,
        };
        let packs = decoder.list(Decoder::id)?;
        let pages = decoder.list(|decoder| {
            let (first, count) = (decoder.bytes()?, decoder.u64()?);
            let pack = usize::try_from(decoder.u64()?).ok().and_then(|pack| packs.get(pack));
            let pack = *pack.ok_or("it refers to nothing")?;
            Ok(PageRef { first, count, pack, place: decoder.place()?, id: decoder.id()? })
        })?;
        decoder.end()?;
        if !pages.is_sorted_by(|one, two| one.first < two.first) {
            return Err("its pages aren't sorted");
        }
        Ok(Self { mode, mtime, totals, pages })
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
        encode::number(&mut out, packs.len() as u64);
        packs.iter().for_each(|pack| encode::id(&mut out, pack));
        encode::number(&mut out, self.pages.len() as u64);
        out.extend_from_slice(&pages);
        out.into()
    }
}
