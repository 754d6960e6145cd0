//! Reads a version: entries by path, directories by name, files by range.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use super::format::{Content, Entry, Page, PageRef, Root, Totals};
use crate::chunk::recent::Recent;
use crate::chunk::{Area, Id, Packs};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

/// How many bytes of pages a version keeps by itself: those of about 400,000 entries.
const PAGES_BUDGET: usize = 32 << 20;

/// A version that can be read. Clones share what was read.
#[derive(Clone)]
pub struct Version(Arc<Shared>);

struct Shared {
    packs: Packs,
    id: Id,
    root: Root,
    /// How many entries lie before each page.
    firsts: Vec<u64>,
    pages: Pages,
}

/// Pages that were read recently, of all versions that share them. Clones are the same.
#[derive(Clone)]
pub struct Pages(Arc<Recent<Id, Arc<Page>>>);

impl Pages {
    /// Keeps pages that take up to `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self(Arc::new(Recent::new(budget)))
    }
}

/// An entry with its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The path of the directory it is in.
    pub directory: Bytes,
    /// Its name.
    pub name: Bytes,
    /// What it is.
    pub entry: Entry,
}

impl Version {
    /// Opens the version whose root is `id`; its pages are read when they are needed.
    ///
    /// # Errors
    /// `NotFound` when there is no such root; `Damaged` when it isn't what it was.
    pub async fn open(packs: Packs, id: Id) -> Result<Self> {
        Self::open_among(packs, Pages::new(PAGES_BUDGET), id).await
    }

    /// Opens a version as [`open`](Self::open) does; its pages are kept among others.
    ///
    /// # Errors
    /// Those of `open`.
    pub async fn open_among(packs: Packs, pages: Pages, id: Id) -> Result<Self> {
        let root = packs.object(Area::Meta, &id).await?;
        let root = Root::decode(&root).map_err(|flaw| flaw.error(&Area::Meta.key(&id)))?;
        let before = root.pages.iter().scan(0, |sum, page| {
            let first = *sum;
            *sum += page.count;
            Some(first)
        });
        let firsts = before.collect();
        Ok(Self(Arc::new(Shared { packs, id, root, firsts, pages })))
    }

    /// The hash of the root, which names the version.
    pub fn id(&self) -> Id {
        self.0.id
    }

    /// What it holds.
    pub fn totals(&self) -> Totals {
        self.0.root.totals
    }

    /// The store it is in.
    pub fn packs(&self) -> &Packs {
        &self.0.packs
    }

    /// Its pages, in order.
    pub(super) fn pages(&self) -> &[PageRef] {
        &self.0.root.pages
    }

    /// The entry at `path`.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory` when a name on the way isn't one; `Damaged`.
    pub async fn entry(&self, path: &TreePath) -> Result<Entry> {
        if let Some(entry) = self.look_up(path).await? {
            return Ok(entry);
        }
        let mut above = path.parent();
        while let Some(directory) = above {
            if let Some(entry) = self.look_up(&directory).await? {
                expect_directory(&directory, &entry)?;
                break;
            }
            above = directory.parent();
        }
        Err(Error::new(ErrorKind::NotFound, format!("{path} isn't there")))
    }

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// As items of the stream: `NotFound`, `NotADirectory`, `Damaged`.
    pub fn list(&self, directory: &TreePath) -> BoxStream<'static, Result<Named>> {
        let (version, directory) = (self.clone(), directory.clone());
        let checked = async move {
            expect_directory(&directory, &version.entry(&directory).await?)?;
            let dir = Bytes::copy_from_slice(directory.as_bytes());
            let named = version.entries_from(&dir, b"");
            Ok(named.take_while(move |item| {
                let inside = item.as_ref().map_or(true, |named| named.directory == dir);
                std::future::ready(inside)
            }))
        };
        stream::once(checked)
            .map(|list| match list {
                Ok(list) => list.boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .flatten()
            .boxed()
    }

    /// All entries, sorted by the path of their directory and then by name.
    pub fn entries(&self) -> BoxStream<'static, Result<Named>> {
        self.entries_from(b"", b"")
    }

    /// Reads `range` of the file at `path`; shorter only where the file ends.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `IsADirectory`, `InvalidInput` for a link; `Damaged`.
    pub async fn read(&self, path: &TreePath, range: Range<u64>) -> Result<Bytes> {
        self.read_content(&self.entry(path).await?.content, range).await
    }

    /// Reads `range` of the bytes of a file's content; shorter only where the file ends.
    ///
    /// # Errors
    /// `IsADirectory`, `InvalidInput` for a link; `Damaged`.
    pub async fn read_content(&self, content: &Content, range: Range<u64>) -> Result<Bytes> {
        let range = range.start.min(content.len())..range.end.min(content.len());
        match content {
            Content::Directory => {
                Err(Error::new(ErrorKind::IsADirectory, "a directory has no bytes"))
            }
            Content::Symlink(_) => {
                Err(Error::new(ErrorKind::InvalidInput, "a symbolic link has no bytes to read"))
            }
            _ if range.is_empty() => Ok(Bytes::new()),
            Content::Inline(bytes) => Ok(slice(bytes, &range)),
            Content::Frame { pack, place, id } => self.0.packs.read(pack, place, id, range).await,
            Content::Runs { runs, .. } => {
                let mut pieces = Vec::new();
                let mut start = 0;
                for run in runs {
                    let wanted = range.start.saturating_sub(start).min(run.len)
                        ..range.end.saturating_sub(start).min(run.len);
                    start += run.len;
                    if !wanted.is_empty() {
                        pieces.extend(self.0.packs.read_run(run, wanted).await?);
                    }
                }
                Ok(joined(pieces))
            }
        }
    }

