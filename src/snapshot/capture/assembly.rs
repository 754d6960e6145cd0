//! A capture at work: what comes is stored in its order.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::feed::{At, Coming, Ticket};
use super::layout::Layout;
use super::read::{Done, Part};
use super::seen::Print;
use super::store::{Finished, Frames, Pages};
use super::unordered::{Outcome, Unordered};
use super::{Captured, Progress, Skipped};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::format::{Content, Entry, Mtime};
use crate::snapshot::read::Version;

/// How many of the entries that were left out are named.
const NAMED: usize = 1000;

/// A capture at work.
pub(super) struct Assembly<'a> {
    pub(super) frames: Frames,
    pub(super) pages: Pages,
    pub(super) entries: Entries,
    pub(super) skipped: Vec<Skipped>,
    /// Where those are.
    pub(super) unsettled: Vec<TreePath>,
    pub(super) left_out: u64,
    /// What the files are known by that were read, or needn't be.
    pub(super) prints: Vec<Print>,
    pub(super) previous: Option<Version>,
    pub(super) progress: &'a Progress,
}

/// Entries that aren't in pages yet.
pub(super) enum Entries {
    /// They come sorted; these wait until their packs are durable.
    Sorted(VecDeque<(At, Entry<u32>)>),
    /// They are put into pages at the end.
    Unordered(Unordered),
}

