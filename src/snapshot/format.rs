//! The format of a version: entries, the pages that hold them, and the root that lists the pages.
//!
//! A page is a frame in a pack of the `meta/` area; a root is an object of its own there, and its
//! id is the version's. Entries are sorted by their key: the path of the parent, NUL, the name;
//! so the children of a directory follow each other.
//!
//! ```text
//! page                                  root
//!   "ATPG" 1                              "ATRT" 1
//!   packs:       n, n × id                mode, mtime of the top directory
//!   directories: n, n × bytes             files, directories, symlinks, bytes
//!   entries:     n, n × entry             salt (bytes)
//!                                         packs of pages: n, n × id
//!                                         pages: n, n × page reference
//! entry
//!   directory (an index), name (bytes)  page reference
//!   kind u8, mode, mtime                  first key (bytes), number of entries
//!   0 directory:                          pack (an index), place, id
//!   1 symlink:   target (bytes)         place
//!   2 inline:    content (bytes)          offset, stored length, plain length, codec u8
//!   3 frame:     pack, place, id        run
//!   4 runs:      size, id, n, n × run     pack, first frame, frames, bytes
//! ```
//!
//! Numbers are unsigned LEB128, signed ones zigzag; an mtime is seconds (signed) and nanoseconds;
//! bytes are a length and that many bytes. The id of a file of runs is the BLAKE3 of the ids of
//! its chunks. A salt means nothing: it gives a root another name, where an equal one was
//! collected.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::chunk::{Id, Place, Run};

mod decode;
mod encode;
mod page;
mod root;

pub use page::{EncodedPage, Page, PageBuilder};
pub use root::{PageRef, Root, Totals};

/// Files up to this length, in bytes, are kept in their entry.
pub const INLINE: usize = 512;

/// What is at a path of a version; `P` names a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<P = Id> {
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// When it was last changed.
    pub mtime: Mtime,
    /// What it is, and where its bytes are.
    pub content: Content<P>,
}

/// What an entry is, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<P = Id> {
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(Bytes),
    /// A small file with its bytes.
    Inline(Bytes),
    /// A file that is one frame.
    Frame {
        /// The pack it is in.
        pack: P,
        /// Where in the pack.
        place: Place,
        /// The hash of the file.
        id: Id,
    },
    /// A large file in chunks.
    Runs {
        /// Length in bytes.
        size: u64,
        /// The hash of the ids of its chunks.
        id: Id,
        /// Where they are, in the order of the file.
        runs: Vec<Run<P>>,
    },
}

impl<P> Content<P> {
    /// Length in bytes of a file, or of a link's target.
    pub fn len(&self) -> u64 {
        match self {
            Self::Directory => 0,
            Self::Symlink(bytes) | Self::Inline(bytes) => bytes.len() as u64,
            Self::Frame { place, .. } => u64::from(place.plain_len),
            Self::Runs { size, .. } => *size,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both have the same bytes, wherever they are stored.
    pub fn is_same<Q>(&self, other: &Content<Q>) -> bool {
        match (self, other) {
            (Self::Directory, Content::Directory) => true,
            (Self::Symlink(one), Content::Symlink(two))
            | (Self::Inline(one), Content::Inline(two)) => one == two,
            (Self::Frame { id: one, .. }, Content::Frame { id: two, .. })
            | (Self::Runs { id: one, .. }, Content::Runs { id: two, .. }) => one == two,
            _ => false,
        }
    }

    /// The packs it needs.
    pub fn packs(&self) -> Vec<&P> {
        match self {
            Self::Frame { pack, .. } => vec![pack],
            Self::Runs { runs, .. } => runs.iter().map(|run| &run.pack).collect(),
            _ => Vec::new(),
        }
    }

    /// The same with other names of packs; `None` when one has no other name.
    pub fn rename_packs<Q>(self, mut name: impl FnMut(P) -> Option<Q>) -> Option<Content<Q>> {
        Some(match self {
            Self::Directory => Content::Directory,
            Self::Symlink(target) => Content::Symlink(target),
            Self::Inline(bytes) => Content::Inline(bytes),
            Self::Frame { pack, place, id } => Content::Frame { pack: name(pack)?, place, id },
            Self::Runs { size, id, runs } => {
                let rename = |run: Run<P>| {
                    let Run { pack, first, count, len } = run;
                    Some(Run { pack: name(pack)?, first, count, len })
                };
                Content::Runs {
                    size,
                    id,
                    runs: runs.into_iter().map(rename).collect::<Option<_>>()?,
                }
            }
        })
    }
}

/// A time with nanoseconds, before or after 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds behind them, less than a second.
    pub nanos: u32,
}

impl Mtime {
    /// The time as the system has it; the nearest one it can express.
    pub fn to_system(self) -> SystemTime {
        let since = Duration::from_secs(self.seconds.unsigned_abs());
        let whole = if self.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(since)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        let nanos = Duration::from_nanos(self.nanos.into());
        whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl From<SystemTime> for Mtime {
    fn from(time: SystemTime) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self { seconds: seconds(since), nanos: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let borrow = u32::from(before.subsec_nanos() > 0);
                let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                Self { seconds: -seconds(before) - i64::from(borrow), nanos }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_come_back() {
        for (seconds, nanos) in [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-86_400, 500_000_000)]
        {
            let mtime = Mtime { seconds, nanos };
            assert_eq!(Mtime::from(mtime.to_system()), mtime);
        }
        for seconds in [i64::MIN, i64::MAX] {
            let _ = Mtime { seconds, nanos: 999_999_999 }.to_system();
        }
    }
}
