//! Filling pieces: one request for a run of neighbours, each ready as soon as its bytes are.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};

use super::disk::Offered;
use super::memory::Found;
use super::piece::{Piece, Shareable};
use super::{Shared, Source};
use crate::error::{Error, ErrorKind};

/// Neighbouring pieces that one request fills. Dropped unfilled, it fails them: nobody waits for
/// ever.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) source: Arc<Source>,
    /// Those that are still to be filled, in order.
    pub(super) pieces: VecDeque<Arc<Piece>>,
    /// Whether nobody waits for any of them yet.
    pub(super) ahead: bool,
}

/// What is missing, gathered to runs.
pub(super) struct Runs<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) source: &'a Arc<Source>,
    /// The most bytes of one run.
    pub(super) longest: u64,
    pub(super) all: Vec<Run>,
    /// Whether what comes next begins a run.
    pub(super) parted: bool,
    /// Whether nobody waits for what comes next.
    pub(super) ahead: bool,
}

impl Runs<'_> {
    /// Adds what was found, in order: what is missing is one run with what is missing before it.
    pub(super) fn add(&mut self, found: Found) -> Arc<Piece> {
        let piece = match found {
            Found::There(piece) => return piece,
            Found::Missing(piece) => piece,
        };
        let parted = std::mem::take(&mut self.parted);
        match self.all.last_mut() {
            Some(run)
                if !parted
                    && run.end() == Some(piece.bytes.start)
                    && run.len() + piece.len() <= self.longest =>
            {
                run.pieces.push_back(piece.clone());
            }
            _ => self.all.push(Run {
                shared: self.shared.clone(),
                source: self.source.clone(),
                pieces: VecDeque::from([piece.clone()]),
                ahead: self.ahead,
            }),
        }
        piece
    }
}

impl Run {
    /// Where the run ends, in bytes.
    pub(super) fn end(&self) -> Option<u64> {
        self.pieces.back().map(|piece| piece.bytes.end)
    }

    /// How many bytes are to be fetched.
    pub(super) fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Fetches the run.
    pub(super) async fn fetch(mut self) {
        self.fill_from_below();
        let (Some(first), Some(end)) = (self.pieces.front(), self.end()) else { return };
        let bytes = first.bytes.start..end;
        let shared = self.shared.clone();
        let _room = shared.room.take(end - bytes.start).await;
        let Source { store, key, version } = &*self.source.clone();
        let yielding = self.ahead.then(|| store.read_ahead()).flatten();
        let store = yielding.as_ref().unwrap_or(store);
        let mut buffer = BytesMut::new();
        let mut sink = |chunk| self.take(chunk, &mut buffer);
        let fetched = store.get_into(key, bytes, Some(&version.etag), &mut sink).await;
        if let Err(error) = fetched {
            self.fail(error);
        } else if !self.pieces.is_empty() {
            let message = format!("object {key}: fewer bytes came than it has");
            self.fail(Error::new(ErrorKind::Damaged, message));
        }
    }

    /// Copies a chunk to where it belongs: to keep it would keep all that came with it.
    fn take(&mut self, mut chunk: Bytes, buffer: &mut BytesMut) {
        while let Some(piece) = self.pieces.front()
            && !chunk.is_empty()
        {
            let len = usize::try_from(piece.len()).unwrap_or(usize::MAX);
            if buffer.is_empty() {
                *buffer = self.shared.buffers.take(len);
            }
            let part = chunk.len().min(len - buffer.len());
            buffer.extend_from_slice(&chunk[..part]);
            chunk.advance(part);
            if buffer.len() == len {
                let bytes = self.shared.buffers.lend(std::mem::take(buffer));
                let (piece, source) = (piece.clone(), self.source.clone());
                // Before it is settled: who has waited for it may then wait for the disk.
                let kept = self.shared.keep_below(&source.version, piece.bytes.start, &bytes);
                // Much may be read ahead of small objects, as they come, of a large one little.
                let is_whole = piece.bytes == (0..source.version.size);
                self.fill_first(bytes, is_whole && kept == Offered::Taken);
                if kept == Offered::Busy {
                    self.shared.keep_below_later(&source.version, &piece);
                }
            }
        }
    }

    /// Fills what the disk has of the pieces that come first.
    fn fill_from_below(&mut self) {
        while let Some(piece) = self.pieces.front()
            && let Some(bytes) = self.shared.find_below(&self.source.version, &piece.bytes)
        {
            self.fill_first(bytes, false);
        }
    }

    /// Fills the piece that comes first, and tells whether the disk will have it too.
    fn fill_first(&mut self, bytes: Bytes, too: bool) {
        let Some(piece) = self.pieces.pop_front() else { return };
        // Settled before it can be evicted, so that what is counted as there is there.
        piece.settle(Ok(bytes));
        self.shared.change(|memory| {
            memory.fill(&self.source.version, &piece, too);
            memory.evict();
        });
    }

    fn fail(&mut self, error: Error) {
        let error = Shareable::from(error);
        let failed = std::mem::take(&mut self.pieces);
        // Given up before they are settled: who hears of it and asks again finds none.
        self.shared.change(|memory| {
            for piece in &failed {
                memory.give_up(&self.source.version, piece);
            }
        });
        for piece in failed {
            piece.settle(Err(error.clone()));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.pieces.is_empty() {
            self.fail(Error::new(ErrorKind::Interrupted, "a read ahead was given up"));
        }
    }
}
