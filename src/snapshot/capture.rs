//! Turns directories, archives and buckets into a version.
//!
//! One thread finds out what there is, a few others read, hash and compress; what they read is
//! stored in the order in which it was found, so that packs hold files in path order and the same
//! input gives the same version. Packs are durable before the pages that name them, those before
//! the root. Who publishes the root does so last: a capture that dies leaves nothing but orphans,
//! which the next one finds by their hashes and uses.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::format::{Mtime, Totals};
use super::read::Version;
use crate::chunk::index::Index;
use crate::chunk::{Id, Packs};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::object::ObjectStore;
use crate::path::TreePath;

mod archive;
mod assembly;
mod feed;
mod layout;
mod objects;
mod read;
mod seen;
mod store;
mod unordered;
mod walk;

pub use archive::Archive;

use assembly::{Assembly, Entries};
use feed::{Feed, Stopped};
use seen::{Memory, Previous};
use store::{Frames, Pages};
use unordered::Unordered;

/// Files that are read ahead of the one that is stored; each holds up to 512 KiB, or a few chunks.
const WINDOW: usize = 64;

/// Threads that read files.
const READERS: usize = 4;

/// A version that is to be made.
#[derive(Default)]
pub struct Capture {
    sources: Vec<(TreePath, Source)>,
    unordered: Option<UnorderedSource>,
    previous: Option<Version>,
    memory: Option<Memory>,
    surveys: bool,
    progress: Arc<Progress>,
}

enum Source {
    Directory(PathBuf),
    Bytes(Bytes),
}

/// What has its entries in any order.
enum UnorderedSource {
    Archive(Archive),
    Objects(Arc<dyn ObjectStore>),
}

/// How far a capture is; read it while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries that are done.
    pub entries: AtomicU64,
    /// Bytes of files that were read.
    pub bytes: AtomicU64,
    /// Bytes of files that are as they were, so that they weren't read.
    pub unchanged: AtomicU64,
    /// Bytes that were found to be in the store already.
    pub reused: AtomicU64,
    /// Bytes that were stored, after compression.
    pub stored: AtomicU64,
    /// Bytes that were read of an archive.
    pub archive: AtomicU64,
    /// What there is to do, once it is known.
    pub total: OnceLock<Total>,
    cancelled: AtomicBool,
}

/// How much there is to take in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Entries; 0 where they can't be counted before they are read.
    pub entries: u64,
    /// Bytes of all files, or of the archive.
    pub bytes: u64,
}

impl Progress {
    /// How many of the bytes in [`total`](Self::total) are done.
    pub fn done(&self) -> u64 {
        match self.archive.load(Ordering::Relaxed) {
            0 => self.bytes.load(Ordering::Relaxed) + self.unchanged.load(Ordering::Relaxed),
            archive => archive,
        }
    }

    /// Ends the capture soon, as `Interrupted`; what it has read by then stays in the store.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
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
    /// What is not in the version, or not as it was at one moment; the first 1000.
    pub skipped: Vec<Skipped>,
    /// How many there are of these.
    pub left_out: u64,
}

