//! Turns directories, archives and buckets into a version.
//!
//! One thread finds out what there is, a few others read, hash and compress; what they read is
//! stored in the order in which it was found, so that packs hold files in path order and the same
//! input gives the same version. Packs are durable before the pages that name them, those before
//! the root. Who publishes the root does so last: a capture that dies leaves nothing but orphans,
//! which the next one finds by their hashes and uses.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::format::Totals;
use super::read::Version;
use crate::chunk::{Id, Packs};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::object::ObjectStore;
use crate::path::TreePath;

mod amend;
mod archive;
mod assembly;
mod changes;
mod feed;
mod gone;
mod layout;
mod memo;
mod objects;
mod read;
mod run;
mod seen;
mod splice;
mod store;
mod unordered;
mod walk;

pub use archive::Archive;
pub use changes::{Changes, Depth};

use seen::Memory;

/// A version that is to be made.
#[derive(Default)]
pub struct Capture {
    sources: Vec<(TreePath, Source)>,
    unordered: Option<UnorderedSource>,
    previous: Option<Version>,
    memory: Option<Memory>,
    /// Whether the memory stays as it is.
    recalls: bool,
    changes: Option<(TreePath, Changes)>,
    described: Option<(TreePath, Describe)>,
    at_most: Option<u64>,
    surveys: bool,
    progress: Arc<Progress>,
}

/// Makes a file of what there is to take in.
type Describe = Arc<dyn Fn(Total) -> Result<Bytes> + Send + Sync>;

#[derive(Clone)]
enum Source {
    Directory(PathBuf),
    /// A directory that isn't counted.
    Beside(PathBuf),
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

impl Total {
    /// Both together.
    fn and(self, other: Self) -> Self {
        let (entries, bytes) = (self.entries + other.entries, self.bytes + other.bytes);
        Self { entries, bytes }
    }
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
    /// What wasn't taken since it was more than what is taken [at most](Capture::at_most).
    pub too_much: Option<Total>,
    /// What is not in the version, or not as it was at one moment; the first 1000.
    pub skipped: Vec<Skipped>,
    /// Where these are.
    pub unsettled: Vec<TreePath>,
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

    /// Takes in a local directory that neither [`described`](Self::described) nor
    /// [`at_most`](Self::at_most) knows of.
    #[must_use]
    pub fn beside(mut self, at: TreePath, from: impl Into<PathBuf>) -> Self {
        self.sources.push((at, Source::Beside(from.into())));
        self
    }

    /// Takes in a file of these bytes, to be found at `at`.
    #[must_use]
    pub fn bytes(mut self, at: TreePath, bytes: impl Into<Bytes>) -> Self {
        self.sources.push((at, Source::Bytes(bytes.into())));
        self
    }

    /// Takes in a file to be found at `at` that `describe` makes of how many files there are in the
    /// directories that are taken in, and of how many bytes they have: about, for they may change
    /// before they are read.
    #[must_use]
    pub fn described(
        mut self,
        at: TreePath,
        describe: impl Fn(Total) -> Result<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.described = Some((at, Arc::new(describe)));
        self
    }

    /// Tells what may differ below the directory `at` from the previous version, which has it from
    /// the same place: nothing else of it is looked at. The outcome is the same as if all were.
    #[must_use]
    pub fn changed(mut self, at: TreePath, changes: Changes) -> Self {
        self.changes = Some((at, changes));
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
    pub fn remember(self, dir: impl Into<PathBuf>) -> Self {
        Self { memory: Some(Memory::new(dir.into())), recalls: false, ..self }
    }

    /// Doesn't read files again that are as they were for the previous version, as far as that was
    /// kept in `dir`; keeps nothing there of this version, which won't be built upon.
    #[must_use]
    pub fn recall(self, dir: impl Into<PathBuf>) -> Self {
        Self { recalls: true, ..self.remember(dir) }
    }

    /// Leaves directories out when their files have more than so many bytes together; what is
    /// [described](Self::described) is told the truth.
    #[must_use]
    pub fn at_most(mut self, bytes: Option<u64>) -> Self {
        self.at_most = bytes;
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
            if let Source::Directory(from) | Source::Beside(from) = source {
                std::fs::read_dir(from)
                    .context(|| format!("{} can't be taken in", from.display()))?;
            }
        }
        let cancel = Cancel(self.progress.clone());
        let packs = packs.clone();
        let made = spawn_blocking(move || run::run(self, &packs)).await;
        drop(cancel);
        made.map_err(|error| Error::new(ErrorKind::Io, "taking in was stopped").with_source(error))?
    }
}

/// Stops the capture when nobody waits for it any more.
struct Cancel(Arc<Progress>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}
