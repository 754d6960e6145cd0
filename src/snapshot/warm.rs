//! Brings files of a version near before they are asked for, in a reader's order.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::format::Content;
use super::number::TOP;
use super::read::Version;
use crate::chunk::{Area, Id};
use crate::error::{Error, ErrorKind, Result};
use crate::object::{Brought, Near, Place};

/// Within so many bytes of a reader's order what lies together is brought together.
const WINDOW: u64 = 64 << 20;

/// What lies between two files is brought with them up to this length, in bytes: to leave it out
/// would cost a request more.
const GAP: u64 = 64 << 10;

/// The most bytes that are brought at a time, and how often at the same time: a disk cache keeps
/// no more waiting.
const LONGEST: u64 = 4 << 20;
const AT_ONCE: usize = 4;

/// How far it is; read it while it runs.
#[derive(Debug, Default)]
pub struct Warming {
    /// How many files are asked for.
    pub total: AtomicU64,
    /// How many of them were looked at.
    pub files: AtomicU64,
    /// How many bytes of the store were near.
    pub there: AtomicU64,
    /// How many were brought.
    pub brought: AtomicU64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmed {
    /// Where the bytes are now.
    pub place: Place,
    /// Whether all that was asked for is there; else there is no room for more.
    pub complete: bool,
}

/// A range of a pack.
type Piece = (Id, Range<u64>);

impl Version {
    /// The files of a version by number: those that these paths lead to, in their order, all of a
    /// directory in that of the store.
    ///
    /// # Errors
    /// `NotFound` for a path that isn't there; `Damaged`.
    pub async fn files_at(&self, paths: impl IntoIterator<Item = Bytes>) -> Result<Vec<u64>> {
        let mut files = Vec::new();
        for path in paths {
            let number = self.number_at(&path).await?;
            let mut directories = vec![(number, path)];
            while let Some((number, path)) = directories.pop() {
                match self.numbered(number).await?.entry.content {
                    Content::Directory => {
                        let below = directories.len();
                        self.children(&path, |number, name, content| match content {
                            Content::Directory => directories.push((number, join(&path, &name))),
                            Content::Symlink(_) => {}
                            _ => files.push(number),
                        })
                        .await?;
                        directories[below..].reverse();
                    }
                    Content::Symlink(_) => {}
                    _ => files.push(number),
                }
            }
        }
        Ok(files)
    }

    /// All files by number, sorted by the bytes of their paths.
    ///
    /// # Errors
    /// `Damaged`; those of the store.
    pub async fn files_by_path(&self) -> Result<Vec<u64>> {
        let (mut files, mut number) = (Vec::new(), TOP);
        let mut entries = self.entries();
        while let Some(named) = entries.next().await {
            let named = named?;
            number += 1;
            if !matches!(named.entry.content, Content::Directory | Content::Symlink(_)) {
                files.push((named.path(), number));
            }
        }
        files.sort_unstable();
        Ok(files.into_iter().map(|(_, number)| number).collect())
    }

