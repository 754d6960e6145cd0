//! Turns directories into a version.
//!
//! One thread walks and decides, a few others read, hash and compress; what they found is taken
//! in the order of the walk, so that packs hold files in path order and the same input gives the
//! same version. Packs are durable before the pages that name them, those before the root. Who
//! publishes the root does so last: a capture that dies leaves nothing but orphans.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::format::{Content, Entry, Mtime, Totals};
use super::read::Version;
use crate::chunk::index::Index;
use crate::chunk::{Id, Packs};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::path::TreePath;

mod layout;
mod read;
mod store;
mod walk;

use layout::Layout;
use read::{Job, Part};
use store::{Finished, Frames, Pages};
use walk::{Found, Walk, What};

/// Files that are read ahead of the one that is stored; each holds up to 512 KiB, or a few chunks.
const WINDOW: usize = 64;

/// Chunks of a large file that may wait to be stored.
const CHUNKS_AHEAD: usize = 16;

/// Threads that read files.
const READERS: usize = 4;

/// A version that is to be made.
#[derive(Default)]
pub struct Capture {
    sources: Vec<(TreePath, Source)>,
    previous: Option<Version>,
    progress: Arc<Progress>,
}

enum Source {
    Directory(PathBuf),
    Bytes(Bytes),
}

/// How far a capture is; read it while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries that are done.
    pub entries: AtomicU64,
    /// Bytes that were read.
    pub bytes: AtomicU64,
    /// Bytes that were found to be in the store already.
    pub reused: AtomicU64,
    /// Bytes that were stored, after compression.
    pub stored: AtomicU64,
    cancelled: AtomicBool,
}

/// A version that was made.
#[derive(Debug)]
pub struct Captured {
    /// The hash of its root, which names it. Equal input to an equal previous version gives an
    /// equal root.
    pub root: Id,
    /// What it holds.
    pub totals: Totals,
    /// Bytes that were added to the store.
    pub stored: u64,
    /// Bytes of files that were in the store already.
    pub reused: u64,
    /// All objects that it needs, for who publishes it.
    pub needs: BTreeSet<Id>,
    /// What is not in the version, or not as it was at one moment.
    pub skipped: Vec<Skipped>,
}

/// Something that was left out of a version, or may be torn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is, below the top of the version.
    pub path: TreePath,
    /// Why.
    pub reason: String,
}

impl Capture {
    /// Begins with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what is in the local directory `from`, to be found at `at`.
    #[must_use]
    pub fn directory(mut self, at: TreePath, from: impl Into<PathBuf>) -> Self {
        self.sources.push((at, Source::Directory(from.into())));
        self
    }

    /// Takes in a file of these bytes, to be found at `at`.
    #[must_use]
    pub fn bytes(mut self, at: TreePath, bytes: impl Into<Bytes>) -> Self {
        self.sources.push((at, Source::Bytes(bytes.into())));
        self
    }

    /// Builds on a previous version, whose pages are used again where nothing has changed.
    #[must_use]
    pub fn since(mut self, previous: Version) -> Self {
        self.previous = Some(previous);
        self
    }

    /// Reports to `progress`.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Makes the version; all of it is durable in the store when this returns.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `PermissionDenied` when a directory to take in can't be
    /// listed; `StorageFull` and others of the store. What can't be read below a directory is no
    /// error but named in [`Captured::skipped`].
    pub async fn run(self, packs: &Packs) -> Result<Captured> {
        for (_, source) in &self.sources {
            if let Source::Directory(from) = source {
                std::fs::read_dir(from)
                    .context(|| format!("{} can't be taken in", from.display()))?;
            }
        }
        let index = Arc::new(RwLock::new(packs.index().await?));
        let cancel = Cancel(self.progress.clone());
        let packs = packs.clone();
        let made = spawn_blocking(move || self.assemble(&packs, &index)).await;
        drop(cancel);
        made.map_err(|error| Error::new(ErrorKind::Io, "taking in was stopped").with_source(error))?
    }

