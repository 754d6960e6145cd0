//! One version of an object on disk: its open files, read and written granule by granule.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{Advice, OFlags, fadvise};

use super::layout::{ENTRY, Entry, GRANULE, Layout, shelf_path};
use super::verified::Verified;
use crate::object::buffers::{Buffers, read_fresh};
use crate::object::direct::Direct;

/// How old the time of the last use may be on disk: a newer one would be written at each use.
const RECENT: Duration = Duration::from_mins(1);

/// The most that the kernel is asked to read ahead at once: it takes time to ask.
const LONGEST_AHEAD: u64 = 4 << 20;

/// How much is checked at a time, while nothing waits to be written.
const CHECKED_AT_ONCE: u64 = 4 << 20;

/// The open files of one version of an object.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) layout: Layout,
    data: Arc<File>,
    /// The file of the tail, if it is another one.
    tail: Option<File>,
    direct: Direct,
    /// What this process has seen to be right, of a file of nothing but bytes.
    verified: Verified,
    /// When use was last noted, in seconds.
    used: AtomicU64,
    /// Whether damage was told of.
    pub(super) told: AtomicBool,
}

/// What is found where a version of an object should be.
pub(super) enum Opened {
    /// Its files.
    There(Stored),
    /// Nothing, or what isn't whole yet.
    Absent,
    /// Something else.
    Damaged,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Runs of bytes that are right, with their offsets.
    pub(super) runs: Vec<(u64, Bytes)>,
    /// How many granules weren't what was written.
    pub(super) damaged: u64,
}

/// What a check has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it is right.
    Whole,
    /// Some more of it is, and so many granules weren't; the rest is to be checked.
    More(u64),
    /// Something isn't there, or was one of so many that weren't right.
    Missing(u64),
}

impl Stored {
    /// Opens what is there.
    pub(super) fn open(root: &Path, layout: &Layout) -> io::Result<Opened> {
        let tail = match layout.tail_path(root) {
            Some(path) => match open(&path)? {
                Some(tail) => Some(tail),
                None => return Ok(Opened::Absent),
            },
            None => None,
        };
        let Some(data) = open(&layout.data_path(root))? else {
            return Ok(Opened::Absent);
        };
        let expected = &layout.identity;
        let at = layout.identity_at();
        let identity = read_range(tail.as_ref().unwrap_or(&data), at..at + expected.len() as u64)?;
        if identity != *expected {
            // A writer comes to the identity later, or was killed before it.
            let begun = identity.len() < expected.len() || identity.iter().all(|byte| *byte == 0);
            return Ok(if begun { Opened::Absent } else { Opened::Damaged });
        }
        let metadata = data.metadata()?;
        if tail.is_some() && metadata.len() != layout.size {
            return Ok(Opened::Damaged);
        }
        let used = tail.as_ref().unwrap_or(&data).metadata()?.mtime();
        let stored = Self::new(layout, data, tail, u64::try_from(used).unwrap_or(0));
        if stored.is_sealed(&metadata)? {
            stored.verified.set_all();
        }
        Ok(Opened::There(stored))
    }

    /// Opens what is there, and makes what isn't.
    pub(super) fn create(root: &Path, layout: &Layout) -> io::Result<Self> {
        let data = create(root, layout)?;
        let tail = match layout.tail_path(root) {
            Some(path) => {
                if data.metadata()?.len() < layout.size {
                    data.set_len(layout.size)?;
                }
                Some(private_file().create(true).open(&path)?)
            }
            None => None,
        };
        tail.as_ref().unwrap_or(&data).write_all_at(&layout.identity, layout.identity_at())?;
        Ok(Self::new(layout, data, tail, now()))
    }

    /// Makes the file of a small object, which holds all of it.
    pub(super) fn create_whole(root: &Path, layout: &Layout, bytes: &[u8]) -> io::Result<()> {
        create(root, layout)?.write_all_at(&layout.whole_file(bytes), 0)
    }

    fn new(layout: &Layout, data: File, tail: Option<File>, used: u64) -> Self {
        Self {
            verified: Verified::new(if tail.is_some() { layout.granules() } else { 0 }),
            layout: layout.clone(),
            data: Arc::new(data),
            tail,
            direct: Direct::default(),
            used: AtomicU64::new(used),
            told: AtomicBool::new(false),
        }
    }

