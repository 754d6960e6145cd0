//! Reads files on a few threads: splits, hashes and compresses them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;

use super::Progress;
use super::archive::Zipped;
use super::feed::At;
use super::objects::Object;
use super::seen::{self, Print};
use super::walk::mtime_of;
use crate::chunk::index::Index;
use crate::chunk::split::{Chunks, WHOLE};
use crate::chunk::{Frame, Id};
use crate::error::Error;
use crate::snapshot::format::{INLINE, Mtime};

/// How often a file is read that changes while it is read.
const ATTEMPTS: usize = 3;

/// A file to read, and where to send it.
pub(super) struct Job {
    pub(super) at: At,
    pub(super) input: Input,
    pub(super) parts: SyncSender<Part>,
}

/// Where the bytes of a file come from.
pub(super) enum Input {
    /// A file of this machine.
    File(PathBuf),
    /// Bytes at hand.
    Bytes { bytes: Bytes, mode: u32, mtime: Mtime },
    /// A file in a zip archive.
    Zipped(Box<Zipped>),
    /// An object in a bucket.
    Object(Object),
}

/// What a file consists of, in order; one of the last four is the last part.
pub(super) enum Part {
    /// All bytes of a small file.
    Inline(Bytes),
    /// All bytes of a larger one.
    Whole(Piece),
    /// The next bytes of a large one.
    Chunk(Piece),
    /// Forget the parts so far: the file has changed.
    Again,
    /// The file ends.
    Done(Done),
    /// The file isn't there any more.
    Gone,
    /// The file can't be read, for this reason.
    Failed(String),
    /// Nothing more can be read.
    Broken(Error),
}

/// What is known of a file at its end.
pub(super) struct Done {
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
    /// Whether it stayed as it was while it was read.
    pub(super) settled: bool,
    /// What it is known by, if a change would show.
    pub(super) print: Option<Print>,
}

impl Done {
    /// A file that can't have changed and isn't known again.
    pub(super) fn settled(mode: u32, mtime: Mtime) -> Self {
        Self { mode, mtime, settled: true, print: None }
    }
}

/// Bytes with their hash.
pub(super) struct Piece {
    pub(super) id: Id,
    pub(super) plain: Bytes,
    /// Ready to be stored, unless it seemed to be in the store already.
    frame: Option<Frame>,
}

impl Piece {
    fn new(plain: Bytes, index: &RwLock<Index>) -> Self {
        let id = Id::of(&plain);
        let known = index.read().unwrap_or_else(PoisonError::into_inner).find(&id).is_some();
        let frame = (!known).then(|| Frame::new(id, plain.clone()));
        Self { id, plain, frame }
    }

    pub(super) fn into_frame(self) -> Frame {
        self.frame.unwrap_or_else(|| Frame::new(self.id, self.plain))
    }
}

/// Nobody waits for the file any more.
pub(super) struct Unwanted;

/// Reads files until there are no more.
pub(super) fn work(jobs: &Mutex<Receiver<Job>>, index: &RwLock<Index>, progress: &Arc<Progress>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { at, input, parts }) = job else { return };
        let reading = Reading { parts: &parts, index, progress };
        // If nobody wants the file, nobody wants to know that either.
        let _ = match input {
            Input::File(path) => reading.read_file(&at, &path),
            Input::Bytes { bytes, mode, mtime } => reading.read_bytes(&bytes, mode, mtime),
            Input::Zipped(zipped) => zipped.read(&reading),
            Input::Object(object) => object.read(&at, &reading),
        };
    }
}

/// Reads one file.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) parts: &'a SyncSender<Part>,
    pub(super) index: &'a RwLock<Index>,
    pub(super) progress: &'a Progress,
}

impl Reading<'_> {
    fn read_file(&self, at: &At, path: &Path) -> Result<(), Unwanted> {
        for attempt in 1..=ATTEMPTS {
            let began = SystemTime::now();
            match self.read_once(path) {
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                    return self.send(Part::Gone);
                }
                Err(ReadError::Io(error)) => return self.send(Part::Failed(error.to_string())),
                Err(ReadError::Unwanted) => return Err(Unwanted),
                Ok((before, settled)) if settled || attempt == ATTEMPTS => {
                    let (mode, mtime) = (before.mode() & 0o7777, mtime_of(&before));
                    let known = settled && seen::would_show(&before, began);
                    let print = known.then(|| Print::of_file(at, &before));
                    return self.send(Part::Done(Done { mode, mtime, settled, print }));
                }
                Ok(_) => self.send(Part::Again)?,
            }
        }
        Ok(())
    }

    fn read_bytes(&self, bytes: &[u8], mode: u32, mtime: Mtime) -> Result<(), Unwanted> {
        match self.send_parts(bytes, bytes.len() as u64) {
            Err(ReadError::Unwanted) => Err(Unwanted),
            Err(ReadError::Io(error)) => self.send(Part::Failed(error.to_string())),
            Ok(_) => self.send(Part::Done(Done::settled(mode, mtime))),
        }
    }

    /// Sends the file's bytes; returns what it was before, and whether it still is.
    fn read_once(&self, path: &Path) -> Result<(Metadata, bool), ReadError> {
        let file = open(path)?;
        let before = file.metadata()?;
        let read = self.send_parts(&file, before.len())?;
        let after = file.metadata()?;
        let same = |of: fn(&Metadata) -> i64| of(&before) == of(&after);
        let settled = read == after.len()
            && same(MetadataExt::mtime)
            && same(MetadataExt::mtime_nsec)
            && same(MetadataExt::ctime)
            && same(MetadataExt::ctime_nsec);
        Ok((before, settled))
    }

    /// Sends all bytes of `source`, of which there are probably `likely_len`; returns how many.
    pub(super) fn send_parts(
        &self,
        mut source: impl Read,
        likely_len: u64,
    ) -> Result<u64, ReadError> {
        let capacity = usize::try_from(likely_len).unwrap_or(WHOLE).min(WHOLE) + 1;
        let mut head = Vec::with_capacity(capacity);
        source.by_ref().take(WHOLE as u64 + 1).read_to_end(&mut head)?;
        if head.len() <= WHOLE {
            return Ok(self.send_whole(head.into())?);
        }
        let mut len = 0;
        for chunk in Chunks::new(io::Cursor::new(head).chain(source)) {
            let chunk = chunk?;
            len += chunk.len() as u64;
            self.count(chunk.len());
            self.send(Part::Chunk(self.piece(chunk)))?;
        }
        Ok(len)
    }

    /// Sends all bytes of a file that isn't large; returns how many.
    pub(super) fn send_whole(&self, bytes: Bytes) -> Result<u64, Unwanted> {
        let len = bytes.len();
        self.count(len);
        let inline = len <= INLINE;
        self.send(if inline { Part::Inline(bytes) } else { Part::Whole(self.piece(bytes)) })?;
        Ok(len as u64)
    }

    fn piece(&self, plain: Bytes) -> Piece {
        Piece::new(plain, self.index)
    }

    fn count(&self, len: usize) {
        self.progress.bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    pub(super) fn send(&self, part: Part) -> Result<(), Unwanted> {
        self.parts.send(part).map_err(|_| Unwanted)
    }
}

pub(super) enum ReadError {
    Io(io::Error),
    Unwanted,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Unwanted> for ReadError {
    fn from(_: Unwanted) -> Self {
        Self::Unwanted
    }
}

/// Opens a regular file; one that was swapped for something else neither leads away nor blocks.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it isn't a regular file any more"))
}