impl Assembly<'_> {
    /// Stores all that comes.
    pub(super) fn take_all(&mut self, tickets: &Receiver<Ticket>) -> Result<()> {
        for Ticket { at, coming } in tickets {
            self.check()?;
            match coming {
                Coming::Entry(entry) => self.add(at, entry),
                Coming::Unchanged(entry, print) => {
                    self.frames.count_reused(entry.content.len());
                    self.prints.push(print);
                    self.add(at, entry);
                }
                Coming::Link(target) => match &mut self.entries {
                    Entries::Unordered(unordered) => unordered.link(&at, target),
                    Entries::Sorted(_) => self.skip(&at, "it is a link".to_owned()),
                },
                Coming::File(parts) => {
                    if let Some(entry) = self.receive(&at, &parts)? {
                        self.add(at, entry);
                    }
                }
                Coming::Skipped(reason) => self.skip(&at, reason),
            }
            self.progress.entries.fetch_add(1, Ordering::Relaxed);
            self.release()?;
        }
        Ok(())
    }

    /// Makes a version of all that came; `top` describes its top unless something else did.
    pub(super) fn finish(mut self, top: (u32, Mtime)) -> Result<(Captured, Vec<Print>)> {
        let stored_data = self.frames.finish()?;
        self.release()?;
        let (mode, mtime) = self.sort()?.unwrap_or(top);
        let Finished { root, totals, stored, needs } =
            self.pages.finish(mode, mtime, &self.frames)?;
        let reused = self.progress.reused.load(Ordering::Relaxed);
        let stored = stored_data + stored;
        let Self { skipped, unsettled, left_out, .. } = self;
        let captured = Captured {
            root,
            totals,
            stored,
            reused,
            needs,
            too_much: None,
            skipped,
            unsettled,
            left_out,
        };
        Ok((captured, self.prints))
    }

    /// Stores the frames that have come, though no version will be made of them now.
    pub(super) fn keep(mut self) -> Result<()> {
        self.frames.finish().map(|_| ())
    }

    fn check(&self) -> Result<()> {
        if self.progress.is_cancelled() {
            return Err(ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    fn add(&mut self, at: At, entry: Entry<u32>) {
        match &mut self.entries {
            Entries::Sorted(waiting) => waiting.push_back((at, entry)),
            Entries::Unordered(unordered) => unordered.add(&at, entry),
        }
    }

    /// Stores the parts of a file as they come.
    fn receive(&mut self, at: &At, parts: &Receiver<Part>) -> Result<Option<Entry<u32>>> {
        let (mut content, mut layout) = (None, None);
        loop {
            match parts.recv() {
                Ok(Part::Inline(bytes)) => content = Some(Content::Inline(bytes)),
                Ok(Part::Whole(piece)) => content = Some(self.frames.whole(piece)?),
                Ok(Part::Chunk(piece)) => {
                    self.check()?;
                    match &mut layout {
                        Some(layout) => layout,
                        None => layout.insert(self.layout(at)),
                    }
                    .push(piece, &mut self.frames)?;
                }
                Ok(Part::Again) => (content, layout) = (None, None),
                Ok(Part::Done(Done { mode, mtime, settled, print })) => {
                    if !settled {
                        self.skip(at, "it kept changing while it was read".to_owned());
                    }
                    self.prints.extend(print);
                    let content = match (content, layout) {
                        (Some(content), _) => content,
                        (None, Some(layout)) => layout.finish(&mut self.frames)?,
                        (None, None) => Content::Inline(Bytes::new()),
                    };
                    return Ok(Some(Entry { mode, mtime, content }));
                }
                Ok(Part::Gone) => return Ok(None),
                Ok(Part::Failed(reason)) => {
                    self.skip(at, reason);
                    return Ok(None);
                }
                Ok(Part::Broken(error)) => return Err(error),
                Err(_) => return Err(Error::new(ErrorKind::Io, "a thread that reads files ended")),
            }
        }
    }

    fn layout(&self, at: &At) -> Layout {
        let previous = self.previous.as_ref().and_then(|previous| {
            let path = TreePath::parse(at.path()).ok()?;
            // One that is damaged or gone is of no use, and no reason to stop.
            Handle::current().block_on(previous.entry(&path)).ok()
        });
        Layout::new(previous.map(|entry| entry.content), &self.frames)
    }

    /// Notes that something isn't in the version, or may be torn.
    fn skip(&mut self, at: &At, reason: String) {
        self.left_out += 1;
        if self.skipped.len() < NAMED {
            self.unsettled.extend(TreePath::parse(at.path()));
            self.skipped.push(Skipped { path: shown(at), reason });
        }
    }

    /// Puts sorted entries into pages as far as their packs are durable.
    fn release(&mut self) -> Result<()> {
        let Entries::Sorted(waiting) = &mut self.entries else { return Ok(()) };
        while let Some((_, entry)) = waiting.front() {
            if !entry.content.packs().iter().all(|pack| self.frames.pack(**pack).is_some()) {
                break;
            }
            let Some((at, entry)) = waiting.pop_front() else { break };
            store(&mut self.pages, &self.frames, &at, entry)?;
        }
        Ok(())
    }

    /// Puts entries into pages that came in any order; returns mode and mtime of the top.
    fn sort(&mut self) -> Result<Option<(u32, Mtime)>> {
        let entries = std::mem::replace(&mut self.entries, Entries::Sorted(VecDeque::new()));
        let Entries::Unordered(unordered) = entries else { return Ok(None) };
        let mut lost = Vec::new();
        let (mode, mtime) = unordered.finish(|at, outcome| {
            match outcome {
                Outcome::Entry(entry) => store(&mut self.pages, &self.frames, &at, entry)?,
                Outcome::Skipped(reason) => lost.push((at, reason)),
            }
            Ok(())
        })?;
        for (at, reason) in lost {
            self.skip(&at, reason);
        }
        Ok(Some((mode, mtime.unwrap_or_default())))
    }
}

/// Puts an entry into its page; its packs are durable.
fn store(pages: &mut Pages, frames: &Frames, at: &At, entry: Entry<u32>) -> Result<()> {
    let Entry { mode, mtime, content } = entry;
    let content = content.rename_packs(|pack| frames.pack(pack)).ok_or_else(|| {
        Error::new(ErrorKind::Io, format!("{} is in a pack that isn't stored", shown(at)))
    })?;
    pages.push(&at.directory, &at.name, Entry { mode, mtime, content }, frames)
}

/// A path as it can be shown wherever it comes from: a terminal obeys what it is sent.
fn shown(at: &At) -> String {
    let path = at.path();
    let path = if path.is_empty() { b"." } else { &path[..] };
    String::from_utf8_lossy(path)
        .chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}
