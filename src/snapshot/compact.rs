//! Writes packs anew that are mostly dead, and the versions that use what is left of them.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::collect::Plan;
use super::format::{Content, EncodedPage, Entry, PageBuilder, PageRef, Root};
use super::read::{Named, Version};
use super::seal;
use super::survey::Survey;
use crate::catalog::{Catalog, Writer};
use crate::chunk::pack::{Builder, MAX_FRAMES, TARGET_LEN};
use crate::chunk::{Area, Frame, Id, Packs, Run, Stored};
use crate::error::{Error, ErrorKind, Result};

/// A pack of pages is complete when it takes this much, in bytes.
const META_TARGET_LEN: usize = 4 << 20;

/// How much is written anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// How many packs.
    pub packs: u64,
    /// How many bytes of theirs are dead.
    pub dead: u64,
}

/// Packs that are worth it.
#[derive(Debug, Default)]
pub(super) struct Found {
    packs: HashMap<Id, Worth>,
}

/// What is in a pack that is worth it.
#[derive(Debug)]
struct Worth {
    /// The numbers of the frames that are used.
    frames: BTreeSet<u32>,
    /// How many bytes are dead.
    dead: u64,
}

impl Found {
    /// How much that is.
    pub(super) fn compacted(&self) -> Compacted {
        let dead = self.packs.values().map(|worth| worth.dead).sum();
        Compacted { packs: self.packs.len() as u64, dead }
    }
}

/// Where a frame is that was moved: in the pack of that number, as the frame of that number.
#[derive(Clone, Copy, Debug)]
struct Moved {
    pack: usize,
    frame: u32,
    stored: Stored,
}

/// Finds packs of which less than the plan's share is used.
pub(super) async fn find(catalog: &Catalog, packs: &Packs, plan: &Plan) -> Result<Found> {
    let mut found = Found::default();
    if plan.compact_below == 0 {
        return Ok(found);
    }
    let mut survey = Survey::default();
    for root in roots(catalog).await? {
        let surveyed = async { survey.add(&Version::open(packs.clone(), root).await?).await };
        if if_there(surveyed.await)?.is_none() {
            // It isn't known what it uses.
            return Ok(found);
        }
    }
    let is_worth_it = |used: u64, bytes: u64| {
        u128::from(used) * 100 < u128::from(bytes) * u128::from(plan.compact_below)
    };
    for object in catalog.live_objects().await? {
        let id: Id = object.id.parse()?;
        let Some(used) = survey.packs.get(&id) else { continue };
        if !is_worth_it(used.at_most(), object.bytes) {
            continue;
        }
        let Some(footer) = if_there(packs.footer(&id).await)? else { continue };
        let frames = used.frames(&footer);
        let (mut alive, mut all) = (0, 0);
        for (number, frame) in (0_u32..).zip(footer.frames()) {
            let len = u64::from(frame.place.stored_len);
            all += len;
            alive += if frames.contains(&number) { len } else { 0 };
        }
        // The footer takes room in any pack.
        if !is_worth_it(alive, all) {
            continue;
        }
        let dead = object.bytes.saturating_sub(alive);
        found.packs.insert(id, Worth { frames, dead });
    }
    Ok(found)
}

/// Writes anew what is worth it. Versions get their other roots one by one; what is left of the
/// old ones is for others to collect.
pub(super) async fn compact(catalog: &Catalog, packs: &Packs, plan: &Plan) -> Result<Compacted> {
    // Before it is looked at: what a writer finds stays until he ends.
    let writer = catalog.begin_writing(plan.lease).await?;
    let packs = packs.for_writer(writer.clone());
    let done = rewrite(catalog, &packs, &writer, plan).await;
    writer.end().await?;
    done
}

