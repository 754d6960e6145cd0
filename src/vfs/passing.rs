//! Names in passing: a walk finds a million files and opens none of them.
//!
//! A kernel forgets names when memory runs short and not before, so that they would all be known
//! here until then. Those that were found longest ago it is asked to forget.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::place::{Forgettable, Place};

/// How many files that were found are left to the front end: some 32 MiB of them.
pub(super) const LEFT: usize = 1 << 17;

/// How many names wait to be forgotten at most; others wait here.
const OFFERED: usize = 1 << 10;

/// The files that were found, the last one last; those among them that are unknown by now or were
/// opened count too.
#[derive(Default)]
pub(super) struct Passing {
    found: VecDeque<u64>,
    /// Where the names go; nothing is noted before somebody listens.
    offers: Option<SyncSender<Forgettable>>,
}

impl Passing {
    /// Where it comes out what may be forgotten.
    pub(super) fn listen(&mut self) -> Receiver<Forgettable> {
        let (offers, forgettable) = sync_channel(OFFERED);
        self.offers = Some(offers);
        forgettable
    }

    /// Notes a file that was found. Those that are too many are offered by their `name`, if they
    /// have one that may be forgotten.
    pub(super) fn note(&mut self, ino: u64, name: impl Fn(u64) -> Option<Place>) {
        let Some(offers) = &self.offers else { return };
        self.found.push_back(ino);
        // Two, so that it gets less where there were too many to wait.
        for _ in 0..2 {
            if self.found.len() <= LEFT {
                return;
            }
            let Some(oldest) = self.found.pop_front() else { return };
            if let Some(place) = name(oldest)
                && offers.try_send(Forgettable { ino: oldest, place }).is_err()
            {
                self.found.push_front(oldest);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::ROOT;

    fn name(ino: u64) -> Place {
        Place::new(ROOT, ino.to_string().as_bytes())
    }

    #[test]
    fn names_wait_for_whoever_is_slow_to_take_them() {
        let mut passing = Passing::default();
        passing.note(0, |_| panic!("nobody listens"));
        let forgettable = passing.listen();
        let (most, slow) = (LEFT as u64, 3 * OFFERED as u64);
        (0..most + slow).for_each(|ino| passing.note(ino, |ino| Some(name(ino))));
        let mut offered: Vec<_> = forgettable.try_iter().collect();
        assert_eq!(offered.len(), OFFERED);
        // Who takes them in time gets two for each that is found, until none is left over.
        for ino in most + slow..most + 2 * slow {
            passing.note(ino, |ino| Some(name(ino)));
            offered.extend(forgettable.try_iter());
        }
        assert_eq!(passing.found.len(), LEFT);
        assert!(offered.iter().map(|offer| offer.ino).eq(0..2 * slow));
    }
}
