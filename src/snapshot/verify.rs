//! Reads everything that a version needs, and tells what isn't what it was.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::format::{Content, Page, PageRef, Root};
use super::read::Version;
use crate::catalog::Catalog;
use crate::chunk::{Area, Flaw, Footer, Id, Packs};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

/// How many objects are read at the same time; each takes up to 32 MiB.
const AT_ONCE: usize = 3;

/// How far a check is; read it while it runs.
#[derive(Debug, Default)]
pub struct Checking {
    /// How many objects are to be read, as far as that is known.
    pub total: AtomicU64,
    /// How many were read.
    pub objects: AtomicU64,
    /// How many bytes they have.
    pub bytes: AtomicU64,
}

/// What became of a version.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many objects of the store it needs.
    pub objects: u64,
    /// What is damaged in the store.
    pub damage: Vec<Damaged>,
    /// The files that can't be read in full, and the first of each row of entries that can't even
    /// be listed.
    pub affected: Vec<TreePath>,
}

impl Verified {
    /// Whether every byte is what it was.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.affected.is_empty()
    }
}

/// An object that isn't what it was.
#[derive(Debug)]
pub struct Damaged {
    /// The area it is in.
    pub area: Area,
    /// Its name.
    pub id: Id,
    /// What is wrong with it.
    pub error: Error,
}

/// Notes what is damaged: nothing new is built upon it, and who stores the same stores it again.
///
/// # Errors
/// Those of the catalogue.
pub async fn distrust(catalog: &Catalog, damage: &[Damaged]) -> Result<()> {
    for damaged in damage {
        catalog.distrust(&damaged.id.to_string()).await?;
    }
    Ok(())
}

/// Objects that were read and checked, each once however many versions need it.
pub(super) struct Checks {
    packs: Packs,
    progress: Arc<Checking>,
    data: HashMap<Id, Option<Footer>>,
    /// Packs of pages, and roots.
    meta: HashMap<Id, bool>,
    /// What isn't what it was.
    pub(super) damaged: Vec<Damaged>,
}

impl Checks {
    pub(super) fn new(packs: &Packs, progress: Arc<Checking>) -> Self {
        let (data, meta, damaged) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { packs: packs.clone(), progress, data, meta, damaged }
    }

    /// Whether an object was read and is what it was.
    pub(super) fn is_whole(&self, area: Area, id: &Id) -> bool {
        match area {
            Area::Data => self.data.get(id).is_some_and(Option::is_some),
            Area::Meta => self.meta.get(id) == Some(&true),
        }
    }

