//! The blocks that are in memory, and those that were promised room there.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::ObjectVersion;
use super::disk::GRANULE;
use super::order::{Order, Place};
use super::piece::Piece;

/// So small a share of the room is for what readers in order have left behind: fresh buffers cost
/// more than used ones, and the kernel has the pages.
const LEFT_SHARE: u64 = 16;

/// Pieces are this long on average at least, in bytes: each takes about 1 KiB beside them.
const LEAST_PIECE: u64 = 4096;

/// So many pieces are never too many.
const MANY_PIECES: u64 = 64;

/// All pieces of all objects. What is on its way stays; what is there goes when room is needed,
/// the least recently read first.
pub(super) struct Memory {
    capacity: u64,
    /// The pieces of each version by their first byte; no two overlap.
    objects: HashMap<Arc<ObjectVersion>, BTreeMap<u64, Entry>>,
    /// The pieces that are there.
    order: Order,
    filled: u64,
    promised: u64,
    unread: u64,
}

struct Entry {
    piece: Arc<Piece>,
    /// Whether somebody asked for it, not only for what is before it.
    read: bool,
    /// Its key in the order, when it is there.
    key: Option<u64>,
}

/// A piece that was asked for.
pub(super) enum Found {
    /// It is there or on its way.
    There(Arc<Piece>),
    /// It has entered and is to be fetched.
    Missing(Arc<Piece>),
}

