//! Decides where the chunks of a large file lie: in packs that are there, or in a new one.

use crate::chunk::index::Slot;
use crate::chunk::{Id, Run};
use crate::error::Result;
use crate::snapshot::format::Content;

use super::read::Piece;
use super::store::Frames;

/// Chunks that are stored already are taken from there only if so many follow each other:
/// otherwise reading the file would jump about.
const LEAST_REUSED: usize = 8;

/// A large file that is being laid out.
pub(super) struct Layout {
    ids: Vec<u8>,
    size: u64,
    runs: Vec<Run<u32>>,
    /// Chunks that are stored already, one behind the other; too few yet to be taken from there.
    candidates: Vec<Piece>,
    /// Where the last chunk lies that is stored already.
    last: Option<Slot>,
    /// Whether the chunks that follow `last` may be taken one by one.
    reusing: bool,
    /// Where the chunks of the previous version of this file lie, one by one.
    previous: Box<dyn Iterator<Item = Slot>>,
}

impl Layout {
    /// Begins a file whose previous version is `previous`, if it has one.
    pub(super) fn new(previous: Option<Content>, frames: &Frames) -> Self {
        let runs = match previous {
            Some(Content::Runs { runs, .. }) => runs,
            _ => Vec::new(),
        };
        let previous: Vec<_> = runs
            .iter()
            .map(|run| Some((frames.number_of(&run.pack)?, run.first, run.count)))
            .collect();
        let previous =
            previous.into_iter().map_while(|run| run).flat_map(|(pack, first, count)| {
                (first..first.saturating_add(count)).map(move |frame| Slot { pack, frame })
            });
        Self {
            ids: Vec::new(),
            size: 0,
            runs: Vec::new(),
            candidates: Vec::new(),
            last: None,
            reusing: false,
            previous: Box::new(previous),
        }
    }

    /// Adds the next chunk of the file.
    pub(super) fn push(&mut self, piece: Piece, frames: &mut Frames) -> Result<()> {
        self.ids.extend_from_slice(piece.id.as_bytes());
        self.size += piece.plain.len() as u64;
        let next = self.last.map(Slot::next).filter(|next| frames.holds(*next, &piece.id));
        let unchanged = self.previous.next().filter(|slot| frames.holds(*slot, &piece.id));
        if let Some(slot) = unchanged {
            match self.last {
                Some(last) if next == unchanged => self.take_candidates(last, frames),
                _ => self.store_candidates(frames)?,
            }
            (self.last, self.reusing) = (unchanged, true);
            self.place(slot, piece.plain.len(), true, frames);
            return Ok(());
        }
        if next.is_none() {
            self.store_candidates(frames)?;
            self.reusing = false;
        }
        self.last = next.or_else(|| frames.find(&piece.id));
        let Some(slot) = self.last else { return self.store(piece, frames) };
        if self.reusing {
            self.place(slot, piece.plain.len(), true, frames);
            return Ok(());
        }
        self.candidates.push(piece);
        if self.candidates.len() == LEAST_REUSED {
            self.take_candidates(slot, frames);
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self, frames: &mut Frames) -> Result<Content<u32>> {
        // A file that is stored already as a whole stays where it is, however few its chunks.
        match self.last {
            Some(last) if self.runs.is_empty() => self.take_candidates(last, frames),
            _ => self.store_candidates(frames)?,
        }
        Ok(Content::Runs { size: self.size, id: Id::of(&self.ids), runs: self.runs })
    }

    fn take_candidates(&mut self, last: Slot, frames: &mut Frames) {
        let candidates = std::mem::take(&mut self.candidates);
        let behind = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        for (piece, back) in candidates.into_iter().zip((0..behind).rev()) {
            let slot = Slot { frame: last.frame.saturating_sub(back), ..last };
            self.place(slot, piece.plain.len(), true, frames);
        }
        self.reusing = true;
    }

    fn store_candidates(&mut self, frames: &mut Frames) -> Result<()> {
        for piece in std::mem::take(&mut self.candidates) {
            self.store(piece, frames)?;
        }
        Ok(())
    }

    fn store(&mut self, piece: Piece, frames: &mut Frames) -> Result<()> {
        let len = piece.plain.len();
        let slot = frames.add(&piece.into_frame())?;
        self.place(slot, len, false, frames);
        Ok(())
    }

    fn place(&mut self, slot: Slot, len: usize, reused: bool, frames: &mut Frames) {
        let len = len as u64;
        if reused {
            frames.count_reused(len);
        }
        match self.runs.last_mut() {
            Some(run) if run.pack == slot.pack && run.first + run.count == slot.frame => {
                run.count += 1;
                run.len += len;
            }
            _ => self.runs.push(Run { pack: slot.pack, first: slot.frame, count: 1, len }),
        }
    }
}