async fn rewrite(
    catalog: &Catalog,
    packs: &Packs,
    writer: &Writer,
    plan: &Plan,
) -> Result<Compacted> {
    let mut found = find(catalog, packs, plan).await?;
    if found.packs.is_empty() {
        return Ok(found.compacted());
    }
    let (moved, new) = move_frames(packs, &mut found).await?;
    for root in roots(catalog).await? {
        let relocated = async {
            let version = Version::open(packs.clone(), root).await?;
            relocate(packs, &version, &found, &moved, &new).await
        };
        let Some(Some((new_root, needs))) = if_there(relocated.await)? else { continue };
        let needs: Vec<_> = needs.iter().map(ToString::to_string).collect();
        let (old, new_root) = (root.to_string(), new_root.to_string());
        if_there(catalog.replace_root(writer, &old, &new_root, &needs).await)?;
    }
    Ok(found.compacted())
}

/// What was read or done; `None` where something is damaged, or was collected or put to use
/// meanwhile: then it stays as it is.
fn if_there<T>(done: Result<T>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::StaleHandle
            ) =>
        {
            tracing::warn!("something isn't written anew: {error:?}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn roots(catalog: &Catalog) -> Result<Vec<Id>> {
    catalog.roots().await?.iter().map(|root| root.parse()).collect()
}

/// Copies the frames that are used into new packs; tells where each is, and the packs by number.
/// A pack that is damaged is found no more.
async fn move_frames(
    packs: &Packs,
    found: &mut Found,
) -> Result<(HashMap<(Id, u32), Moved>, Vec<Id>)> {
    let (mut moved, mut new) = (HashMap::new(), Vec::new());
    let (mut open, mut damaged) = (Builder::default(), Vec::new());
    for (pack, worth) in &found.packs {
        let Some((footer, bytes)) = if_there(packs.whole(Area::Data, pack).await)? else {
            damaged.push(*pack);
            continue;
        };
        for &number in &worth.frames {
            let Some(frame) = footer.frames().get(number as usize) else { continue };
            let start = frame.place.offset as usize;
            let stored = bytes.slice(start..start + frame.place.stored_len as usize);
            let (plain_len, codec) = (frame.place.plain_len, frame.place.codec);
            let at = u32::try_from(open.count()).unwrap_or(u32::MAX);
            let stored = open.push(&Frame { id: frame.id, plain_len, codec, stored });
            moved.insert((*pack, number), Moved { pack: new.len(), frame: at, stored });
            if open.len() >= TARGET_LEN || open.count() >= MAX_FRAMES {
                new.push(seal_pack(packs, Area::Data, &mut open).await?);
            }
        }
    }
    if !open.is_empty() {
        new.push(seal_pack(packs, Area::Data, &mut open).await?);
    }
    found.packs.retain(|pack, _| !damaged.contains(pack));
    Ok((moved, new))
}

async fn seal_pack(packs: &Packs, area: Area, open: &mut Builder) -> Result<Id> {
    let (id, bytes) = std::mem::take(open).finish();
    packs.put_pack(area, id, bytes).await
}

/// Makes a version that holds the same and doesn't use the packs that were moved; `None` when it
/// doesn't use them anyway. Tells its root and what it needs.
async fn relocate(
    packs: &Packs,
    version: &Version,
    found: &Found,
    moved: &HashMap<(Id, u32), Moved>,
    new: &[Id],
) -> Result<Option<(Id, BTreeSet<Id>)>> {
    let mut used = Survey::default();
    used.add(version).await?;
    if !used.packs.keys().any(|pack| found.packs.contains_key(pack)) {
        return Ok(None);
    }
    let mut pages = Pages::new(packs, version);
    let mut needs = BTreeSet::new();
    let mut entries = version.entries();
    while let Some(Named { directory, name, entry }) = entries.try_next().await? {
        let content = follow(packs, entry.content, found, moved, new).await?;
        needs.extend(content.packs());
        pages.push(&directory, &name, &Entry { content, ..entry }).await?;
    }
    let root = Root { pages: pages.finish().await?, salt: Bytes::new(), ..version.root().clone() };
    needs.extend(root.pages.iter().map(|page| page.pack));
    let (id, _) = seal::store_root(packs, root).await?;
    needs.insert(id);
    Ok(Some((id, needs)))
}

/// The same content, where it is now.
async fn follow(
    packs: &Packs,
    content: Content,
    found: &Found,
    moved: &HashMap<(Id, u32), Moved>,
    new: &[Id],
) -> Result<Content> {
    match content {
        Content::Frame { pack, place, id } if found.packs.contains_key(&pack) => {
            let footer = packs.footer(&pack).await?;
            let frames = footer.frames();
            // Frames without bytes lie where the next one does.
            let first = frames.partition_point(|frame| frame.place.offset < place.offset);
            let behind = frames[first..].iter().position(|frame| frame.id == id);
            let number = behind.and_then(|behind| u32::try_from(first + behind).ok());
            let at =
                number.and_then(|number| moved.get(&(pack, number))).ok_or_else(|| lost(&pack))?;
            Ok(Content::Frame { pack: new[at.pack], place: at.stored.place, id })
        }
        Content::Runs { size, id, runs } => {
            let mut followed: Vec<Run> = Vec::new();
            for run in runs {
                if !found.packs.contains_key(&run.pack) {
                    followed.push(run);
                    continue;
                }
                for number in run.first..run.first.saturating_add(run.count) {
                    let at = moved.get(&(run.pack, number)).ok_or_else(|| lost(&run.pack))?;
                    let len = u64::from(at.stored.place.plain_len);
                    match followed.last_mut() {
                        Some(last)
                            if last.pack == new[at.pack]
                                && last.first.checked_add(last.count) == Some(at.frame) =>
                        {
                            last.count += 1;
                            last.len += len;
                        }
                        _ => {
                            let pack = new[at.pack];
                            followed.push(Run { pack, first: at.frame, count: 1, len });
                        }
                    }
                }
            }
            Ok(Content::Runs { size, id, runs: followed })
        }
        other => Ok(other),
    }
}

/// A frame was put to use after it was looked for, or isn't there.
fn lost(pack: &Id) -> Error {
    let key = Area::Data.key(pack);
    Error::new(ErrorKind::StaleHandle, format!("more of {key} is used than was found"))
}

/// Entries on their way into pages; those that are as they were stay where they are.
struct Pages<'a> {
    packs: &'a Packs,
    known: HashMap<Id, PageRef>,
    builder: PageBuilder,
    open: Builder,
    done: Vec<PageRef>,
    /// How many of `done` at its end are in the open pack, and their positions.
    unsealed: Vec<usize>,
}