impl Found {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

impl Memory {
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            objects: HashMap::new(),
            order: Order::new(),
            filled: 0,
            promised: 0,
            unread: 0,
        }
    }

    /// The bytes that are there.
    pub(super) fn filled(&self) -> u64 {
        self.filled
    }

    /// The bytes that are there or on their way.
    pub(super) fn held(&self) -> u64 {
        self.filled + self.promised
    }

    /// How many bytes may still come that nobody has asked for: half of the room is for others.
    pub(super) fn room_ahead(&self) -> u64 {
        (self.capacity / 2).saturating_sub(self.unread)
    }

    /// The bytes of a version, if they are there: those of the first piece, and of the others.
    pub(super) fn find(
        &mut self,
        version: &Arc<ObjectVersion>,
        bytes: &Range<u64>,
    ) -> Option<(Bytes, Vec<Bytes>)> {
        let pieces = self.objects.get_mut(version)?;
        let (from, first) = pieces.range(..=bytes.start).next_back()?;
        if first.piece.bytes.end <= bytes.start {
            return None;
        }
        let mut at = bytes.start;
        let mut found = None;
        for (start, entry) in pieces.range_mut(*from..bytes.end) {
            if *start > at {
                return None;
            }
            let slice = entry.piece.slice(bytes)?;
            at = entry.piece.bytes.end;
            self.unread -= entry.note_read();
            if let Some(key) = entry.key {
                self.order.touch(key);
            }
            match &mut found {
                None => found = Some((slice, Vec::new())),
                Some((_, more)) => more.push(slice),
            }
        }
        found.filter(|_| at >= bytes.end)
    }

    /// The pieces that hold `bytes`, in order. What isn't there enters in pieces that are cut at
    /// whole multiples of `longest` before the end, so that reads of that length that end where
    /// `bytes` do find theirs in one piece.
    pub(super) fn enter(
        &mut self,
        version: &Arc<ObjectVersion>,
        bytes: Range<u64>,
        longest: u64,
        read: bool,
    ) -> Vec<Found> {
        let mut found = Vec::new();
        if bytes.is_empty() {
            return found;
        }
        let pieces = self.objects.entry(version.clone()).or_default();
        let before = pieces.range(..=bytes.start).next_back().map(|(start, _)| *start);
        let from = before.unwrap_or(bytes.start);
        let mut gaps = Vec::new();
        let mut at = bytes.start;
        for (_, entry) in pieces.range_mut(from..bytes.end) {
            let piece = &entry.piece.bytes;
            if piece.end <= bytes.start {
                continue;
            }
            if at < piece.start {
                gaps.push((found.len(), at..piece.start));
            }
            at = piece.end;
            found.push(Found::There(entry.piece.clone()));
            if read {
                self.unread -= entry.note_read();
            }
            if let Some(key) = entry.key {
                self.order.touch(key);
            }
        }
        if at < bytes.end {
            gaps.push((found.len(), at..bytes.end));
        }
        for (place, gap) in gaps.into_iter().rev() {
            let mut missing = Vec::new();
            let mut start = gap.start;
            while start < gap.end {
                // Also before an end that isn't a block's: what is kept on disk are whole blocks.
                let odd = (bytes.end.next_multiple_of(GRANULE) - start) % longest;
                let len = if odd == 0 { longest } else { odd };
                let piece = Arc::new(Piece::new(start..(start + len).min(gap.end)));
                start = piece.bytes.end;
                self.promised += piece.len();
                self.unread += if read { 0 } else { piece.len() };
                let entry = Entry { piece: piece.clone(), read, key: None };
                pieces.insert(piece.bytes.start, entry);
                missing.push(Found::Missing(piece));
            }
            found.splice(place..place, missing);
        }
        found
    }

    /// A piece has its bytes: from now on it may go when room is needed. One that the disk has
    /// `too` takes no room of what nobody has asked for.
    pub(super) fn fill(&mut self, version: &Arc<ObjectVersion>, piece: &Piece, too: bool) {
        self.promised -= piece.len();
        let start = piece.bytes.start;
        let Some(entry) = self.objects.get_mut(version).and_then(|all| all.get_mut(&start)) else {
            return;
        };
        let place = Place { version: version.clone(), start, len: piece.len() };
        entry.key = Some(self.order.enter(place));
        if too {
            self.unread -= entry.note_read();
        }
        self.filled += piece.len();
    }

    /// A piece won't have its bytes: who comes later starts anew.
    pub(super) fn give_up(&mut self, version: &Arc<ObjectVersion>, piece: &Piece) {
        self.promised -= piece.len();
        self.remove(version, piece.bytes.start);
    }

    /// A reader in order has left `bytes` behind: what lies within goes next, and at once where
    /// many such bytes are there.
    pub(super) fn leave(&mut self, version: &Arc<ObjectVersion>, bytes: &Range<u64>) {
        if let Some(pieces) = self.objects.get(version) {
            for (_, entry) in pieces.range(bytes.clone()) {
                let within = entry.read && entry.piece.bytes.end <= bytes.end;
                if let Some(key) = entry.key.filter(|_| within) {
                    self.order.leave(key);
                }
            }
        }
        while let Some(place) = self.order.pop_left(self.capacity / LEFT_SHARE) {
            self.drop_piece(&place);
        }
    }

    /// Makes room where more is held than there is, or in so many pieces that what they take beside
    /// their bytes would weigh.
    pub(super) fn evict(&mut self) {
        let most_pieces = (self.capacity / LEAST_PIECE).max(MANY_PIECES);
        while self.held() > self.capacity || self.order.len() > most_pieces {
            let Some(place) = self.order.pop() else { return };
            self.drop_piece(&place);
        }
    }

    fn drop_piece(&mut self, place: &Place) {
        if self.remove(&place.version, place.start).is_some() {
            self.filled -= place.len;
        }
    }

    fn remove(&mut self, version: &Arc<ObjectVersion>, start: u64) -> Option<Entry> {
        let pieces = self.objects.get_mut(version)?;
        let mut entry = pieces.remove(&start)?;
        if pieces.is_empty() {
            self.objects.remove(version);
        }
        self.unread -= entry.note_read();
        Some(entry)
    }
}

impl Entry {
    /// Marks it as read; how many bytes aren't unread any more.
    fn note_read(&mut self) -> u64 {
        if std::mem::replace(&mut self.read, true) { 0 } else { self.piece.len() }
    }
}