/// Something that was left out of a version, or may be torn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is, below the top of the version, as it can be shown.
    pub path: String,
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

    /// Takes in what is in an archive.
    #[must_use]
    pub fn archive(mut self, archive: Archive) -> Self {
        self.unordered = Some(UnorderedSource::Archive(archive));
        self
    }

    /// Takes in all objects of a store; their keys become paths as in a mount of it.
    #[must_use]
    pub fn objects(mut self, store: Arc<dyn ObjectStore>) -> Self {
        self.unordered = Some(UnorderedSource::Objects(store));
        self
    }

    /// Builds on a previous version, whose pages are used again where nothing has changed.
    #[must_use]
    pub fn since(mut self, previous: Version) -> Self {
        self.previous = Some(previous);
        self
    }

    /// Keeps in `dir` which files were read, and doesn't read them again when they are as they
    /// were for the previous version.
    #[must_use]
    pub fn remember(mut self, dir: impl Into<PathBuf>) -> Self {
        self.memory = Some(Memory::new(dir.into()));
        self
    }

    /// Finds out how much there is to do while it is done, for [`Progress::total`].
    #[must_use]
    pub fn survey(mut self) -> Self {
        self.surveys = true;
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
    /// listed; `Damaged` when an archive is; `Interrupted` when it was cancelled; `StorageFull` and
    /// others of the stores. What alone can't be read is no error but named in
    /// [`Captured::skipped`].
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
        let Self { sources, unordered, previous, memory, surveys, progress } = self;
        let top = top_of(&sources);
        let runtime = Handle::current();
        let before = previous.as_ref().map(Version::id);
        let known = previous.clone().map(|previous| {
            Previous::new(previous, memory.as_ref(), index.clone(), runtime.clone())
        });
        let mut assembly = Assembly {
            frames: Frames::new(packs, index.clone(), progress.clone()),
            pages: Pages::new(packs, previous.as_ref())?,
            entries: match unordered {
                None => Entries::Sorted(VecDeque::new()),
                Some(UnorderedSource::Archive(_)) => Entries::Unordered(Unordered::new(false)),
                Some(UnorderedSource::Objects(_)) => Entries::Unordered(Unordered::new(true)),
            },
            skipped: Vec::new(),
            left_out: 0,
            prints: Vec::new(),
            previous,
            progress: &progress,
        };
        let ended = AtomicBool::new(false);
        let surveyed = surveys.then(|| survey(&sources, unordered.as_ref(), &runtime));
        let readers = match &unordered {
            Some(UnorderedSource::Objects(_)) => objects::READERS,
            _ => thread::available_parallelism().map_or(1, usize::from).min(READERS),
        };
        let (progress, ended, known, runtime) = (&progress, &ended, known.as_ref(), &runtime);
        let taken = thread::scope(|scope| {
            let (jobs, queue) = sync_channel(WINDOW);
            let (tickets, coming) = sync_channel(WINDOW);
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..readers {
                let queue = queue.clone();
                scope.spawn(move || read::work(&queue, index, progress));
            }
            drop(queue);
            if let Some(survey) = surveyed {
                scope.spawn(move || {
                    let wanted = || !ended.load(Ordering::Relaxed) && !progress.is_cancelled();
                    if let Some(total) = survey(&wanted) {
                        // Nobody else tells it.
                        let _ = progress.total.set(total);
                    }
                });
            }
            let feeding = scope.spawn(move || {
                let feed = Feed::new(jobs, tickets);
                walk::take(sources, known, progress, &feed)?;
                match unordered {
                    None => Ok(()),
                    Some(UnorderedSource::Archive(archive)) => archive.take(&feed, index, progress),
                    Some(UnorderedSource::Objects(store)) => {
                        objects::take(&store, known, progress, &feed, runtime)
                    }
                }
            });
            let taken = assembly.take_all(&coming);
            // Whoever feeds still is told that nothing more is wanted.
            drop(coming);
            let fed = feeding.join();
            ended.store(true, Ordering::Relaxed);
            match fed {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(_) if progress.is_cancelled() => {
                    Err(Error::new(ErrorKind::Interrupted, "taking in was interrupted"))
                }
                Ok(Err(Stopped::Failed(error))) => Err(error),
                Ok(_) => taken,
            }
        });
        if let Err(error) = taken {
            if error.kind() == ErrorKind::Interrupted {
                assembly.keep()?;
            }
            return Err(error);
        }
        let (captured, prints) = assembly.finish(top)?;
        if let Some(memory) = memory {
            memory.keep(captured.root, before, &prints);
        }
        Ok(captured)
    }
}

/// Finds out how much there is to do; `None` when nobody wants to know any more.
type Survey = Box<dyn FnOnce(&dyn Fn() -> bool) -> Option<Total> + Send>;

fn survey(
    sources: &[(TreePath, Source)],
    unordered: Option<&UnorderedSource>,
    runtime: &Handle,
) -> Survey {
    match unordered {
        Some(UnorderedSource::Archive(archive)) => {
            let bytes = archive.len();
            Box::new(move |_| bytes.map(|bytes| Total { entries: 0, bytes }))
        }
        Some(UnorderedSource::Objects(store)) => {
            let (store, runtime) = (store.clone(), runtime.clone());
            Box::new(move |wanted| objects::survey(&store, &runtime, wanted))
        }
        None => {
            let directories: Vec<_> = sources
                .iter()
                .filter_map(|(_, source)| match source {
                    Source::Directory(directory) => Some(directory.clone()),
                    Source::Bytes(_) => None,
                })
                .collect();
            Box::new(move |wanted| {
                directories.iter().try_fold(Total::default(), |total, directory| {
                    let more = walk::survey(directory, wanted)?;
                    let (entries, bytes) = (total.entries + more.entries, total.bytes + more.bytes);
                    Some(Total { entries, bytes })
                })
            })
        }
    }
}

/// Stops the capture when nobody waits for it any more.
struct Cancel(Arc<Progress>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
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
