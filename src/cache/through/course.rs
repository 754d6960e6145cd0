//! How an object is read: what follows of it, and when all of it is worth its bytes.

use std::ops::Range;

/// How far from where a read ended the next may begin to follow it, in bytes: several readers and
/// the kernel's requests come out of order, and what is known is left out.
const NEAR: u64 = 512 << 10;

/// How far ahead is asked for at first, and at most, in bytes.
const FIRST: u64 = 512 << 10;
const FARTHEST: u64 = 16 << 20;

/// After so many reads here and there more of them are to be expected.
const STRAYS: u32 = 4;

/// The reads of one object so far.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Where the last read ended.
    end: u64,
    /// Up to where it was asked for ahead of the reader.
    asked: u64,
    /// How far ahead is asked for.
    window: u64,
    /// How many reads followed none.
    strays: u32,
}

/// What to do beside a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What to ask for ahead.
    pub(super) ahead: Range<u64>,
    /// Whether it is time to fetch all of the object, which is told once.
    pub(super) all: bool,
}

impl Course {
    /// Notes a read of an object of `size` bytes, and whether it has to wait: who never does needs
    /// nothing ahead.
    pub(super) fn note(&mut self, read: &Range<u64>, size: u64, waits: bool) -> Plan {
        // Its end tells what is in it, and is read whatever is read next.
        if read.end == size && read.start > 0 {
            return Plan { ahead: size..size, all: false };
        }
        let follows = read.start.abs_diff(self.end) <= NEAR;
        if follows {
            if waits || self.window > 0 {
                self.window = (self.window * 2).clamp(FIRST, FARTHEST);
            }
            self.end = self.end.max(read.end);
        } else {
            self.strays += u32::from(waits);
            (self.window, self.end, self.asked) = (0, read.end, read.end);
        }
        self.asked = self.asked.max(self.end);
        let goal = (self.end + self.window).min(size);
        // Few large requests instead of one for each read.
        let is_due = self.asked - self.end <= self.window / 2 && goal > self.asked;
        let ahead = if is_due { self.asked..goal } else { self.asked..self.asked };
        self.asked = ahead.end;
        Plan { ahead, all: !follows && waits && self.strays == STRAYS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 32 << 20;

    fn requests(reads: impl IntoIterator<Item = Range<u64>>) -> (Vec<Range<u64>>, bool) {
        noted(reads, true)
    }

    fn noted(reads: impl IntoIterator<Item = Range<u64>>, waits: bool) -> (Vec<Range<u64>>, bool) {
        let (mut course, mut all, mut requests) = (Course::default(), false, Vec::new());
        for read in reads {
            let plan = course.note(&read, SIZE, waits);
            all |= plan.all;
            if !plan.ahead.is_empty() {
                requests.push(plan.ahead);
            }
        }
        (requests, all)
    }

    #[test]
    fn a_reader_in_order_causes_few_requests_that_grow_and_meet() {
        let (requests, all) = requests((0..SIZE / 40_000).map(|n| n * 40_000..(n + 1) * 40_000));
        assert!(requests.len() <= 12, "{requests:?}");
        assert!(requests.windows(2).all(|pair| pair[0].end == pair[1].start), "{requests:?}");
        assert_eq!(requests.last().map(|last| last.end), Some(SIZE));
        assert!(!all);
    }

    #[test]
    fn readers_here_and_there_cause_none_until_all_is_worth_it() {
        let places = [20_u64, 3, 11, 28, 7, 15];
        let reads: Vec<_> = places.iter().map(|at| (at << 20)..(at << 20) + 40_000).collect();
        assert_eq!(requests(reads[..3].to_vec()), (Vec::new(), false));
        assert_eq!(requests(reads), (Vec::new(), true));
    }

    #[test]
    fn who_finds_all_of_it_causes_none() {
        let in_order = (0..SIZE / 40_000).map(|n| n * 40_000..(n + 1) * 40_000);
        assert_eq!(noted(in_order, false), (Vec::new(), false));
        let anywhere = [20_u64, 3, 11, 28, 7, 15].map(|at| (at << 20)..(at << 20) + 40_000);
        assert_eq!(noted(anywhere, false), (Vec::new(), false));
    }

    #[test]
    fn the_end_of_an_object_is_no_place_to_go_on_from() {
        let (requests, _) = requests([SIZE - 65_536..SIZE, 0..40_000, 40_000..80_000]);
        assert_eq!(requests.first(), Some(&(40_000..40_000 + FIRST)));
    }
}
