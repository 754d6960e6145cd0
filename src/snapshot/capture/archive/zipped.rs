//! Zip archives, whose files are read by several threads.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::damaged;
use super::index::{Entry as Member, Index};
use super::name::{nowhere, place};
use crate::snapshot::capture::Progress;
use crate::snapshot::capture::feed::{At, Coming, Feed, Stopped};
use crate::snapshot::capture::read::{Done, Input, Part, ReadError, Reading, Unwanted};
use crate::snapshot::capture::unordered::DIRECTORY_MODE;
use crate::snapshot::format::{Content, Entry};

/// The mode of a file that has none of Unix.
const FILE_MODE: u32 = 0o644;

/// No target of a symbolic link is longer, in bytes (`PATH_MAX`).
const LONGEST_TARGET: u64 = 4096;

/// The bits of a mode that say what something is (`inode(7)`).
const TYPE: u32 = 0o170_000;

/// A file in an archive.
pub(in crate::snapshot::capture) struct Zipped {
    archive: Arc<File>,
    /// The name of the archive.
    name: Arc<str>,
    member: Member,
}

/// Takes in all entries of the archive `name`.
pub(super) fn take(
    name: &str,
    archive: &Arc<File>,
    feed: &Feed,
    progress: &Progress,
) -> Result<(), Stopped> {
    let failed = |error| Stopped::Failed(damaged(name, error));
    let shared: Arc<str> = name.into();
    for member in Index::find(archive).map_err(failed)? {
        let member = member.map_err(failed)?;
        progress.archive.fetch_add(member.stored, Ordering::Relaxed);
        let at = match place(&member.name) {
            Ok(at) => at,
            Err(reason) => {
                feed.skip(nowhere(&member.name), reason)?;
                continue;
            }
        };
        let is_directory = member.name.ends_with(b"/") || member.mode & TYPE == 0o040_000;
        let is_file = matches!(member.mode & TYPE, 0 | 0o100_000) && !at.name.is_empty();
        if is_directory {
            let (mode, mtime) = (mode_of(&member, DIRECTORY_MODE), member.mtime);
            let entry = Entry { mode, mtime, content: Content::Directory };
            feed.send(at, Coming::Entry(entry))?;
        } else if let Some(reason) = member.unreadable() {
            feed.skip(at, reason)?;
        } else if is_file {
            let (archive, name) = (archive.clone(), shared.clone());
            let zipped = Zipped { archive, name, member };
            feed.file(at, Input::Zipped(Box::new(zipped)))?;
        } else if member.mode & TYPE == 0o120_000 {
            link(at, &member, archive, feed).map_err(|error| match error {
                ReadError::Io(error) => failed(error),
                ReadError::Unwanted => Stopped::Unwanted,
            })?;
        } else {
            feed.skip(at, "it is neither a file, a directory nor a symbolic link")?;
        }
    }
    Ok(())
}

/// Takes in a symbolic link, whose target is its content.
fn link(at: At, member: &Member, archive: &Arc<File>, feed: &Feed) -> Result<(), ReadError> {
    let mut target = Vec::new();
    member.open(archive)?.take(LONGEST_TARGET).read_to_end(&mut target)?;
    let sent = if target.is_empty() || target.contains(&0) {
        feed.skip(at, "it is a symbolic link to nothing")
    } else {
        let content = Content::Symlink(target.into());
        let (mode, mtime) = (mode_of(member, 0o777), member.mtime);
        feed.send(at, Coming::Entry(Entry { mode, mtime, content }))
    };
    sent.map_err(|_| ReadError::Unwanted)
}

fn mode_of(member: &Member, default: u32) -> u32 {
    match member.mode & 0o7777 {
        0 => default,
        mode => mode,
    }
}

impl Zipped {
    /// Reads it, and checks its checksum.
    pub(in crate::snapshot::capture) fn read(self, reading: &Reading<'_>) -> Result<(), Unwanted> {
        let Self { archive, name, member } = self;
        let plain = member.open(&archive).map_err(ReadError::from);
        let read = plain.and_then(|plain| reading.send_parts(plain, member.size));
        let error = match read {
            Ok(read) if read == member.size => {
                let done = Done::settled(mode_of(&member, FILE_MODE), member.mtime);
                return reading.send(Part::Done(done));
            }
            Ok(_) => io::ErrorKind::UnexpectedEof.into(),
            Err(ReadError::Unwanted) => return Err(Unwanted),
            Err(ReadError::Io(error)) => error,
        };
        reading.send(Part::Broken(damaged(&name, error)))
    }
}