    /// Reads what is there of `bytes`. What isn't what was written is dropped.
    pub(super) fn read(&self, buffers: &Buffers, bytes: &Range<u64>) -> io::Result<Read> {
        let granules = self.layout.granules_of(bytes);
        let mut read = Read::default();
        let mut run: Vec<u32> = Vec::new();
        for (granule, entry) in granules.clone().zip(self.entries(&granules)?) {
            if let Entry::Sum(sum) = entry {
                run.push(sum);
                continue;
            }
            self.read_run(buffers, granule, &mut run, bytes, &mut read)?;
            if entry == Entry::Damaged {
                self.forget(granule);
                read.damaged += 1;
            }
        }
        self.read_run(buffers, granules.end, &mut run, bytes, &mut read)?;
        Ok(read)
    }

    /// Has the kernel read `bytes` before they are asked for.
    pub(super) fn read_ahead(&self, bytes: &Range<u64>) {
        let len = bytes.end.saturating_sub(bytes.start).min(LONGEST_AHEAD);
        // It is only advice: where it isn't taken, reading takes longer.
        let _ = fadvise(&*self.data, bytes.start, NonZeroU64::new(len), Advice::WillNeed);
    }

    /// Which granules of a run are there.
    pub(super) fn entries(&self, granules: &Range<u64>) -> io::Result<Vec<Entry>> {
        let range = self.layout.entry_at(granules.start)..self.layout.entry_at(granules.end);
        let bytes = read_range(self.tail(), range)?;
        let entry = usize::try_from(ENTRY).unwrap_or(8);
        let count = usize::try_from(granules.end - granules.start).unwrap_or(usize::MAX);
        let entries = bytes.chunks(entry).map(Entry::parse).chain(std::iter::repeat(Entry::Absent));
        Ok(entries.take(count).collect())
    }

    /// Reads the granules before `end` that have these checksums, as far as `bytes` goes.
    fn read_run(
        &self,
        buffers: &Buffers,
        end: u64,
        sums: &mut Vec<u32>,
        bytes: &Range<u64>,
        read: &mut Read,
    ) -> io::Result<()> {
        let first = end - sums.len() as u64;
        let range = self.layout.bytes_of(&(first..end));
        if range.is_empty() {
            return Ok(());
        }
        let len = index(range.end - range.start);
        let found = buffers.read(&self.data, range.start, len)?;
        let mut good = range.start;
        let mut keep = |from: u64, to: u64| {
            let (from, to) = (from.max(bytes.start), to.min(bytes.end));
            if from < to {
                let [low, high] = [from, to].map(|at| index(at - range.start));
                read.runs.push((from, found.slice(low..high)));
            }
        };
        for (granule, sum) in (first..end).zip(sums.drain(..)) {
            let place = self.layout.bytes_of(&(granule..granule + 1));
            let part = found.get(index(place.start - range.start)..index(place.end - range.start));
            if part.is_some_and(|part| self.layout.fits(granule, part, sum)) {
                self.verified.set(granule);
                continue;
            }
            keep(good, place.start);
            good = place.end;
            self.forget(granule);
            read.damaged += 1;
        }
        keep(good, range.end);
        Ok(())
    }

