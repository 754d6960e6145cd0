//! The thread that writes what is to be kept, makes room for it, and checks what was kept before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::layout::Layout;
use super::stored::{Progress, Stored};
use super::writer::{Job, Next};
use super::{LEAST_CHECKED, Shared};
use crate::cache::ObjectVersion;

/// How long nothing is written after there was no room.
const PAUSE: Duration = Duration::from_secs(1);

impl Shared {
    /// The life of the thread that writes.
    pub(super) fn work(&self) {
        if !self.read_only {
            self.room.refresh().unwrap_or_else(|error| self.fail(&error));
        }
        let mut full = self.make_room();
        loop {
            match self.queue.next() {
                Next::End => return self.room.say(),
                Next::Rest => full = self.make_room(),
                Next::Check(version) => self.check(&version),
                Next::Write(jobs) => {
                    if full.is_some_and(|since| since.elapsed() >= PAUSE) {
                        full = self.make_room();
                    }
                    if full.is_none() {
                        full = self.write(jobs);
                    }
                }
            }
        }
    }

    /// Writes jobs until there is no room; when that was, if it was.
    fn write(&self, jobs: Vec<Job>) -> Option<Instant> {
        for Job { version, offset, bytes } in jobs {
            if self.broken.load(Ordering::Relaxed) {
                return None;
            }
            let Some(bytes) = bytes.take() else { continue };
            if self.room.is_due(bytes.len() as u64)
                && let Some(full) = self.make_room()
            {
                return Some(full);
            }
            match self.write_one(&version, offset, &bytes) {
                Ok(grown) => self.room.grew(grown),
                Err(error) if no_room(&error) => {
                    self.make_room();
                    self.tell_full();
                    return Some(Instant::now());
                }
                Err(error) => self.fail(&error),
            }
        }
        None
    }

    fn write_one(
        &self,
        version: &Arc<ObjectVersion>,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<u64> {
        let known = self.lock_open().get(version).cloned();
        if let Some(stored) = known {
            match stored.write(offset, bytes) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    drop(self.lock_open().pop(version));
                }
                other => {
                    self.ask_for_seal(version, &stored);
                    return other.map(blocks);
                }
            }
        }
        let Some(layout) = Layout::of(version) else { return Ok(0) };
        if layout.is_one_file() && bytes.len() as u64 == layout.size {
            Stored::create_whole(&self.root, &layout, bytes)?;
            return Ok(blocks(layout.size) + blocks(layout.identity.len() as u64));
        }
        let stored = self.keep_open(version, Stored::create(&self.root, &layout)?);
        let written = stored.write(offset, bytes)?;
        self.ask_for_seal(version, &stored);
        Ok(blocks(written) + blocks(layout.identity.len() as u64))
    }

    /// Has a version sealed when there is time, if it has just become whole.
    fn ask_for_seal(&self, version: &Arc<ObjectVersion>, stored: &Stored) {
        if version.size >= LEAST_CHECKED && stored.is_whole() {
            self.queue.check(version.clone());
        }
    }

    /// Checks some of a version and asks for the rest; seals it once all of it is right.
    fn check(&self, version: &Arc<ObjectVersion>) {
        let Some(stored) = self.find(version) else { return };
        // Who waits for the end waits for a seal, but not for a disk to be read.
        if self.queue.is_closed() && !stored.is_whole() {
            return;
        }
        let damaged = match stored.check(&self.buffers) {
            // Without a seal, it is checked again.
            Ok(Progress::Whole) => return stored.seal().unwrap_or_default(),
            Ok(Progress::More(damaged)) => {
                self.queue.check(version.clone());
                damaged
            }
            Ok(Progress::Missing(damaged)) => damaged,
            Err(error) => return self.fail(&error),
        };
        if damaged > 0 {
            self.tell_damage(version, damaged, &stored.told);
        }
    }

    /// Makes room if there is too little; when that was, if it still is.
    fn make_room(&self) -> Option<Instant> {
        if self.read_only {
            return None;
        }
        let settled = self.room.settle();
        self.close_removed();
        match settled {
            Ok(true) => None,
            Ok(false) => {
                self.tell_full();
                Some(Instant::now())
            }
            Err(error) if no_room(&error) => {
                self.tell_full();
                Some(Instant::now())
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// Closes what other processes have removed, so that its room becomes free.
    fn close_removed(&self) {
        let open: Vec<_> =
            self.lock_open().iter().map(|(at, on)| (at.clone(), on.clone())).collect();
        for (version, stored) in open {
            if stored.is_removed() {
                drop(self.lock_open().pop(&version));
            }
        }
    }
}

/// The room that a file of so many bytes takes, in most file systems.
fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096)
}

fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
