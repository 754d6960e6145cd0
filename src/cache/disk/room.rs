//! How much room the cache takes and may take, and what goes when that is too much.
//!
//! All processes that share a cache add to one tally, so that each knows how much there is without
//! looking: its head is what was found by the last who looked, and each byte behind it stands for
//! so many bytes that came since.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use super::census;
use super::stored::{private_file, read_range, remove};
use crate::config::CacheSize;

/// Which process removes what is too much is decided by a lock on this file.
const LOCK: &str = "lock";

/// The tally.
const TALLY: &str = "tally";

/// What the tally begins with.
const MAGIC: [u8; 8] = *b"tally  1";

/// The length of its head.
const HEAD: u64 = 24;

/// What each further byte of it stands for.
const MARK: u64 = 256 << 10;

/// A process says what it added in steps of so many bytes, or smaller ones of a small cache.
const LARGEST_STEP: u64 = 4 << 20;

/// A tally is believed for so many seconds when a mount begins: crashes leave it a little short.
const BELIEVED: u64 = 3600;

/// The most that is left free for others.
const LARGEST_RESERVE: u64 = 1 << 30;

/// The room that a cache may take in its directory.
#[derive(Debug)]
pub(super) struct Room {
    root: PathBuf,
    size: CacheSize,
    /// What this process has added and not yet said.
    unsaid: AtomicU64,
    allowed: AtomicU64,
}

/// What room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// As configured, in bytes.
    pub(super) limit: u64,
    /// What is left free for others.
    pub(super) reserve: u64,
    /// What may be taken now: the limit, or less where the file system is nearly full.
    pub(super) allowed: u64,
}

impl Room {
    pub(super) fn new(root: PathBuf, size: CacheSize) -> Self {
        let room =
            Self { root, size, unsaid: AtomicU64::new(0), allowed: AtomicU64::new(u64::MAX) };
        let known = room.tally().map_or(0, |tally| tally.total());
        // What can't be asked now is asked before the first write.
        let _ = room.limits(known);
        room
    }

