//! Tar archives: v7, ustar, GNU and pax.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::RwLock;

use bytes::Bytes;
use tar::Entry as Member;

use super::damaged;
use super::name::{nowhere, place};
use super::pax::Pax;
use super::sparse::Expanded;
use crate::chunk::index::Index;
use crate::chunk::split::WHOLE;
use crate::snapshot::capture::Progress;
use crate::snapshot::capture::feed::{At, Coming, Feed, Stopped};
use crate::snapshot::capture::read::{Done, Input, Part, ReadError, Reading};
use crate::snapshot::format::{Content, Entry, Mtime};

/// How long all headers of a member may be together, in bytes. They are kept in memory, and a few
/// compressed bytes may be as many as one likes; the map of a sparse file of 100,000 pieces has less.
const LONGEST_HEADERS: u64 = 8 << 20;

/// Where an archive goes.
pub(super) struct Into<'a> {
    pub(super) name: &'a str,
    pub(super) feed: &'a Feed,
    pub(super) index: &'a RwLock<Index>,
    pub(super) progress: &'a Progress,
}

impl Into<'_> {
    /// Takes in all members.
    pub(super) fn take(&self, source: impl Read) -> Result<(), Stopped> {
        let course = Course::default();
        course.limit.set(LONGEST_HEADERS);
        let mut archive = tar::Archive::new(Followed { source, course: &course });
        for member in archive.entries().map_err(|error| self.damaged(error))? {
            let member = member.map_err(|error| self.damaged(error))?;
            course.member_of(stored_len(&member));
            self.member(member)?;
        }
        course.limit.set(u64::MAX);
        if course.ended.get() {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "its end marker is missing");
            return Err(self.damaged(error));
        }
        // What follows has the checksum of what was compressed.
        let rest = io::copy(&mut archive.into_inner(), &mut io::sink());
        rest.map(|_| ()).map_err(|error| self.damaged(error))
    }

    fn member<R: Read>(&self, mut member: Member<'_, R>) -> Result<(), Stopped> {
        let kind = member.header().entry_type();
        // What is said for all members is comments, as `git archive` writes them; `V` is a label.
        if kind.is_pax_global_extensions() || kind.as_byte() == b'V' {
            return Ok(());
        }
        let pax = Pax::of(&mut member).map_err(|error| self.damaged(error))?;
        let name = pax.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let name = name.unwrap_or_else(|| member.path_bytes().into_owned());
        let at = match place(&name) {
            Ok(at) => at,
            Err(reason) => return self.feed.skip(nowhere(&name), reason),
        };
        // Fields that are left empty are read as errors.
        let mode = member.header().mode().unwrap_or(0o644) & 0o7777;
        let mtime = pax.mtime.unwrap_or_else(|| {
            let seconds = member.header().mtime().unwrap_or(0).cast_signed();
            Mtime { seconds, nanos: 0 }
        });
        let is_file = kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse();
        // Before there was a type for directories, they ended in a slash; `D` lists what is in one.
        if kind.is_dir() || kind.as_byte() == b'D' || (is_file && name.ends_with(b"/")) {
            return self.entry(at, mode, mtime, Content::Directory);
        }
        if at.name.is_empty() {
            return self.feed.skip(nowhere(&name), "it is no directory");
        }
        if kind.is_symlink() {
            return match member.link_name_bytes().filter(|target| !target.is_empty()) {
                Some(target) => {
                    let target = Bytes::copy_from_slice(&target);
                    self.entry(at, mode, mtime, Content::Symlink(target))
                }
                None => self.feed.skip(at, "it is a symbolic link to nothing"),
            };
        }
        if kind.is_hard_link() {
            let target = member.link_name_bytes().unwrap_or_default();
            return match place(&target) {
                Ok(target) => self.feed.send(at, Coming::Link(target)),
                Err(reason) => self.feed.skip(at, format!("it is a link, but {reason}")),
            };
        }
        if !is_file {
            return self.feed.skip(at, "it is neither a file, a directory nor a symbolic link");
        }
        if let Some(sparse) = pax.sparse {
            let source = Expanded::new(member, &sparse).map_err(|error| self.damaged(error))?;
            let size = source.size();
            return self.file(at, mode, mtime, source, size);
        }
        let size = member.size();
        self.file(at, mode, mtime, member, size)
    }

    fn entry(&self, at: At, mode: u32, mtime: Mtime, content: Content<u32>) -> Result<(), Stopped> {
        self.feed.send(at, Coming::Entry(Entry { mode, mtime, content }))
    }

    fn file(
        &self,
        at: At,
        mode: u32,
        mtime: Mtime,
        mut source: impl Read,
        size: u64,
    ) -> Result<(), Stopped> {
        if size <= WHOLE as u64 {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(WHOLE) + 1);
            source.read_to_end(&mut bytes).map_err(|error| self.damaged(error))?;
            self.complete(bytes.len() as u64, size)?;
            return self.feed.file(at, Input::Bytes { bytes: bytes.into(), mode, mtime });
        }
        // The parts of a large one have to be read here: what follows is behind them.
        let parts = self.feed.begin(at)?;
        let reading = Reading { parts: &parts, index: self.index, progress: self.progress };
        let read = reading.send_parts(source, size).map_err(|error| match error {
            ReadError::Io(error) => self.damaged(error),
            ReadError::Unwanted => Stopped::Unwanted,
        })?;
        self.complete(read, size)?;
        let done = Part::Done(Done::settled(mode, mtime));
        reading.send(done).map_err(|_| Stopped::Unwanted)
    }

    fn complete(&self, read: u64, size: u64) -> Result<(), Stopped> {
        if read == size {
            return Ok(());
        }
        Err(self.damaged(io::ErrorKind::UnexpectedEof.into()))
    }

    fn damaged(&self, error: io::Error) -> Stopped {
        Stopped::Failed(damaged(self.name, error))
    }
}

/// How many bytes a member has in the archive, which its holes haven't.
fn stored_len<R: Read>(member: &Member<'_, R>) -> u64 {
    let header = member.header();
    if header.entry_type().is_gnu_sparse() {
        header.entry_size().unwrap_or(0)
    } else {
        member.size()
    }
}

/// How far an archive was read, in bytes.
#[derive(Default)]
struct Course {
    at: Cell<u64>,
    /// Where the headers of the next member have to end.
    limit: Cell<u64>,
    /// Whether its source has ended: a tar ends before, by its own marker.
    ended: Cell<bool>,
}

impl Course {
    /// Notes that a member begins here, whose headers were read.
    fn member_of(&self, len: u64) {
        self.limit.set(self.at.get().saturating_add(len).saturating_add(LONGEST_HEADERS));
    }
}

/// Follows how an archive is read.
struct Followed<'a, R> {
    source: R,
    course: &'a Course,
}

impl<R: Read> Read for Followed<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Course { at, limit, ended } = self.course;
        if at.get() > limit.get() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its headers are too long"));
        }
        let len = self.source.read(into)?;
        if len == 0 && !into.is_empty() {
            ended.set(true);
        }
        at.set(at.get() + len as u64);
        Ok(len)
    }
}
