//! Which packs the entries of a page need, so that a page that is used again needn't be read.
//!
//! It is kept in a file beside what is known of the files that were read; a page is named by its
//! bytes, so what is written there holds for ever, and what is lost is read from the page.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::PathBuf;

use tokio::runtime::Handle;

use crate::chunk::Id;
use crate::error::Result;
use crate::snapshot::format::PageRef;
use crate::snapshot::read::Version;

/// The packs of pages, by the ids of the pages.
#[derive(Default)]
pub(super) struct PackMemo {
    /// Where it is kept, if it is.
    file: Option<PathBuf>,
    packs: HashMap<Id, Vec<Id>>,
}

impl PackMemo {
    /// What was kept in a file.
    pub(super) fn open(file: PathBuf) -> Self {
        let bytes = fs::read(&file).unwrap_or_default();
        // A pack that is missing here could be collected: what isn't whole is no use.
        let packs = bytes
            .split_first_chunk::<{ Id::LEN }>()
            .filter(|(id, rest)| Id::of(rest) == Id::from(**id))
            .and_then(|(_, rest)| decode(rest));
        Self { file: Some(file), packs: packs.unwrap_or_default() }
    }

    pub(super) fn add(&mut self, page: Id, packs: Vec<Id>) {
        self.packs.insert(page, packs);
    }

    /// The packs that the entries of a page of a version need.
    pub(super) fn packs_of(
        &mut self,
        page: &PageRef,
        version: &Version,
        runtime: &Handle,
    ) -> Result<&[Id]> {
        Ok(match self.packs.entry(page.id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let number = version.pages().partition_point(|other| other.first < page.first);
                let read = runtime.block_on(version.page(number))?;
                unknown.insert(read.packs().to_vec())
            }
        })
    }

    /// Keeps what is known of these pages.
    pub(super) fn keep(&self, pages: impl Iterator<Item = Id>) {
        let Some(file) = &self.file else { return };
        let mut bytes = Vec::new();
        for page in pages {
            let Some(packs) = self.packs.get(&page) else { continue };
            bytes.extend_from_slice(page.as_bytes());
            let count = u32::try_from(packs.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&count.to_le_bytes());
            packs.iter().for_each(|pack| bytes.extend_from_slice(pack.as_bytes()));
        }
        bytes.splice(..0, *Id::of(&bytes).as_bytes());
        let draft = file.with_extension(format!("{}.draft", std::process::id()));
        if let Err(error) = fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, file)) {
            tracing::warn!("which packs are needed isn't kept in {}: {error}", file.display());
        }
    }
}

fn decode(mut bytes: &[u8]) -> Option<HashMap<Id, Vec<Id>>> {
    let mut packs = HashMap::new();
    while !bytes.is_empty() {
        let (page, rest) = bytes.split_first_chunk::<{ Id::LEN }>()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let mut list = Vec::new();
        for _ in 0..u32::from_le_bytes(*count) {
            let (pack, behind) = rest.split_first_chunk::<{ Id::LEN }>()?;
            list.push(Id::from(*pack));
            rest = behind;
        }
        packs.insert(Id::from(*page), list);
        bytes = rest;
    }
    Some(packs)
}