    /// What may be taken, by the last look.
    pub(super) fn allowed(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// What may be taken when `used` bytes are.
    pub(super) fn limits(&self, used: u64) -> io::Result<Limits> {
        let space = rustix::fs::statvfs(&self.root)?;
        let available = space.f_bavail.saturating_mul(space.f_frsize);
        let total = space.f_blocks.saturating_mul(space.f_frsize);
        let limits = limits(self.size, used, available, total);
        self.allowed.store(limits.allowed, Ordering::Relaxed);
        Ok(limits)
    }

    /// Whether it is time to look before so many bytes more are added.
    pub(super) fn is_due(&self, bytes: u64) -> bool {
        self.unsaid.load(Ordering::Relaxed) + bytes > self.step()
    }

    /// Notes that `bytes` were added.
    pub(super) fn grew(&self, bytes: u64) {
        self.unsaid.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Makes room if there is too little; tells whether more may be written.
    pub(super) fn settle(&self) -> io::Result<bool> {
        self.say();
        let tally = self.tally();
        if let Some(tally) = &tally {
            let total = tally.total();
            if total.saturating_add(self.step()) <= self.limits(total)?.allowed {
                return Ok(true);
            }
        }
        match self.lock()? {
            Some(_lock) => self.look(),
            // Another process is at it. Who doesn't know how much there is goes on until then.
            None => Ok(tally.is_none()),
        }
    }

    /// Counts anew if the tally is missing or old.
    pub(super) fn refresh(&self) -> io::Result<()> {
        let fresh = self.tally().is_some_and(|tally| now().abs_diff(tally.at) < BELIEVED);
        if !fresh && let Some(_lock) = self.lock()? {
            self.look()?;
        }
        Ok(())
    }

    /// Counts what there is and removes what is too much, longest unused first. Needs the lock.
    fn look(&self) -> io::Result<bool> {
        let said = self.tally().map_or(0, |tally| tally.marks);
        let mut records = census::take(&self.root)?;
        let mut used: u64 = records.iter().map(|record| record.room).sum();
        // What is removed becomes free, so that this stays as it is.
        let limits = self.limits(used)?;
        if used.saturating_add(self.step()) > limits.allowed {
            let goal = limits.allowed / 10 * 9;
            records.sort_unstable_by_key(|record| record.used);
            for record in records {
                if used <= goal {
                    break;
                }
                remove(&self.root, &record.file_name())?;
                used -= record.room;
            }
        }
        let since = self.tally().map_or(0, |tally| tally.marks).saturating_sub(said);
        self.begin_tally(used + since * MARK)?;
        Ok(used.saturating_add(self.step()) <= limits.allowed)
    }

    /// How much is added before it is said.
    fn step(&self) -> u64 {
        (self.allowed() / 16).clamp(MARK, LARGEST_STEP)
    }

    /// The lock of who removes; `None` while another has it.
    fn lock(&self) -> io::Result<Option<File>> {
        let file = private_file().create(true).open(self.root.join(LOCK))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn tally(&self) -> Option<Tally> {
        let file = File::open(self.root.join(TALLY)).ok()?;
        let head = read_range(&file, 0..HEAD).ok()?;
        let (magic, rest) = head.split_first_chunk::<8>()?;
        let (used, rest) = rest.split_first_chunk::<8>()?;
        let at = rest.first_chunk::<8>()?;
        let marks = file.metadata().ok()?.len().checked_sub(HEAD)?;
        let [used, at] = [used, at].map(|bytes| u64::from_le_bytes(*bytes));
        (*magic == MAGIC).then_some(Tally { used, at, marks })
    }

    /// Adds to the tally what this process has added to the cache.
    pub(super) fn say(&self) {
        let marks = self.unsaid.load(Ordering::Relaxed) / MARK;
        if marks == 0 {
            return;
        }
        let said =
            OpenOptions::new().append(true).open(self.root.join(TALLY)).and_then(|mut file| {
                file.write_all(&vec![b'+'; usize::try_from(marks).unwrap_or(usize::MAX)])
            });
        // Where there is no tally somebody will count; on a full disk it is said later.
        if said.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true) {
            self.unsaid.fetch_sub(marks * MARK, Ordering::Relaxed);
        }
    }

    /// Replaces the tally: who adds to it at this moment adds to the old one or to the new.
    fn begin_tally(&self, used: u64) -> io::Result<()> {
        let unfinished = self.root.join(format!("{TALLY}.new"));
        let options =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
        let head = [MAGIC, used.to_le_bytes(), now().to_le_bytes()].concat();
        options.open(&unfinished)?.write_all(&head)?;
        std::fs::rename(unfinished, self.root.join(TALLY))
    }

    /// Forgets the tally, so that the next who wants to know counts.
    pub(super) fn forget_tally(&self) {
        // It isn't there, or is wrong for an hour.
        let _ = std::fs::remove_file(self.root.join(TALLY));
    }
}

/// What is said of the room that is taken.
#[derive(Clone, Copy, Debug)]
struct Tally {
    /// What was found, in bytes.
    used: u64,
    /// When, in seconds.
    at: u64,
    /// How many marks came since.
    marks: u64,
}

impl Tally {
    fn total(&self) -> u64 {
        self.used.saturating_add(self.marks.saturating_mul(MARK))
    }
}

/// What a cache may take that takes `used`, on a file system of `total` bytes, `available` of them
/// free.
fn limits(size: CacheSize, used: u64, available: u64, total: u64) -> Limits {
    let free = available.saturating_add(used);
    let limit = match size {
        CacheSize::Bytes(bytes) => bytes,
        CacheSize::Percent(percent) => free / 100 * u64::from(percent),
    };
    let reserve = (total / 20).min(LARGEST_RESERVE);
    Limits { limit, reserve, allowed: limit.min(free.saturating_sub(reserve)) }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_share_is_of_what_would_be_free_without_the_cache() {
        let share = |used, available| {
            limits(CacheSize::Percent(10), used, available, 1000 * GIB).limit.div_ceil(GIB)
        };
        assert_eq!(share(0, 500 * GIB), 50);
        assert_eq!(share(40 * GIB, 460 * GIB), 50);
    }

    #[test]
    fn a_disk_that_others_fill_takes_the_cache_away() {
        let allowed = |used, available| {
            limits(CacheSize::Bytes(50 * GIB), used, available, 100 * GIB).allowed
        };
        assert_eq!(allowed(40 * GIB, 30 * GIB), 50 * GIB);
        assert_eq!(allowed(40 * GIB, 3 * GIB), 42 * GIB);
        assert_eq!(allowed(40 * GIB, 0), 39 * GIB);
        assert_eq!(allowed(0, 0), 0);
    }

    #[test]
    fn the_reserve_of_a_small_disk_is_small() {
        assert_eq!(limits(CacheSize::Bytes(1), 0, 0, 2 * GIB).reserve, GIB / 10);
        assert_eq!(limits(CacheSize::Bytes(1), 0, 0, 200 * GIB).reserve, GIB);
    }

    #[test]
    fn what_one_adds_all_know() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = [0, 1].map(|_| Room::new(dir.path().to_owned(), CacheSize::Bytes(GIB)));
        assert!(one.settle().unwrap());
        one.refresh().unwrap();
        one.grew(4 << 20);
        assert!(one.is_due(1));
        assert!(one.settle().unwrap());
        other.grew(2 << 20);
        assert!(!other.is_due(1 << 20));
        assert!(other.settle().unwrap());
        for room in [one, other] {
            assert_eq!(room.tally().unwrap().total(), 6 << 20);
        }
    }

    #[test]
    fn a_tally_that_is_none_is_counted_anew() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path().to_owned(), CacheSize::Bytes(GIB));
        std::fs::create_dir(dir.path().join("ab")).unwrap();
        let file = dir.path().join("ab/abababababababababababababababab");
        std::fs::write(&file, vec![1; 100_000]).unwrap();
        for wrong in [&b""[..], b"tally", &[7; 40]] {
            std::fs::write(dir.path().join(TALLY), wrong).unwrap();
            assert!(room.settle().unwrap());
            assert!(room.tally().unwrap().total() >= 100_000);
        }
    }
}