    /// Reads objects and checks every byte, unless that was done.
    ///
    /// # Errors
    /// When the store can't be read; damage is no error but noted.
    pub(super) async fn read(
        &mut self,
        objects: impl IntoIterator<Item = (Area, Id)>,
    ) -> Result<()> {
        let new: BTreeSet<_> = objects
            .into_iter()
            .filter(|(area, id)| match area {
                Area::Data => !self.data.contains_key(id),
                Area::Meta => !self.meta.contains_key(id),
            })
            .collect();
        self.progress.total.fetch_add(new.len() as u64, Ordering::Relaxed);
        let (packs, progress) = (self.packs.clone(), self.progress.clone());
        let mut checks = stream::iter(new)
            .map(|(area, id)| {
                let (packs, progress) = (packs.clone(), progress.clone());
                async move {
                    let checked = packs.scrub(area, &id).await.and_then(|(footer, bytes)| {
                        progress.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        fits(area, &id, footer, &bytes)
                    });
                    progress.objects.fetch_add(1, Ordering::Relaxed);
                    (area, id, checked)
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some((area, id, checked)) = checks.next().await {
            let found = match checked {
                Ok(footer) => Some(footer),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    self.damaged.push(Damaged { area, id, error });
                    None
                }
                Err(error) => return Err(error),
            };
            match area {
                Area::Meta => drop(self.meta.insert(id, found.is_some())),
                Area::Data => drop(self.data.insert(id, found.flatten())),
            }
        }
        Ok(())
    }

    /// Checks a version, all of it; returns how many objects it needs, and which files can't be
    /// read.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(super) async fn version(&mut self, version: &Version) -> Result<(u64, Vec<TreePath>)> {
        let mut needs: BTreeSet<Id> = version.pages().iter().map(|page| page.pack).collect();
        needs.insert(version.id());
        self.read(needs.iter().map(|id| (Area::Meta, *id))).await?;
        let (mut objects, mut affected) = (needs.len() as u64, Vec::new());
        let mut seen = BTreeSet::new();
        for at in version.pages() {
            let Some(page) = self.page(at).await? else {
                affected.push(first_of(at)?);
                continue;
            };
            let entries = || (0..page.len()).filter_map(|at| page.get(at));
            let mut needed = BTreeSet::new();
            for (_, _, entry) in entries() {
                needed.extend(entry.content.packs().into_iter().copied());
            }
            self.read(needed.iter().map(|id| (Area::Data, *id))).await?;
            seen.extend(needed);
            for (directory, name, entry) in entries() {
                if !self.is_fine(&entry.content).await? {
                    affected.push(TreePath::parse(&directory[..])?.join(&name[..])?);
                }
            }
        }
        objects += seen.len() as u64;
        Ok((objects, affected))
    }

    /// A page, if it is what it was.
    async fn page(&mut self, at: &PageRef) -> Result<Option<Page>> {
        let bytes = self.packs.frame(Area::Meta, &at.pack, &at.place, &at.id).await;
        let page = bytes.and_then(|bytes| {
            Page::decode(bytes).map_err(|flaw| flaw.error(&Area::Meta.key(&at.pack)))
        });
        match page {
            Ok(page) => Ok(Some(page)),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                // The pack may be what it was, and the page not in it.
                if self.meta.insert(at.pack, false) == Some(true) {
                    self.damaged.push(Damaged { area: Area::Meta, id: at.pack, error });
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn is_fine(&self, content: &Content) -> Result<bool> {
        let whole = |pack: &Id| self.is_whole(Area::Data, pack);
        // What is damaged in a pack may be another file; and what a whole pack holds may not be
        // what the entry says.
        if content.packs().into_iter().all(whole) {
            return Ok(is_in(content, &self.data));
        }
        match read_all(&self.packs, content).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(false),
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
        self.verify_with(Arc::default()).await
    }

    /// Does so and reports to `progress`.
    ///
    /// # Errors
    /// Those of [`verify`](Self::verify).
    pub async fn verify_with(&self, progress: Arc<Checking>) -> Result<Verified> {
        let mut checks = Checks::new(self.packs(), progress);
        let (objects, affected) = checks.version(self).await?;
        Ok(Verified { objects, damage: checks.damaged, affected })
    }
}

/// Whether an object that is what it was is what belongs there.
fn fits(area: Area, id: &Id, footer: Option<Footer>, bytes: &Bytes) -> Result<Option<Footer>> {
    let checked = match (area, footer) {
        (_, Some(footer)) => Ok(Some(footer)),
        (Area::Data, None) => Err(Flaw::Damage("it isn't a pack")),
        (Area::Meta, None) => Root::decode(bytes).map(|_| None),
    };
    checked.map_err(|flaw| flaw.error(&area.key(id)))
}

/// The path of the first entry of a page.
fn first_of(page: &PageRef) -> Result<TreePath> {
    let key = &page.first;
    let nul = key.iter().position(|byte| *byte == 0).unwrap_or(0);
    TreePath::parse(&key[..nul])?.join(&key[(nul + 1).min(key.len())..])
}

/// Reads a file frame by frame, each of which is checked.
async fn read_all(packs: &Packs, content: &Content) -> Result<()> {
    match content {
        Content::Frame { pack, place, id } => {
            packs.frame(Area::Data, pack, place, id).await?;
        }
        Content::Runs { runs, .. } => {
            for run in runs {
                packs.read_run(run, 0..run.len).await?;
            }
        }
        Content::Directory | Content::Symlink(_) | Content::Inline(_) => {}
    }
    Ok(())
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
