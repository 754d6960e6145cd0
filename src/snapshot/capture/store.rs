//! The two ends of a capture: frames go into packs, entries into pages.

use std::cmp::Ordering as Order;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;

use super::Progress;
use super::gone::{self, Gone};
use super::memo::PackMemo;
use super::read::Piece;
use super::splice::{Next, Splice};
use crate::chunk::index::{Index, Slot};
use crate::chunk::pack::TARGET_LEN;
use crate::chunk::write::PackWriter;
use crate::chunk::{Area, Frame, Id, Packs, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::format::{
    Content, EncodedPage, Entry, Mtime, PageBuilder, PageRef, Root, Totals,
};
use crate::snapshot::read::{Named, Version};
use crate::snapshot::seal;

/// A pack of pages is complete when it takes this much, in bytes.
const META_TARGET_LEN: usize = 4 << 20;

/// The frames that are stored already, and the packs that take new ones.
pub(super) struct Frames {
    index: Arc<RwLock<Index>>,
    /// How many packs were there before; new ones are numbered from here.
    known: usize,
    writer: PackWriter,
    progress: Arc<Progress>,
}

impl Frames {
    pub(super) fn new(packs: &Packs, index: Arc<RwLock<Index>>, progress: Arc<Progress>) -> Self {
        let known = index.read().unwrap_or_else(PoisonError::into_inner).known().len();
        let writer = PackWriter::new(packs.clone(), Area::Data, TARGET_LEN, Handle::current());
        Self { index, known, writer, progress }
    }

    pub(super) fn find(&self, id: &Id) -> Option<Slot> {
        self.with_index(|index| index.find(id))
    }

    pub(super) fn holds(&self, slot: Slot, id: &Id) -> bool {
        self.with_index(|index| index.holds(slot, id))
    }

    fn place(&self, slot: Slot) -> Option<Place> {
        self.with_index(|index| index.frame(slot).map(|frame| frame.place))
    }

    /// Stores a frame.
    pub(super) fn add(&mut self, frame: &Frame) -> Result<Slot> {
        let (pack, stored) = self.writer.add(frame)?;
        self.progress.stored.store(self.writer.stored(), Ordering::Relaxed);
        let pack = u32::try_from(self.known + pack).expect("there are fewer than 2^32 packs");
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        Ok(index.add_frame(pack, stored))
    }

    /// Stores all bytes of a small file, unless they are stored already.
    pub(super) fn whole(&mut self, piece: Piece) -> Result<Content<u32>> {
        let (id, len) = (piece.id, piece.plain.len() as u64);
        let slot = match self.find(&id) {
            Some(slot) => {
                self.count_reused(len);
                slot
            }
            None => self.add(&piece.into_frame())?,
        };
        let place = self.place(slot);
        let place = place.ok_or_else(|| Error::new(ErrorKind::Io, "a frame was lost"))?;
        Ok(Content::Frame { pack: slot.pack, place, id })
    }

    pub(super) fn count_reused(&self, len: u64) {
        self.progress.reused.fetch_add(len, Ordering::Relaxed);
    }

    /// The id of a pack that is durable.
    pub(super) fn pack(&self, number: u32) -> Option<Id> {
        let number = number as usize;
        match number.checked_sub(self.known) {
            Some(new) => self.writer.durable().get(new).copied(),
            None => self.with_index(|index| index.known().get(number).copied()),
        }
    }

    /// The number of a pack that was there before.
    pub(super) fn number_of(&self, pack: &Id) -> Option<u32> {
        self.with_index(|index| index.number_of(pack))
    }

    /// Whether a pack was there before or is durable now.
    fn has(&self, pack: &Id) -> bool {
        self.number_of(pack).is_some() || self.writer.durable().contains(pack)
    }

    /// Waits until all frames are durable; returns how many bytes were stored.
    pub(super) fn finish(&mut self) -> Result<u64> {
        self.writer.finish()?;
        Ok(self.writer.stored())
    }

    fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A version whose root is stored.
pub(super) struct Finished {
    pub(super) root: Id,
    pub(super) totals: Totals,
    /// How many bytes pages and root take.
    pub(super) stored: u64,
    /// All objects that the version needs.
    pub(super) needs: BTreeSet<Id>,
}

/// What the previous version has that wasn't passed yet.
enum Before {
    Nothing,
    /// Its entries; all that isn't pushed is gone.
    Entries(BoxStream<'static, Result<Named>>, Option<Named>),
    /// Its pages; all that isn't gone stays.
    Splice(Box<Splice>),
}

/// Entries on their way into pages.
pub(super) struct Pages {
    packs: Packs,
    runtime: Handle,
    builder: PageBuilder,
    writer: PackWriter,
    /// Pages that the previous version has and that may be used.
    known: HashMap<Id, PageRef>,
    before: Before,
    /// The pages so far, with the number of their pack where it isn't durable yet.
    done: Vec<(PageRef, Option<usize>)>,
    totals: Totals,
    /// The packs that files are in.
    needs: BTreeSet<Id>,
    memo: PackMemo,
}

impl Pages {
    /// Begins a version behind `previous`. With `gone`, only what is pushed or gone differs from
    /// that; without, only what is pushed will be there.
    pub(super) fn new(
        packs: &Packs,
        previous: Option<&Version>,
        gone: Option<Gone>,
        memo: PackMemo,
    ) -> Result<Self> {
        let runtime = Handle::current();
        let mut known = HashMap::new();
        let (mut before, mut totals) = (Before::Nothing, Totals::default());
        if let Some(previous) = previous {
            let usable = runtime.block_on(packs.usable(Area::Meta))?;
            let usable: HashSet<_> = usable.into_iter().map(|(pack, _)| pack).collect();
            let pages = previous.pages().iter().filter(|page| usable.contains(&page.pack));
            known.extend(pages.map(|page| (page.id, page.clone())));
            before = match gone {
                None => Before::Entries(previous.entries(), None),
                Some(gone) => {
                    totals = previous.totals();
                    Before::Splice(Box::new(Splice::new(previous.clone(), gone, usable)))
                }
            };
        }
        Ok(Self {
            writer: PackWriter::new(packs.clone(), Area::Meta, META_TARGET_LEN, runtime.clone()),
            packs: packs.clone(),
            runtime,
            builder: PageBuilder::default(),
            known,
            before,
            done: Vec::new(),
            totals,
            needs: BTreeSet::new(),
            memo,
        })
    }

    /// Adds the next entry, which must sort behind all earlier ones.
    pub(super) fn push(
        &mut self,
        directory: &Bytes,
        name: &Bytes,
        mut entry: Entry,
        frames: &Frames,
    ) -> Result<()> {
        if let Some(previous) = self.previous_of(directory, name)?
            && previous.content.is_same(&entry.content)
            && previous.content.packs().iter().all(|pack| frames.number_of(pack).is_some())
        {
            // What hasn't changed stays where it is, and so does the page that says so.
            entry.content = previous.content;
        }
        self.totals.count(&entry.content);
        self.put(directory, name, &entry)
    }

    fn put(&mut self, directory: &Bytes, name: &Bytes, entry: &Entry) -> Result<()> {
        self.needs.extend(entry.content.packs());
        match self.builder.push(directory, name, entry) {
            Some(page) => self.store(page),
            None => Ok(()),
        }
    }

    /// Stores the last pages and then the root.
    ///
    /// # Errors
    /// `Damaged` when the previous version needs a pack that nothing new may be built upon.
    pub(super) fn finish(mut self, mode: u32, mtime: Mtime, frames: &Frames) -> Result<Finished> {
        self.splice(None)?;
        if let Some(lost) = self.needs.iter().find(|pack| !frames.has(pack)) {
            let message = format!("pack {lost} can't be built upon");
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        if let Some(page) = self.builder.cut() {
            self.store(page)?;
        }
        let durable = self.writer.finish()?.to_vec();
        let pages = self.done.into_iter().map(|(page, number)| match number {
            Some(number) => PageRef { pack: durable[number], ..page },
            None => page,
        });
        let (totals, salt) = (self.totals, Bytes::new());
        let root = Root { mode, mtime, totals, salt, pages: pages.collect() };
        self.memo.keep(root.pages.iter().map(|page| page.id));
        let mut needs = self.needs;
        needs.extend(root.pages.iter().map(|page| page.pack));
        let (id, len) = self.runtime.block_on(seal::store_root(&self.packs, root))?;
        needs.insert(id);
        Ok(Finished { root: id, totals, stored: self.writer.stored() + len, needs })
    }

    fn store(&mut self, page: EncodedPage) -> Result<()> {
        let id = Id::of(&page.bytes);
        if let Some(known) = self.known.get(&id) {
            self.done.push((known.clone(), None));
            return Ok(());
        }
        self.memo.add(id, page.packs);
        let (number, stored) = self.writer.add(&Frame::new(id, page.bytes))?;
        let (first, place) = (page.first.into(), stored.place);
        // The id stands in until the pack has one.
        self.done.push((PageRef { first, count: page.count, pack: id, place, id }, Some(number)));
        Ok(())
    }

    /// What the previous version has at this path; what lies before it is passed.
    fn previous_of(&mut self, directory: &Bytes, name: &Bytes) -> Result<Option<Entry>> {
        if matches!(self.before, Before::Splice(_)) {
            return self.splice(Some(&gone::key(directory, name)));
        }
        while let Before::Entries(entries, waiting) = &mut self.before {
            let next = match waiting.take() {
                Some(next) => next,
                None => match self.runtime.block_on(entries.next()) {
                    Some(Ok(next)) => next,
                    Some(Err(error)) => {
                        // Nothing new shall be built on what is damaged.
                        tracing::warn!("the previous version isn't used: {error:?}");
                        self.known.clear();
                        self.before = Before::Nothing;
                        break;
                    }
                    None => {
                        self.before = Before::Nothing;
                        break;
                    }
                },
            };
            match (&next.directory, &next.name).cmp(&(directory, name)) {
                Order::Less => {}
                Order::Equal => return Ok(Some(next.entry)),
                Order::Greater => {
                    *waiting = Some(next);
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Takes over what the previous version has before a key, or to its end; returns what it has
    /// at that key.
    fn splice(&mut self, to: Option<&[u8]>) -> Result<Option<Entry>> {
        loop {
            let at_start = self.builder.is_empty();
            let Before::Splice(splice) = &mut self.before else { return Ok(None) };
            match self.runtime.block_on(splice.step(to, at_start))? {
                Next::Nothing => return Ok(None),
                Next::Page(page) => {
                    let version = splice.version();
                    let packs = self.memo.packs_of(&page, version, &self.runtime)?;
                    self.needs.extend(packs);
                    self.done.push((page, None));
                }
                Next::Kept(directory, name, entry) => self.put(&directory, &name, &entry)?,
                Next::Dropped(entry) => self.totals.uncount(&entry.content),
                Next::Replaced(entry) => {
                    self.totals.uncount(&entry.content);
                    return Ok(Some(entry));
                }
            }
        }
    }
}
