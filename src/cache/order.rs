//! The order in which pieces go when room is needed.

use std::sync::Arc;

use lru::LruCache;

use super::ObjectVersion;

/// A piece.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) version: Arc<ObjectVersion>,
    /// Its first byte.
    pub(super) start: u64,
    /// How many bytes it has.
    pub(super) len: u64,
}

/// Pieces by when they were read. Those that a reader in order has left behind go before all
/// others: the kernel has their pages, and nobody reads them twice in a row.
pub(super) struct Order {
    kept: LruCache<u64, Place>,
    left: LruCache<u64, Place>,
    /// The bytes of the pieces that were left behind.
    left_bytes: u64,
    next: u64,
}

impl Order {
    pub(super) fn new() -> Self {
        Self { kept: LruCache::unbounded(), left: LruCache::unbounded(), left_bytes: 0, next: 0 }
    }

    /// Takes a piece in as the one that was read last; how to name it.
    pub(super) fn enter(&mut self, place: Place) -> u64 {
        let key = self.next;
        self.next += 1;
        self.kept.put(key, place);
        key
    }

    /// How many pieces there are.
    pub(super) fn len(&self) -> u64 {
        (self.kept.len() + self.left.len()) as u64
    }

    /// A piece was read.
    pub(super) fn touch(&mut self, key: u64) {
        if let Some(place) = self.left.pop(&key) {
            self.left_bytes -= place.len;
            self.kept.put(key, place);
        } else {
            self.kept.promote(&key);
        }
    }

    /// A piece was left behind.
    pub(super) fn leave(&mut self, key: u64) {
        if let Some(place) = self.kept.pop(&key) {
            self.left_bytes += place.len;
            self.left.put(key, place);
        }
    }

    /// Takes out the piece to go first.
    pub(super) fn pop(&mut self) -> Option<Place> {
        self.pop_left(0).or_else(|| self.kept.pop_lru().map(|(_, place)| place))
    }

    /// Takes out a piece that was left behind, where those are more than `most` bytes.
    pub(super) fn pop_left(&mut self, most: u64) -> Option<Place> {
        if self.left_bytes <= most {
            return None;
        }
        let (_, place) = self.left.pop_lru()?;
        self.left_bytes -= place.len;
        Some(place)
    }
}