    /// The page of a number, from memory or the store.
    pub(super) async fn page(&self, number: usize) -> Result<Arc<Page>> {
        let at = &self.pages()[number];
        let load = async {
            let bytes = self.0.packs.frame(Area::Meta, &at.pack, &at.place, &at.id).await?;
            let page = Page::decode(bytes).and_then(|page| {
                if page.len() as u64 == at.count {
                    Ok(page)
                } else {
                    Err("it isn't as long".into())
                }
            });
            let page = page.map_err(|flaw| {
                flaw.error(&format!("page {} of {}", at.id, Area::Meta.key(&at.pack)))
            })?;
            let weight = page.weight();
            Ok((Arc::new(page), weight))
        };
        self.0.pages.0.get_or_load(at.id, load).await
    }

    /// What the version is.
    pub(super) fn root(&self) -> &Root {
        &self.0.root
    }

    /// How many entries lie before a page.
    pub(super) fn first_of(&self, page: usize) -> u64 {
        self.0.firsts[page]
    }

    /// The page that has the entry before which lie so many others, and how many of them it has.
    pub(super) fn place_of(&self, ordinal: u64) -> Option<(usize, usize)> {
        let page = self.0.firsts.partition_point(|first| *first <= ordinal).checked_sub(1)?;
        Some((page, usize::try_from(ordinal - self.0.firsts[page]).ok()?))
    }

    async fn look_up(&self, path: &TreePath) -> Result<Option<Entry>> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            let Root { mode, mtime, .. } = self.0.root;
            return Ok(Some(Entry { mode, mtime, content: Content::Directory }));
        };
        let Some(page) = self.page_number(parent.as_bytes(), name) else { return Ok(None) };
        let page = self.page(page).await?;
        let found = page.find(parent.as_bytes(), name).ok();
        Ok(found.and_then(|at| page.get(at)).map(|(_, _, entry)| entry))
    }

    /// The page that has the entry, if any has.
    pub(super) fn page_number(&self, directory: &[u8], name: &[u8]) -> Option<usize> {
        let key = [directory, b"\0", name].concat();
        self.pages().partition_point(|page| page.first <= key).checked_sub(1)
    }

    /// The entries of the pages that aren't among `known`, in order.
    pub(super) fn entries_outside(&self, known: &HashSet<Id>) -> BoxStream<'static, Result<Named>> {
        let outside =
            |(number, page): (usize, &PageRef)| (!known.contains(&page.id)).then_some(number);
        let pages: Vec<_> = self.pages().iter().enumerate().filter_map(outside).collect();
        self.entries_of(stream::iter(pages), (Vec::new(), Vec::new()))
    }

    /// The entries from a key on, in order.
    fn entries_from(&self, directory: &[u8], name: &[u8]) -> BoxStream<'static, Result<Named>> {
        let start = self.page_number(directory, name).unwrap_or(0);
        let key = (directory.to_vec(), name.to_vec());
        self.entries_of(stream::iter(start..self.pages().len()), key)
    }

    /// The entries whose keys are in a range, in order; without an end all from a key on.
    pub(super) fn entries_of_range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> BoxStream<'static, Result<Named>> {
        let pages = self.pages();
        let start = pages.partition_point(|page| page.first[..] <= *from).saturating_sub(1);
        let end = to.map_or(pages.len(), |to| pages.partition_point(|page| page.first[..] < *to));
        let (from, to) = (from.to_vec(), to.map(<[u8]>::to_vec));
        let is_in = move |named: &Named| {
            let key = [&named.directory[..], b"\0", &named.name].concat();
            key >= from && to.as_ref().is_none_or(|to| key < *to)
        };
        self.entries_of(stream::iter(start..end.max(start)), (Vec::new(), Vec::new()))
            .filter(move |item| std::future::ready(item.as_ref().map_or(true, &is_in)))
            .boxed()
    }

    /// The entries of some pages from a key on.
    fn entries_of(
        &self,
        pages: impl Stream<Item = usize> + Send + 'static,
        key: (Vec<u8>, Vec<u8>),
    ) -> BoxStream<'static, Result<Named>> {
        let version = self.clone();
        let pages = pages.then(move |number| {
            let version = version.clone();
            async move { version.page(number).await }
        });
        pages
            .map(move |page| match page {
                Ok(page) => {
                    let from = page.find(&key.0, &key.1).unwrap_or_else(|at| at);
                    stream::iter((from..page.len()).filter_map(move |at| named(&page, at))).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .flatten()
            .boxed()
    }
}

fn named(page: &Page, at: usize) -> Option<Result<Named>> {
    let (directory, name, entry) = page.get(at)?;
    Some(Ok(Named { directory, name, entry }))
}

fn expect_directory(path: &TreePath, entry: &Entry) -> Result<()> {
    if entry.content == Content::Directory {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotADirectory, format!("{path} isn't a directory")))
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let len = bytes.len();
    let at = |offset| usize::try_from(offset).unwrap_or(len).min(len);
    bytes.slice(at(range.start)..at(range.end))
}

/// One piece as it is, several ones copied together.
fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}
