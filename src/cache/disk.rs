//! Blocks on disk: kept from one mount to the next, shared by all mounts of a user on a host.
//!
//! There is no index: a version of an object is found by its name, a hash of what it is, in one of
//! 256 directories. Several processes read and write at once without talking to each other: the
//! same name holds the same bytes whoever writes them, and bytes count only while their checksum
//! fits. So nothing is synced, a crash costs what hadn't reached the disk, and what is damaged
//! counts as absent.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use lru::LruCache;
use rustix::fs::Access;

use self::layout::{Entry, Layout};
use self::room::Room;
use self::stored::{Opened, Stored};
use self::writer::{Held, Job, Queue};
use super::ObjectVersion;
use crate::config::CacheSize;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::metrics::Metrics;
use crate::object::buffers::Buffers;

mod census;
mod inspect;
mod layout;
mod room;
mod stored;
mod verified;
mod work;
mod writer;

pub use self::inspect::{CacheDir, Checked, Damage, Kept, Removed};
pub use self::layout::GRANULE;

/// The directory in the cache's that holds this format.
const FORMAT: &str = "v1";

/// How many objects are kept open: two descriptors each, of the 1,024 that are usual.
const MOST_OPEN: std::num::NonZeroUsize = std::num::NonZeroUsize::new(64).expect("isn't zero");

/// Of smaller objects nobody wants to know whether all of their file is right: they are read at
/// once, and checked by that.
const LEAST_CHECKED: u64 = 1 << 20;

/// Of an object that doesn't fit, some of the parts of this size are kept; a small cache has
/// smaller ones.
const LARGEST_PART: u64 = 8 << 20;

/// What becomes of bytes that were offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// They will be written, unless the disk is full.
    Taken,
    /// There is no time for them now.
    Busy,
    /// They aren't kept.
    Refused,
}

/// A directory of blocks.
#[derive(Debug)]
pub struct DiskCache {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Whether nothing can be added: what is there is read all the same.
    read_only: bool,
    room: Room,
    metrics: Arc<Metrics>,
    buffers: Buffers,
    queue: Queue,
    /// Guards the descriptors; held to look one up, never while a file is read.
    open: Mutex<LruCache<Arc<ObjectVersion>, Arc<Stored>>>,
    /// Set for good when the disk fails: the mount goes on without it.
    broken: AtomicBool,
    /// Whether it was told that there is no room.
    told: AtomicBool,
}

impl DiskCache {
    /// Opens the cache in `dir`, which is made if it isn't there.
    ///
    /// # Errors
    /// `PermissionDenied` when it is another user's; `ReadOnlyFilesystem`, `StorageFull` and others
    /// as the file system says.
    pub fn open(dir: &Path, size: CacheSize, metrics: Arc<Metrics>) -> Result<Self> {
        let root = prepare(dir)?;
        let read_only = rustix::fs::access(&root, Access::WRITE_OK).is_err();
        if read_only {
            tracing::info!("the disk cache {} can only be read: nothing is added", root.display());
        }
        let shared = Arc::new(Shared {
            read_only,
            room: Room::new(root.clone(), size),
            root,
            metrics,
            buffers: Buffers::default(),
            queue: Queue::default(),
            open: Mutex::new(LruCache::new(MOST_OPEN)),
            broken: AtomicBool::new(false),
            told: AtomicBool::new(false),
        });
        let writer = std::thread::Builder::new().name("disk cache".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.work()
        });
        let writer = writer.context(|| "the disk cache's thread can't be started".to_owned())?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Reads what is there of `bytes`: runs that are right, with their offsets, in order.
    ///
    /// It is a short read of a local file, to be called on the thread that wants the bytes.
    pub fn read(&self, version: &Arc<ObjectVersion>, bytes: Range<u64>) -> Vec<(u64, Bytes)> {
        let Some(stored) = self.shared.find(version) else { return Vec::new() };
        stored.note_use();
        match stored.read(&self.shared.buffers, &bytes) {
            Ok(read) => {
                if read.damaged > 0 {
                    self.shared.tell_damage(version, read.damaged, &stored.told);
                }
                read.runs
            }
            Err(error) => {
                self.shared.fail(&error);
                Vec::new()
            }
        }
    }

