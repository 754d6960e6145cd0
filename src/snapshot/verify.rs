//! Reads everything that a version needs, and tells what isn't what it was.

use std::collections::{BTreeSet, HashMap};

use futures_util::TryStreamExt;

use super::format::{Content, Page};
use super::read::Version;
use crate::chunk::{Area, Footer, Id};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

/// What became of a version.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many objects of the store were read.
    pub objects: u64,
    /// What is damaged in the store.
    pub damage: Vec<Error>,
    /// The files that can't be read in full.
    pub affected: Vec<TreePath>,
}

impl Verified {
    /// Whether every byte is what it was.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.affected.is_empty()
    }

    /// Takes a failure down if it is damage; another one says nothing about the version.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.damage.push(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Version {
    /// Reads the whole version out of the store and checks every byte.
    ///
    /// # Errors
    /// When the store can't be read; damage is no error but part of the answer.
    pub async fn verify(&self) -> Result<Verified> {
        let mut verified = Verified { objects: 1, ..Verified::default() };
        let root = self.packs().object(Area::Meta, &self.id()).await;
        verified.note(root)?;
        let meta: BTreeSet<Id> = self.pages().iter().map(|page| page.pack).collect();
        for pack in &meta {
            verified.objects += 1;
            verified.note(self.packs().verify(Area::Meta, pack).await)?;
        }
        let mut readable = true;
        for page in self.pages() {
            let bytes = self.packs().frame(Area::Meta, &page.pack, &page.place, &page.id).await;
            let decoded = bytes.and_then(|bytes| {
                Page::decode(bytes).map_err(|what| Error::new(ErrorKind::Damaged, what))
            });
            readable &= verified.note(decoded)?.is_some();
        }
        if readable {
            self.verify_files(&mut verified).await?;
        }
        Ok(verified)
    }

    async fn verify_files(&self, verified: &mut Verified) -> Result<()> {
        let mut footers: HashMap<Id, Option<Footer>> = HashMap::new();
        let mut entries = self.entries();
        while let Some(named) = entries.try_next().await? {
            let content = &named.entry.content;
            let mut whole = true;
            for pack in content.packs() {
                if !footers.contains_key(pack) {
                    verified.objects += 1;
                    let footer = verified.note(self.packs().verify(Area::Data, pack).await)?;
                    footers.insert(*pack, footer);
                }
                whole &= footers[pack].is_some();
            }
            // What is damaged in a pack may be another file; and what a whole pack holds may not
            // be what the entry says.
            let fine = if whole {
                is_in(content, &footers)
            } else {
                match self.read_all(content).await {
                    Ok(()) => true,
                    Err(error) if error.kind() == ErrorKind::Damaged => false,
                    Err(error) => return Err(error),
                }
            };
            if !fine {
                verified.affected.push(TreePath::parse(&named.directory)?.join(&named.name)?);
            }
        }
        Ok(())
    }

    /// Reads a file frame by frame, each of which is checked.
    async fn read_all(&self, content: &Content) -> Result<()> {
        match content {
            Content::Frame { pack, place, id } => {
                self.packs().frame(Area::Data, pack, place, id).await?;
            }
            Content::Runs { runs, .. } => {
                for run in runs {
                    self.packs().read_run(run, 0..run.len).await?;
                }
            }
            Content::Directory | Content::Symlink(_) | Content::Inline(_) => {}
        }
        Ok(())
    }
}

/// Whether the packs hold what the entry says they do.
fn is_in(content: &Content, footers: &HashMap<Id, Option<Footer>>) -> bool {
    let footer = |pack: &Id| footers.get(pack).and_then(Option::as_ref);
    match content {
        Content::Frame { pack, place, id } => footer(pack).is_some_and(|footer| {
            let frames = footer.frames();
            let at = frames.partition_point(|frame| frame.place.offset < place.offset);
            // Frames without bytes lie where the next one does.
            frames[at..]
                .iter()
                .take_while(|frame| frame.place.offset == place.offset)
                .any(|frame| frame.place == *place && frame.id == *id)
        }),
        Content::Runs { runs, id, .. } => {
            let mut ids = Vec::new();
            let there = runs.iter().all(|run| {
                let frames = footer(&run.pack).and_then(|footer| footer.run(run));
                let frames = frames.unwrap_or_default();
                for frame in frames {
                    ids.extend_from_slice(frame.id.as_bytes());
                }
                !frames.is_empty()
            });
            there && Id::of(&ids) == *id
        }
        Content::Directory | Content::Symlink(_) | Content::Inline(_) => true,
    }
}
