//! Which frames a store holds, so that nothing is stored twice; rebuilt from the packs' footers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{Footer, Id, Stored};

/// The frames of some packs, which are counted from 0.
#[derive(Default)]
pub struct Index {
    known: Vec<Id>,
    numbers: HashMap<Id, u32>,
    frames: Vec<Vec<Stored>>,
    /// By eight bytes of the id. Two ids that share them are told apart by `frames`; the second
    /// one isn't found and is stored once more.
    by_id: HashMap<u64, Slot, BuildHasherDefault<AsIs>>,
}

/// A frame in a pack, both by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The pack.
    pub pack: u32,
    /// The frame in it.
    pub frame: u32,
}

impl Slot {
    /// The frame behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self { frame: self.frame.saturating_add(1), ..self }
    }
}

impl Index {
    /// Adds a pack that is in the store; those come before all that are being written.
    pub fn add_pack(&mut self, id: Id, footer: &Footer) {
        let pack = number(self.known.len());
        self.known.push(id);
        self.numbers.insert(id, pack);
        for frame in footer.frames() {
            self.add_frame(pack, *frame);
        }
        self.frames.resize_with(self.known.len(), Vec::new);
    }

    /// Adds a pack that is in the store and whose frames needn't be found.
    pub fn add_unread(&mut self, id: Id) {
        self.numbers.insert(id, number(self.known.len()));
        self.known.push(id);
        self.frames.resize_with(self.known.len(), Vec::new);
    }

    /// Adds the next frame of a pack that is being written.
    pub fn add_frame(&mut self, pack: u32, frame: Stored) -> Slot {
        if self.frames.len() <= pack as usize {
            self.frames.resize_with(pack as usize + 1, Vec::new);
        }
        let frames = &mut self.frames[pack as usize];
        let slot = Slot { pack, frame: number(frames.len()) };
        frames.push(frame);
        self.by_id.entry(frame.id.short()).or_insert(slot);
        slot
    }

    /// The packs that are in the store, by number.
    pub fn known(&self) -> &[Id] {
        &self.known
    }

    /// The number of a pack that is in the store.
    pub fn number_of(&self, pack: &Id) -> Option<u32> {
        self.numbers.get(pack).copied()
    }

    /// Where a frame is.
    pub fn find(&self, id: &Id) -> Option<Slot> {
        let slot = *self.by_id.get(&id.short())?;
        self.holds(slot, id).then_some(slot)
    }

    /// Whether this frame is there.
    pub fn holds(&self, slot: Slot, id: &Id) -> bool {
        self.frame(slot).is_some_and(|frame| frame.id == *id)
    }

    /// What lies there.
    pub fn frame(&self, slot: Slot) -> Option<&Stored> {
        self.frames.get(slot.pack as usize)?.get(slot.frame as usize)
    }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).expect("there are fewer than 2^32 packs, and frames in a pack")
}

/// Hashes a number that is a hash already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Codec, Place};

    fn frame(id: Id) -> Stored {
        let place = Place { offset: 0, stored_len: 1, plain_len: 1, codec: Codec::Raw };
        Stored { id, place }
    }

    #[test]
    fn a_frame_is_found_where_it_was_first() {
        let mut index = Index::default();
        let id = Id::of(b"x");
        let first = index.add_frame(0, frame(id));
        let second = index.add_frame(3, frame(id));
        assert_eq!(index.find(&id), Some(first));
        assert!(index.holds(second, &id));
        assert!(!index.holds(second.next(), &id));
        assert_eq!(index.find(&Id::of(b"y")), None);
    }

    #[test]
    fn ids_that_begin_alike_are_told_apart() {
        let mut index = Index::default();
        let (mut one, mut two) = ([7; Id::LEN], [7; Id::LEN]);
        (one[31], two[31]) = (1, 2);
        index.add_frame(0, frame(one.into()));
        index.add_frame(0, frame(two.into()));
        assert!(index.find(&one.into()).is_some());
        assert_eq!(index.find(&two.into()), None);
    }
}