    /// What isn't there of `bytes`, as runs of whole checksummed parts.
    pub fn missing(&self, version: &Arc<ObjectVersion>, bytes: Range<u64>) -> Vec<Range<u64>> {
        let bytes = bytes.start..bytes.end.min(version.size);
        if bytes.is_empty() {
            return Vec::new();
        }
        let Some(stored) = self.shared.find(version) else { return vec![bytes] };
        let granules = stored.layout.granules_of(&bytes);
        let Ok(entries) = stored.entries(&granules) else { return vec![bytes] };
        let mut missing: Vec<Range<u64>> = Vec::new();
        for (granule, entry) in granules.zip(entries) {
            if matches!(entry, Entry::Sum(_)) {
                continue;
            }
            let place = stored.layout.bytes_of(&(granule..granule + 1));
            match missing.last_mut() {
                Some(run) if run.end == place.start => run.end = place.end,
                _ => missing.push(place),
            }
        }
        missing
    }

    /// Has the kernel read `bytes` of a version from the disk before they are asked for.
    pub fn read_ahead(&self, version: &Arc<ObjectVersion>, bytes: Range<u64>) {
        if let Some(stored) = self.shared.find(version) {
            stored.read_ahead(&bytes);
        }
    }

    /// Keeps `bytes` of a version, which begin at a multiple of [`GRANULE`], if there is time and
    /// room for it. Never waits.
    pub fn offer(&self, version: &Arc<ObjectVersion>, offset: u64, bytes: Bytes) -> Offered {
        self.add(version, offset, Held::Here(bytes))
    }

    /// Keeps what `find` gives when there is time, as [`offer`](Self::offer) keeps bytes.
    pub fn offer_later(
        &self,
        version: &Arc<ObjectVersion>,
        offset: u64,
        find: impl FnOnce() -> Option<Bytes> + Send + 'static,
    ) {
        self.add(version, offset, Held::Elsewhere(Box::new(find)));
    }

    fn add(&self, version: &Arc<ObjectVersion>, offset: u64, bytes: Held) -> Offered {
        if !(self.shared.takes() && self.keeps(version, offset)) {
            return Offered::Refused;
        }
        let job = Job { version: version.clone(), offset, bytes };
        if self.shared.queue.offer(job) { Offered::Taken } else { Offered::Busy }
    }

    /// Whether all of an object of `size` bytes would be kept, with room for others beside it.
    pub fn fits(&self, size: u64) -> bool {
        size <= self.shared.room.allowed() / 2 && self.shared.takes()
    }

    /// How many bytes may be there before some have to go.
    pub fn room(&self) -> u64 {
        self.shared.room.allowed() / 10 * 9
    }

    /// A file of all of a version's bytes, and of nothing else, if they are there and were seen to
    /// be right since the file was last changed. If that isn't known, it is found out in the
    /// background.
    ///
    /// There is none of an object of less than 1 MiB. The file is only ever read, and is whole for as long as it
    /// is open, also when the cache has dropped it.
    pub fn complete(&self, version: &Arc<ObjectVersion>) -> Option<Arc<File>> {
        let is_large = version.size >= LEAST_CHECKED;
        let stored = is_large.then(|| self.shared.find(version))??;
        stored.note_use();
        let file = stored.complete();
        if file.is_none() {
            self.shared.queue.check(version.clone());
        }
        file
    }

    /// Waits until what was offered is written.
    pub fn drain(&self) {
        self.shared.queue.drain();
    }