    /// Writes the granules that `bytes` at `offset` holds as a whole; tells how many bytes.
    ///
    /// The bytes come before their entries, and an entry that is torn is none: whenever this is
    /// cut short, what counts is right.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let end = (offset + bytes.len() as u64).min(self.layout.size);
        let last = if end == self.layout.size { self.layout.granules() } else { end / GRANULE };
        let granules = offset / GRANULE..last;
        let range = self.layout.bytes_of(&granules);
        if !offset.is_multiple_of(GRANULE) || range.is_empty() {
            return Ok(0);
        }
        let bytes = &bytes[..index(range.end - range.start)];
        let direct = self.direct.write(&self.data, bytes, offset)?;
        self.data.write_all_at(&bytes[direct..], offset + direct as u64)?;
        // Of bytes that another process has removed since, nothing may be told.
        if self.data.metadata()?.nlink() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let parts = bytes.chunks(index(GRANULE));
        let entries: Vec<u8> = granules
            .clone()
            .zip(parts)
            .flat_map(|(granule, part)| self.layout.entry(granule, part))
            .collect();
        self.tail().write_all_at(&entries, self.layout.entry_at(granules.start))?;
        for granule in granules {
            self.verified.set(granule);
        }
        Ok(range.end - range.start)
    }

    /// Takes a granule's entry away, so that it isn't there any more.
    fn forget(&self, granule: u64) {
        self.verified.unset(granule);
        // If that fails, its checksum won't fit next time either.
        let _ = self.tail().write_all_at(&[0; 8], self.layout.entry_at(granule));
        if let Some(tail) = &self.tail {
            let _ = tail.write_all_at(&[0; 8], self.layout.seal_at());
        }
    }

    /// Checks some more of what nobody has seen to be right yet.
    pub(super) fn check(&self, buffers: &Buffers) -> io::Result<Progress> {
        let Some(granule) = self.verified.first_unset() else { return Ok(Progress::Whole) };
        let start = granule * GRANULE;
        let read = self.read(buffers, &(start..start.saturating_add(CHECKED_AT_ONCE)))?;
        let is_there = read.runs.first().is_some_and(|(at, _)| *at == start);
        Ok(if is_there { Progress::More(read.damaged) } else { Progress::Missing(read.damaged) })
    }

    /// Leaves on disk that all of it is right, so that nobody has to check it again while the file
    /// is as it is now.
    pub(super) fn seal(&self) -> io::Result<()> {
        let Some(tail) = &self.tail else { return Ok(()) };
        // What is said of the bytes may not outlive them.
        self.data.sync_data()?;
        tail.write_all_at(&self.seal_of(&self.data.metadata()?), self.layout.seal_at())
    }

    fn is_sealed(&self, data: &fs::Metadata) -> io::Result<bool> {
        let Some(tail) = &self.tail else { return Ok(false) };
        let seal_at = self.layout.seal_at();
        Ok(read_range(tail, seal_at..self.layout.identity_at())? == self.seal_of(data))
    }

    /// The seal of a file as it is: whoever changes it changes its time.
    fn seal_of(&self, data: &fs::Metadata) -> Vec<u8> {
        let state = [data.ino().to_le_bytes(), data.ctime().to_le_bytes()];
        let state = [state.as_flattened(), &data.ctime_nsec().to_le_bytes()].concat();
        let sum = self.layout.entry(self.layout.granules(), &state);
        [&state[..], &sum].concat()
    }

    /// Whether another process has removed it: what is written would be lost, and its room is
    /// taken for as long as it is open.
    pub(super) fn is_removed(&self) -> bool {
        let removed = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        removed(&self.data) || self.tail.as_ref().is_some_and(removed)
    }

    /// The file of nothing but the object's bytes, if all of them were seen to be right.
    pub(super) fn complete(&self) -> Option<Arc<File>> {
        self.is_whole().then(|| self.data.clone())
    }

    /// Whether that is a file of its own, and all of it was seen to be right.
    pub(super) fn is_whole(&self) -> bool {
        self.tail.is_some() && self.verified.is_whole()
    }

    /// Leaves on disk that it is in use, now and then.
    pub(super) fn note_use(&self) {
        let now = now();
        let noted = self.used.load(Ordering::Relaxed);
        if now.abs_diff(noted) >= RECENT.as_secs() {
            self.used.store(now, Ordering::Relaxed);
            // It only makes it look older than it is.
            let _ = self.tail().set_modified(SystemTime::now());
        }
    }

    fn tail(&self) -> &File {
        self.tail.as_ref().unwrap_or(&self.data)
    }
}

/// Removes the files of a name, the tail first: bytes without it are nobody's.
pub(super) fn remove(root: &Path, name: &str) -> io::Result<()> {
    for path in [super::layout::tail_path(root, name), super::layout::data_path(root, name)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes directories, all of them their owner's only.
pub(super) fn private_dirs() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

/// How files are opened: read and written, their owner's only, never by way of a link.
pub(super) fn private_file() -> OpenOptions {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(no_link);
    options
}

/// Opens a file that may not be there, and may not be writable.
fn open(path: &Path) -> io::Result<Option<File>> {
    match private_file().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            private_file().write(false).open(path).map(Some)
        }
        other => other.map(Some),
    }
}

/// Opens the file of the bytes, and makes it if it isn't there.
fn create(root: &Path, layout: &Layout) -> io::Result<File> {
    let options = private_file().create(true).clone();
    let path = layout.data_path(root);
    match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            private_dirs().create(shelf_path(root, &layout.name))?;
            options.open(&path)
        }
        other => other,
    }
}

/// Reads a range of a file; shorter where the file ends.
pub(super) fn read_range(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let len = index(range.end.saturating_sub(range.start));
    Ok(read_fresh(file, range.start, len)?)
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// A length in bytes that is known to fit into memory.
fn index(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