    /// Brings the bytes of files, which are given by number, to where the store keeps what is read
    /// often; not more than `most` bytes, and not more than there is room for.
    ///
    /// # Errors
    /// `Unsupported` for a store that keeps nothing near; `Damaged`; those of the store.
    pub async fn warm(&self, files: &[u64], most: u64, progress: &Warming) -> Result<Warmed> {
        let store = self.packs().store().clone();
        let near = store.near().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "nothing is kept of what is read of this store")
                .with_hint("a disk cache keeps it: see --cache-size")
        })?;
        progress.total.store(files.len() as u64, Ordering::Relaxed);
        let (place, most) = (near.place(), most.min(near.room()));
        let (mut window, mut weight, mut taken) = (Vec::new(), 0, 0);
        let mut files = files.iter().peekable();
        while let Some(number) = files.next() {
            for piece in self.pieces(*number).await? {
                weight += piece.1.end - piece.1.start;
                window.push(piece);
            }
            taken += 1;
            if weight < WINDOW && files.peek().is_some() {
                continue;
            }
            if !bring(near, merged(std::mem::take(&mut window)), most, progress).await? {
                return Ok(Warmed { place, complete: false });
            }
            progress.files.fetch_add(std::mem::take(&mut taken), Ordering::Relaxed);
            weight = 0;
        }
        Ok(Warmed { place, complete: true })
    }

    async fn number_at(&self, path: &[u8]) -> Result<u64> {
        if path.is_empty() {
            return Ok(TOP);
        }
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(cut) => (&path[..cut], &path[cut + 1..]),
            None => (&b""[..], path),
        };
        let found = self.number_of(directory, name).await?;
        found.map(|(number, _)| number).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} isn't there", path.escape_ascii()))
                .with_hint("a path begins below the version's top directory")
        })
    }

    async fn children(
        &self,
        directory: &[u8],
        mut each: impl FnMut(u64, Bytes, Content),
    ) -> Result<()> {
        let mut number = self.first_below(directory).await?;
        while let Some((page, first)) = self.page_of(number).await? {
            for at in first..page.len() {
                match page.get(at) {
                    Some((parent, name, entry)) if parent == directory => {
                        each(number, name, entry.content);
                    }
                    _ => return Ok(()),
                }
                number += 1;
            }
        }
        Ok(())
    }

    /// Where the bytes of a file are.
    async fn pieces(&self, number: u64) -> Result<Vec<Piece>> {
        let runs = match self.numbered(number).await?.entry.content {
            Content::Frame { pack, place, .. } => return Ok(vec![(pack, place.range())]),
            Content::Runs { runs, .. } => runs,
            Content::Directory | Content::Symlink(_) | Content::Inline(_) => return Ok(Vec::new()),
        };
        let mut pieces = Vec::new();
        for run in runs {
            let footer = self.packs().footer(&run.pack).await?;
            let Some([first, .., last] | [first @ last]) = footer.run(&run) else {
                let message = format!("{} lacks frames", Area::Data.key(&run.pack));
                return Err(Error::new(ErrorKind::Damaged, message));
            };
            pieces.push((run.pack, first.place.range().start..last.place.range().end));
        }
        Ok(pieces)
    }
}

/// What lies together as one, but nothing longer than [`LONGEST`].
fn merged(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_unstable_by_key(|(pack, range)| (*pack, range.start, range.end));
    let mut merged: Vec<Piece> = Vec::new();
    for (pack, range) in pieces {
        match merged.last_mut() {
            Some((last, whole)) if *last == pack && range.start <= whole.end + GAP => {
                whole.end = whole.end.max(range.end);
            }
            _ => merged.push((pack, range)),
        }
    }
    let cut = |(pack, range): Piece| {
        let end = range.end;
        let starts = range.step_by(usize::try_from(LONGEST).unwrap_or(usize::MAX));
        starts.map(move |start| (pack, start..end.min(start + LONGEST)))
    };
    merged.into_iter().flat_map(cut).collect()
}

/// Brings pieces near; tells whether there was room for all of them.
async fn bring(near: &dyn Near, pieces: Vec<Piece>, most: u64, progress: &Warming) -> Result<bool> {
    let done = || progress.there.load(Ordering::Relaxed) + progress.brought.load(Ordering::Relaxed);
    let work = pieces.into_iter().map(|(pack, range)| async move {
        if done() + (range.end - range.start) > most {
            return Ok(false);
        }
        match near.bring(&Area::Data.key(&pack), range).await {
            Ok(Brought { there, brought }) => {
                progress.there.fetch_add(there, Ordering::Relaxed);
                progress.brought.fetch_add(brought, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(false),
            Err(error) => Err(error),
        }
    });
    let mut work = stream::iter(work).buffered(AT_ONCE);
    while let Some(brought) = work.next().await {
        if !brought? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn join(directory: &[u8], name: &[u8]) -> Bytes {
    if directory.is_empty() {
        return Bytes::copy_from_slice(name);
    }
    [directory, b"/", name].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_together_is_brought_together_and_nothing_is_too_long() {
        let (one, two) = (Id::of(b"1"), Id::of(b"2"));
        let (low, high) = (one.min(two), one.max(two));
        let pieces = vec![
            (high, 0..10),
            (low, 100_000..200_000),
            (low, 0..50_000),
            (low, 1 << 20..10 << 20),
        ];
        let expected = [
            (low, 0..200_000),
            (low, 1 << 20..5 << 20),
            (low, 5 << 20..9 << 20),
            (low, 9 << 20..10 << 20),
            (high, 0..10),
        ];
        assert_eq!(merged(pieces), expected);
    }
}