    /// Whether a part of an object is kept. Of an object that doesn't fit it is always the same
    /// parts, as many as fit: read in order, again and again, it would push out each part before
    /// it comes to be read again.
    fn keeps(&self, version: &ObjectVersion, offset: u64) -> bool {
        let allowed = self.shared.room.allowed() / 2;
        if version.size <= allowed {
            return true;
        }
        // The golden ratio spreads neighbours evenly (Knuth, volume 3, section 6.4).
        let part = (allowed / 32).next_power_of_two().clamp(GRANULE, LARGEST_PART);
        let spread = (offset / part).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        u128::from(spread) * u128::from(version.size) < u128::from(allowed) << 32
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            // A thread that panicked has said so.
            let _ = writer.join();
        }
    }
}

impl Shared {
    /// Whether anything can be added.
    fn takes(&self) -> bool {
        !self.read_only && !self.broken.load(Ordering::Relaxed)
    }

    /// The open files of a version, if it is there.
    fn find(&self, version: &Arc<ObjectVersion>) -> Option<Arc<Stored>> {
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(stored) = self.lock_open().get(version) {
            return Some(stored.clone());
        }
        let layout = Layout::of(version)?;
        match Stored::open(&self.root, &layout) {
            Ok(Opened::There(stored)) => Some(self.keep_open(version, stored)),
            Ok(Opened::Absent) => None,
            Ok(Opened::Damaged) => {
                self.tell_damage(version, 1, &AtomicBool::new(false));
                if !self.read_only {
                    let removed = stored::remove(&self.root, &layout.name);
                    removed.unwrap_or_else(|error| self.fail(&error));
                }
                None
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// Keeps files open; those of another thread that came first are the ones.
    fn keep_open(&self, version: &Arc<ObjectVersion>, stored: Stored) -> Arc<Stored> {
        let mut open = self.lock_open();
        if let Some(first) = open.get(version) {
            return first.clone();
        }
        let stored = Arc::new(stored);
        let last = open.push(version.clone(), stored.clone());
        drop(open);
        // Closing a file isn't done under the lock.
        drop(last);
        stored
    }

    fn tell_damage(&self, version: &ObjectVersion, granules: u64, told: &AtomicBool) {
        self.metrics.damaged.add(granules);
        if !told.swap(true, Ordering::Relaxed) {
            let object = &*version.object;
            tracing::warn!(object, "damage in the disk cache: what it hits is fetched again");
        }
    }

    fn tell_full(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let dir = self.root.display();
            tracing::warn!("there is no room left for the disk cache {dir}: not all is kept");
        }
    }

    /// Goes on without the disk, unless the trouble is that of one moment.
    fn fail(&self, error: &io::Error) {
        let momentary = matches!(
            error.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM)
        ) || error.kind() == io::ErrorKind::NotFound;
        if !momentary && !self.broken.swap(true, Ordering::Relaxed) {
            let dir = self.root.display();
            tracing::warn!("the disk cache {dir} fails and isn't used any more: {error}");
        }
    }

    fn lock_open(&self) -> MutexGuard<'_, LruCache<Arc<ObjectVersion>, Arc<Stored>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the cache's directory, and makes sure that it is this user's and closed to others.
fn prepare(dir: &Path) -> Result<PathBuf> {
    let root = dir.join(FORMAT);
    let shown = dir.display();
    stored::private_dirs().create(&root).context(|| format!("cache {shown} can't be made"))?;
    let metadata =
        fs::symlink_metadata(&root).context(|| format!("cache {shown} can't be opened"))?;
    if !metadata.is_dir() {
        let message = format!("{} isn't a directory", root.display());
        return Err(Error::new(ErrorKind::NotADirectory, message));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("cache {shown} belongs to another user");
        return Err(Error::new(ErrorKind::PermissionDenied, message)
            .with_hint("name a directory of your own with --cache-dir"));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700))
            .context(|| format!("cache {shown} can't be closed to others"))?;
    }
    Ok(root)
}
