//! Open directories: a listing that is read in pieces, with offsets that stay valid.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};

use super::handle::Handles;
use super::{Handle, Vfs, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, Entry};

/// The inode number of an entry that has none yet, as libfuse has it.
const UNKNOWN: u64 = 0xffff_ffff;

/// The offset of the first entry behind `.` and `..`.
const FIRST: u64 = 2;

/// An entry of a listing as it is handed out.
#[derive(Debug)]
pub struct Listed<'a> {
    /// Its inode number.
    pub ino: u64,
    /// Where the listing goes on behind it.
    pub next_offset: u64,
    /// Its name; `.` and `..` come first.
    pub name: &'a [u8],
    /// Its attributes.
    pub attr: &'a Attr,
}

/// The directories that are open.
#[derive(Default)]
pub(super) struct Directories {
    /// Guards which directories are open.
    open: Mutex<Option<Handles<OpenDirectory>>>,
    /// How many are, to be asked without the lock.
    count: AtomicUsize,
}

impl Directories {
    /// Whether any directory is open.
    pub(super) fn any_open(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Notes that something in a directory changed.
    pub(super) fn touch(&self, ino: u64) {
        if self.any_open()
            && let Some(open) = &*lock(&self.open)
        {
            for directory in open.of(ino) {
                directory.changes.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    fn insert(&self, ino: u64) -> Handle {
        self.count.fetch_add(1, Ordering::AcqRel);
        let mut open = lock(&self.open);
        open.get_or_insert_with(Handles::new).insert(ino, OpenDirectory::default())
    }

    fn at(&self, handle: Handle) -> Result<(u64, Arc<OpenDirectory>)> {
        let open = lock(&self.open);
        let found = open.as_ref().map(|open| open.at(handle));
        found.unwrap_or_else(|| Err(ErrorKind::BadDescriptor.into()))
    }

    fn remove(&self, handle: Handle) {
        let removed = lock(&self.open).as_mut().and_then(|open| open.remove(handle));
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// An open directory.
struct OpenDirectory {
    /// Grows with each change here since it was opened: then listed attributes may be old.
    changes: AtomicU64,
    /// The listing, taken out while it is read.
    listing: Mutex<Option<Listing>>,
}

impl Default for OpenDirectory {
    fn default() -> Self {
        Self { changes: AtomicU64::new(0), listing: Mutex::new(Some(Listing::default())) }
    }
}

/// A listing that is being read.
///
/// Entry `n` is found at offset `FIRST + n` for as long as the directory is open. Of what was handed
/// out only the names are kept; whoever goes back behind the last piece gets new attributes.
#[derive(Default)]
struct Listing {
    /// The entries that are still to come, and the path that they are listed from.
    stream: Option<(TreePath, BoxStream<'static, Result<Entry>>)>,
    /// The state of `changes` when the stream began.
    as_of: u64,
    /// The names of all entries that came out of the stream.
    names: Vec<Arc<[u8]>>,
    /// The last of those entries: what the last piece held, and what didn't fit into it.
    window: VecDeque<Entry>,
    /// An error behind the last entry.
    failed: Option<Error>,
}

impl Listing {
    /// The position of the window's first entry.
    fn window_start(&self) -> usize {
        self.names.len() - self.window.len()
    }

    /// Drops what lies before a position, since nobody goes back behind it without seeking.
    fn forget_before(&mut self, position: usize) {
        let gone = position.saturating_sub(self.window_start()).min(self.window.len());
        self.window.drain(..gone);
    }
}

impl Vfs {
    /// Opens a directory.
    pub fn open_dir(&self, ino: u64) -> Handle {
        self.directories.insert(ino)
    }

    /// Closes a directory.
    pub fn release_dir(&self, handle: Handle) {
        self.directories.remove(handle);
    }

    /// Hands out the entries from `offset` on until `fill` says that it took one too many.
    ///
    /// Offset 0 lists anew. With `count` each entry that was taken counts as looked up, but for
    /// `.` and `..`. It ends early, but not without an entry, where it had to wait.
    ///
    /// # Errors
    /// `ResourceBusy` when the same handle is being read elsewhere.
    pub async fn read_dir(
        &self,
        handle: Handle,
        offset: u64,
        count: bool,
        mut fill: impl FnMut(Listed<'_>) -> bool + Send,
    ) -> Result<()> {
        let (ino, directory) = self.directories.at(handle)?;
        let Some(mut listing) = lock(&directory.listing).take() else {
            return Err(Error::new(ErrorKind::ResourceBusy, "the directory is being read already"));
        };
        if offset == 0 {
            listing = Listing::default();
        }
        let done = self.read_listing(ino, &directory, &mut listing, offset, count, &mut fill).await;
        *lock(&directory.listing) = Some(listing);
        done
    }

    async fn read_listing(
        &self,
        ino: u64,
        directory: &OpenDirectory,
        listing: &mut Listing,
        offset: u64,
        count: bool,
        fill: &mut (impl FnMut(Listed<'_>) -> bool + Send),
    ) -> Result<()> {
        let dot = Attr::dir(SystemTime::UNIX_EPOCH, Duration::ZERO);
        for (at, name) in [(0, &b"."[..]), (1, b"..")] {
            let ino = if at == 0 { ino } else { lock(&self.nodes).parent(ino) };
            if at >= offset && fill(Listed { ino, next_offset: at + 1, name, attr: &dot }) {
                return Ok(());
            }
        }
        let mut position = usize::try_from(offset.saturating_sub(FIRST)).unwrap_or(usize::MAX);
        listing.forget_before(position);
        let mut filled = false;
        while let Some(name) = self.name_at(ino, directory, listing, position, filled).await? {
            let fresh = listing.window.get(position.wrapping_sub(listing.window_start()));
            let fresh =
                fresh.filter(|_| listing.as_of == directory.changes.load(Ordering::Acquire));
            let attr = match fresh {
                Some(entry) => Some(entry.attr.clone()),
                None => match self.stat_below(ino, &name).await {
                    Ok(attr) => attr,
                    // What was counted as looked up has to be handed out; whoever goes on meets it.
                    Err(_) if filled => return Ok(()),
                    Err(error) => return Err(error),
                },
            };
            position += 1;
            let Some(attr) = attr else { continue };
            let known = self.known(ino, &name, &attr, count);
            let next_offset = FIRST + position as u64;
            if fill(Listed { ino: known, next_offset, name: &name, attr: &attr }) {
                if count {
                    self.forget(known, 1);
                }
                break;
            }
            filled = true;
        }
        Ok(())
    }

    /// The name of an entry; `None` at the end, or when it would have to wait for more than
    /// what is `filled` already.
    async fn name_at(
        &self,
        ino: u64,
        directory: &OpenDirectory,
        listing: &mut Listing,
        position: usize,
        filled: bool,
    ) -> Result<Option<Arc<[u8]>>> {
        while listing.names.len() <= position {
            if let Some(error) = listing.failed.take_if(|_| !filled) {
                return Err(error);
            }
            if listing.failed.is_some() {
                return Ok(None);
            }
            if listing.stream.is_none() {
                // A directory that was removed while open has no entries.
                let Ok(path) = self.path(ino) else { return Ok(None) };
                listing.as_of = directory.changes.load(Ordering::Acquire);
                let entries = self.tree.list(&path).fuse().boxed();
                listing.stream = Some((path, entries));
            }
            let Some((path, stream)) = &mut listing.stream else { return Ok(None) };
            let next =
                if filled { stream.next().now_or_never() } else { Some(stream.next().await) };
            match next {
                None | Some(None) => return Ok(None),
                Some(Some(Ok(entry))) => {
                    listing.names.push(entry.name[..].into());
                    listing.window.push_back(entry);
                }
                Some(Some(Err(error))) => {
                    let at_first = error.kind() == ErrorKind::NotFound && listing.names.is_empty();
                    if at_first && self.moved(ino, path).await {
                        listing.stream = None;
                    } else {
                        listing.failed = Some(error);
                    }
                }
            }
        }
        Ok(listing.names.get(position).cloned())
    }

    /// Whether a directory isn't at this path any more, or is just leaving it.
    async fn moved(&self, ino: u64, path: &TreePath) -> bool {
        self.moves.settled(path).await || self.path(ino).ok().as_ref() != Some(path)
    }

    /// The attributes of a name that may be gone by now.
    async fn stat_below(&self, parent: u64, name: &[u8]) -> Result<Option<Attr>> {
        let found = self.below(parent, name, |path| async move { self.tree.stat(&path).await });
        match found.await {
            Ok(attr) => Ok(Some(attr)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn known(&self, parent: u64, name: &[u8], attr: &Attr, count: bool) -> u64 {
        let mut nodes = lock(&self.nodes);
        if count {
            return nodes.enter(parent, name, attr);
        }
        let known = nodes.at(parent, name).filter(|ino| nodes.stands_for(*ino, attr));
        known.unwrap_or(UNKNOWN)
    }
}