impl<'a> Pages<'a> {
    fn new(packs: &'a Packs, version: &Version) -> Self {
        let known = version.pages().iter().map(|page| (page.id, page.clone())).collect();
        let (builder, open) = (PageBuilder::default(), Builder::default());
        Self { packs, known, builder, open, done: Vec::new(), unsealed: Vec::new() }
    }

    async fn push(&mut self, directory: &Bytes, name: &Bytes, entry: &Entry) -> Result<()> {
        match self.builder.push(directory, name, entry) {
            Some(page) => self.store(page).await,
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> Result<Vec<PageRef>> {
        if let Some(page) = self.builder.cut() {
            self.store(page).await?;
        }
        self.seal().await?;
        Ok(self.done)
    }

    async fn store(&mut self, page: EncodedPage) -> Result<()> {
        let id = Id::of(&page.bytes);
        if let Some(known) = self.known.get(&id) {
            self.done.push(known.clone());
            return Ok(());
        }
        let stored = self.open.push(&Frame::new(id, page.bytes));
        self.unsealed.push(self.done.len());
        // The id stands in until the pack has one.
        let (first, place) = (page.first.into(), stored.place);
        self.done.push(PageRef { first, count: page.count, pack: id, place, id });
        if self.open.len() >= META_TARGET_LEN { self.seal().await } else { Ok(()) }
    }

    async fn seal(&mut self) -> Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let pack = seal_pack(self.packs, Area::Meta, &mut self.open).await?;
        for at in self.unsealed.drain(..) {
            self.done[at].pack = pack;
        }
        Ok(())
    }
}