    fn assemble(self, packs: &Packs, index: &Arc<RwLock<Index>>) -> Result<Captured> {
        let Self { sources, previous, progress } = self;
        let (mode, mtime) = top_of(&sources);
        let walk = Walk::new(sources, Mtime::from(SystemTime::now()));
        let (jobs, queue) = sync_channel(WINDOW);
        let queue = Mutex::new(queue);
        thread::scope(|scope| {
            let readers = thread::available_parallelism().map_or(1, usize::from).min(READERS);
            for _ in 0..readers {
                scope.spawn(|| read::work(&queue, index, &progress));
            }
            let mut assembly = Assembly {
                frames: Frames::new(packs, index.clone(), progress.clone()),
                pages: Pages::new(packs, previous.as_ref())?,
                window: VecDeque::new(),
                waiting: VecDeque::new(),
                skipped: Vec::new(),
                previous,
                progress: &progress,
            };
            // Dropping the sender, whatever happens, lets the readers end.
            assembly.take_all(walk, jobs)?;
            assembly.finish(mode, mtime)
        })
    }
}

/// Stops the capture when nobody waits for it any more.
struct Cancel(Arc<Progress>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

/// A capture at work.
struct Assembly<'a> {
    frames: Frames,
    pages: Pages,
    /// What was found and isn't stored yet, in order.
    window: VecDeque<Ticket>,
    /// Entries whose packs aren't durable yet, in order.
    waiting: VecDeque<(Bytes, Bytes, Entry<u32>)>,
    skipped: Vec<Skipped>,
    previous: Option<Version>,
    progress: &'a Progress,
}

struct Ticket {
    directory: Bytes,
    name: Bytes,
    coming: Coming,
}

enum Coming {
    Entry(Entry<u32>),
    File(Receiver<Part>),
    Skipped(String),
}

