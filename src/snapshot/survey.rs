//! Which frames of which packs versions use.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::format::{Content, Page};
use super::read::Version;
use crate::chunk::{Area, Footer, Id, Packs, Run};
use crate::error::Result;

/// What versions use of a pack.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// The frames of small files: where they begin and how long they are as they are stored.
    places: BTreeMap<u32, u32>,
    /// The frames of large files: the first of a run, how many, and their bytes when decoded.
    runs: HashSet<(u32, u32, u64)>,
}

impl Used {
    fn add_run(&mut self, run: &Run) {
        self.runs.insert((run.first, run.count, run.len));
    }

    /// At most how many bytes of the pack are used.
    pub(super) fn at_most(&self) -> u64 {
        let places: u64 = self.places.values().map(|len| u64::from(*len)).sum();
        places + self.runs.iter().map(|(_, _, len)| len).sum::<u64>()
    }

    /// The numbers of the frames that are used.
    pub(super) fn frames(&self, footer: &Footer) -> BTreeSet<u32> {
        let mut frames = BTreeSet::new();
        for (number, frame) in (0_u32..).zip(footer.frames()) {
            if self.places.contains_key(&frame.place.offset) {
                frames.insert(number);
            }
        }
        for (first, count, _) in &self.runs {
            frames.extend(*first..first.saturating_add(*count));
        }
        frames
    }
}

/// What several versions use, each page read once.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The data packs.
    pub(super) packs: HashMap<Id, Used>,
    pages: HashSet<Id>,
}

impl Survey {
    /// Adds what a version uses.
    ///
    /// # Errors
    /// `Damaged` when a page can't be read; those of the store.
    pub(super) async fn add(&mut self, version: &Version) -> Result<()> {
        for (number, at) in version.pages().iter().enumerate() {
            if self.pages.insert(at.id) {
                self.add_page(&*version.page(number).await?);
            }
        }
        Ok(())
    }

    fn add_page(&mut self, page: &Page) {
        for (_, _, entry) in (0..page.len()).filter_map(|at| page.get(at)) {
            match &entry.content {
                Content::Frame { pack, place, .. } => {
                    let used = self.packs.entry(*pack).or_default();
                    used.places.insert(place.offset, place.stored_len);
                }
                Content::Runs { runs, .. } => {
                    for run in runs {
                        self.packs.entry(run.pack).or_default().add_run(run);
                    }
                }
                Content::Directory | Content::Symlink(_) | Content::Inline(_) => {}
            }
        }
    }
}

/// The objects that a version needs, with their areas.
///
/// # Errors
/// `NotFound`, `Damaged` when it can't be read; those of the store.
pub(super) async fn needs(packs: &Packs, root: Id) -> Result<BTreeSet<(Id, Area)>> {
    let version = Version::open(packs.clone(), root).await?;
    let mut survey = Survey::default();
    survey.add(&version).await?;
    let mut needs = BTreeSet::from([(root, Area::Meta)]);
    needs.extend(version.pages().iter().map(|page| (page.pack, Area::Meta)));
    needs.extend(survey.packs.into_keys().map(|pack| (pack, Area::Data)));
    Ok(needs)
}