impl Assembly<'_> {
    fn take_all(&mut self, walk: Walk, jobs: SyncSender<Job>) -> Result<()> {
        for found in walk {
            if self.progress.cancelled.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            self.window.push_back(ticket(found, &jobs)?);
            if self.window.len() >= WINDOW {
                self.store_next()?;
            }
        }
        drop(jobs);
        while !self.window.is_empty() {
            self.store_next()?;
        }
        Ok(())
    }

    fn finish(mut self, mode: u32, mtime: Mtime) -> Result<Captured> {
        let stored_data = self.frames.finish()?;
        self.release()?;
        let Finished { root, totals, stored, needs } = self.pages.finish(mode, mtime)?;
        let reused = self.progress.reused.load(Ordering::Relaxed);
        let stored = stored_data + stored;
        Ok(Captured { root, totals, stored, reused, needs, skipped: self.skipped })
    }

    /// Stores what is next in order.
    fn store_next(&mut self) -> Result<()> {
        let Some(Ticket { directory, name, coming }) = self.window.pop_front() else {
            return Ok(());
        };
        let entry = match coming {
            Coming::Entry(entry) => Some(entry),
            Coming::File(parts) => self.receive(&directory, &name, &parts)?,
            Coming::Skipped(reason) => {
                self.skip(&directory, &name, reason)?;
                None
            }
        };
        if let Some(entry) = entry {
            self.waiting.push_back((directory, name, entry));
        }
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        self.release()
    }

    /// Stores the parts of a file as they come.
    fn receive(
        &mut self,
        directory: &Bytes,
        name: &Bytes,
        parts: &Receiver<Part>,
    ) -> Result<Option<Entry<u32>>> {
        let (mut content, mut layout) = (None, None);
        loop {
            match parts.recv() {
                Ok(Part::Inline(bytes)) => content = Some(Content::Inline(bytes)),
                Ok(Part::Whole(piece)) => content = Some(self.whole(piece)?),
                Ok(Part::Chunk(piece)) => match &mut layout {
                    Some(layout) => layout,
                    None => layout.insert(self.layout(directory, name)),
                }
                .push(piece, &mut self.frames)?,
                Ok(Part::Again) => (content, layout) = (None, None),
                Ok(Part::Done { mode, mtime, settled }) => {
                    if !settled {
                        let reason = "it kept changing while it was read".to_owned();
                        self.skip(directory, name, reason)?;
                    }
                    let content = match (content, layout) {
                        (Some(content), _) => content,
                        (None, Some(layout)) => layout.finish(&mut self.frames)?,
                        (None, None) => Content::Inline(Bytes::new()),
                    };
                    return Ok(Some(Entry { mode, mtime, content }));
                }
                Ok(Part::Failed(error)) => {
                    self.skip(directory, name, error.to_string())?;
                    return Ok(None);
                }
                Err(_) => return Err(Error::new(ErrorKind::Io, "a thread that reads files ended")),
            }
        }
    }

    fn layout(&self, directory: &Bytes, name: &Bytes) -> Layout {
        let previous = self.previous.as_ref().and_then(|previous| {
            let path =
                TreePath::parse(directory).and_then(|directory| directory.join(name)).ok()?;
            // One that is damaged or gone is of no use, and no reason to stop.
            Handle::current().block_on(previous.entry(&path)).ok()
        });
        Layout::new(previous.map(|entry| entry.content), &self.frames)
    }

    fn whole(&mut self, piece: read::Piece) -> Result<Content<u32>> {
        let (id, len) = (piece.id, piece.plain.len() as u64);
        let slot = match self.frames.find(&id) {
            Some(slot) => {
                self.frames.count_reused(len);
                slot
            }
            None => self.frames.add(&piece.into_frame())?,
        };
        let place = self.frames.place(slot);
        let place = place.ok_or_else(|| Error::new(ErrorKind::Io, "a frame was lost"))?;
        Ok(Content::Frame { pack: slot.pack, place, id })
    }

    fn skip(&mut self, directory: &Bytes, name: &Bytes, reason: String) -> Result<()> {
        let mut path = TreePath::parse(directory)?;
        if !name.is_empty() {
            path = path.join(name)?;
        }
        self.skipped.push(Skipped { path, reason });
        Ok(())
    }

    /// Puts entries into pages as far as their packs are durable.
    fn release(&mut self) -> Result<()> {
        while let Some((_, _, entry)) = self.waiting.front() {
            if !entry.content.packs().iter().all(|pack| self.frames.pack(**pack).is_some()) {
                break;
            }
            let Some((directory, name, entry)) = self.waiting.pop_front() else { break };
            let Entry { mode, mtime, content } = entry;
            let Some(content) = content.rename_packs(|pack| self.frames.pack(pack)) else { break };
            let entry = Entry { mode, mtime, content };
            self.pages.push(&directory, &name, entry, &self.frames)?;
        }
        Ok(())
    }
}

fn ticket(found: Found, jobs: &SyncSender<Job>) -> Result<Ticket> {
    let Found { directory, name, what } = found;
    let coming = match what {
        What::Directory { mode, mtime } => {
            Coming::Entry(Entry { mode, mtime, content: Content::Directory })
        }
        What::Symlink { mode, mtime, target } => {
            Coming::Entry(Entry { mode, mtime, content: Content::Symlink(target) })
        }
        What::Skipped(reason) => Coming::Skipped(reason),
        What::File(input) => {
            let (parts, coming) = sync_channel(CHUNKS_AHEAD);
            let sent = jobs.send(Job { input, parts });
            sent.map_err(|_| Error::new(ErrorKind::Io, "the threads that read files ended"))?;
            Coming::File(coming)
        }
    };
    Ok(Ticket { directory, name, coming })
}

/// Mode and mtime of the top of a version: those of the directory that was taken in there.
fn top_of(sources: &[(TreePath, Source)]) -> (u32, Mtime) {
    let local = sources.iter().find_map(|(at, source)| match source {
        Source::Directory(from) if at.is_root() => std::fs::metadata(from).ok(),
        _ => None,
    });
    local.map_or((0o755, SystemTime::now().into()), |metadata| {
        (metadata.mode() & 0o7777, walk::mtime_of(&metadata))
    })
}
