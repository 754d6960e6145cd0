//! Who reads a directory's objects one after another is recognised: which to fetch ahead, in the
//! order in which they will be opened.

/// Opens so far from the last in the order of the listing are still in order: several workers
/// share a directory, and overtake one another.
const NEAR: usize = 64;

/// Opens in order that make a reader in order.
const IN_ORDER: u8 = 2;

/// Opens of a directory in no order that make a shuffled reading of all of it.
const SHUFFLED: usize = 8;

/// How many objects are fetched ahead at first, and at most, of who reads in order.
const FIRST_WINDOW: usize = 4;
const LARGEST_WINDOW: usize = 512;

/// How many objects each open of a shuffled reading lets be fetched ahead.
const GRANT: usize = 8;

/// After so many opens a scan that was given up may begin again.
const REST: usize = 64;

/// The readers of one directory, whose entries are known by their position.
#[derive(Debug)]
pub(super) struct Scan {
    marks: Vec<Mark>,
    /// The size of each object that is small enough; 0 for what is never fetched ahead.
    sizes: Box<[u32]>,
    /// The bytes of all of them that weren't opened yet.
    left: u64,
    /// The foremost position of who reads in order.
    front: Option<usize>,
    /// All before it that were fetched ahead for nothing have been counted.
    tail: usize,
    /// How sure it is that opens come in order.
    order: u8,
    opens: usize,
    /// How many objects may be there ahead of who reads in order.
    window: usize,
    /// How many more may be fetched ahead of a shuffled reading.
    granted: usize,
    /// Objects that were fetched ahead and not opened yet, and their bytes.
    ahead: usize,
    ahead_bytes: u64,
    /// Of the last ones that were fetched ahead, how many were opened, and how many were passed by
    /// or thrown out before.
    used: usize,
    wasted: usize,
    /// Opens that are still to pass before anything is fetched ahead.
    rest: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Neither opened nor fetched ahead.
    Open,
    /// Fetched ahead.
    Ahead,
    /// Opened, or not to be fetched ahead.
    Done,
}

/// What an open found of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// All of it.
    There,
    /// All of it is on its way.
    Coming,
    /// Not all of it.
    Absent,
}

impl Scan {
    /// A directory of objects of these sizes; 0 for those that aren't fetched ahead.
    pub(super) fn new(sizes: Box<[u32]>) -> Self {
        Self {
            marks: vec![Mark::Open; sizes.len()],
            left: sizes.iter().map(|size| u64::from(*size)).sum(),
            sizes,
            front: None,
            tail: 0,
            order: 0,
            opens: 0,
            window: 0,
            granted: 0,
            ahead: 0,
            ahead_bytes: 0,
            used: 0,
            wasted: 0,
            rest: 0,
        }
    }

    /// Notes that the object at a position was opened.
    pub(super) fn note_open(&mut self, at: usize, found: Presence) {
        let Some(mark) = self.marks.get(at).copied() else { return };
        match (mark, found) {
            (Mark::Ahead, Presence::Absent) => self.wasted += 1,
            (Mark::Ahead, _) => self.used += 1,
            _ => {}
        }
        self.settle(at);
        self.opens += 1;
        self.rest = self.rest.saturating_sub(1);
        if mark == Mark::Done {
            self.note_again();
        }
        self.note_order(at, mark);
        if found != Presence::There && self.order >= IN_ORDER {
            self.window = (self.window * 2).clamp(FIRST_WINDOW, LARGEST_WINDOW);
        }
        self.granted = if self.opens >= SHUFFLED { self.granted + GRANT } else { 0 }.min(NEAR);
        self.judge();
    }

    /// Whether objects are opened in the order of the listing.
    pub(super) fn is_in_order(&self) -> bool {
        self.order >= IN_ORDER
    }

    /// The bytes that were fetched ahead and not opened yet.
    pub(super) fn ahead_bytes(&self) -> u64 {
        self.ahead_bytes
    }

    /// The object to fetch ahead now, if any, while at most so many bytes may lie there unread:
    /// `soon` of who reads in order, `all` of who doesn't.
    pub(super) fn next(&mut self, soon: u64, all: u64) -> Option<usize> {
        if self.rest > 0 {
            return None;
        }
        let front = self.front?;
        let in_order = self.is_in_order();
        if in_order {
            if self.ahead >= self.window || self.ahead_bytes >= soon {
                return None;
            }
        } else if self.granted == 0 || self.left > all {
            // What comes next can't be seen, so that all of it must fit to be of use.
            return None;
        }
        let len = self.marks.len();
        let behind = front + 1..len;
        let before = if in_order { 0..0 } else { 0..front.min(len) };
        let wanted = |at: &usize| self.marks[*at] == Mark::Open && self.sizes[*at] > 0;
        let at = behind.chain(before).find(wanted)?;
        self.marks[at] = Mark::Ahead;
        self.ahead += 1;
        self.ahead_bytes += u64::from(self.sizes[at]);
        self.granted = self.granted.saturating_sub(1);
        Some(at)
    }

    /// Notes that the object at a position couldn't be fetched ahead, or needn't be.
    pub(super) fn give_up(&mut self, at: usize) {
        if self.marks.get(at) == Some(&Mark::Ahead) {
            self.settle(at);
        }
    }

    /// From now on the object at a position isn't fetched ahead any more.
    fn settle(&mut self, at: usize) {
        let size = u64::from(self.sizes[at]);
        match self.marks[at] {
            Mark::Ahead => {
                self.ahead -= 1;
                self.ahead_bytes -= size;
                self.left -= size;
            }
            Mark::Open => self.left -= size,
            Mark::Done => {}
        }
        self.marks[at] = Mark::Done;
    }

    /// An object is opened again: who reads all of them a second time begins anew.
    fn note_again(&mut self) {
        let all = self.marks.iter().all(|mark| *mark != Mark::Open);
        if all {
            let fresh = Self::new(std::mem::take(&mut self.sizes));
            *self = Self { front: self.front, opens: SHUFFLED, ..fresh };
        }
    }

    fn note_order(&mut self, at: usize, mark: Mark) {
        let Some(front) = self.front else {
            (self.front, self.tail) = (Some(at), at);
            return;
        };
        let forward = at > front && at - front <= NEAR;
        // A worker that was overtaken comes to what nobody opened yet.
        let overtaken = at < front && front - at <= NEAR && mark != Mark::Done && self.order > 0;
        if forward || overtaken {
            self.order = (self.order + 1).min(2 * IN_ORDER);
            self.front = Some(front.max(at));
        } else {
            self.order = self.order.saturating_sub(2);
            if self.order == 0 {
                (self.front, self.tail, self.window) = (Some(at), at, 0);
            }
        }
        if self.order >= IN_ORDER {
            self.window = self.window.max(FIRST_WINDOW);
            self.pass_by();
        }
    }

    /// Counts what was fetched ahead and isn't opened by the time that all readers are past it.
    fn pass_by(&mut self) {
        let end = self.front.map_or(0, |front| front.saturating_sub(NEAR));
        for at in self.tail..end.max(self.tail) {
            if self.marks[at] == Mark::Ahead {
                self.settle(at);
                self.wasted += 1;
            }
        }
        self.tail = self.tail.max(end);
    }

    /// Rests when most of what was fetched ahead turned out to be useless.
    fn judge(&mut self) {
        if self.wasted > self.used && self.wasted >= SHUFFLED {
            (self.rest, self.window, self.granted) = (REST, 0, 0);
            (self.used, self.wasted) = (0, 0);
        } else if self.used + self.wasted >= REST {
            (self.used, self.wasted) = (self.used / 2, self.wasted / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 1 << 30;

    fn scan(count: usize) -> Scan {
        Scan::new(vec![1000; count].into())
    }

    fn all_next(scan: &mut Scan, room: u64) -> Vec<usize> {
        std::iter::from_fn(|| scan.next(room, room)).collect()
    }

    #[test]
    fn who_opens_in_order_finds_the_next_ones_there() {
        let mut scan = scan(1000);
        let mut there = vec![false; 1000];
        let mut missed = 0;
        for at in 0..1000 {
            missed += usize::from(!there[at]);
            scan.note_open(at, if there[at] { Presence::There } else { Presence::Absent });
            for ahead in all_next(&mut scan, ROOM) {
                assert!(ahead > at && ahead <= at + LARGEST_WINDOW && !there[ahead]);
                there[ahead] = true;
            }
        }
        assert!(missed <= 3, "{missed}");
        assert_eq!(scan.left, 0);
        assert_eq!(scan.ahead_bytes, 0);
    }

    #[test]
    fn the_window_grows_while_objects_come_too_late() {
        let mut scan = scan(5000);
        for at in 0..20 {
            scan.note_open(at, Presence::Coming);
            all_next(&mut scan, ROOM);
        }
        assert_eq!(scan.window, LARGEST_WINDOW);
        let before = scan.window;
        for at in 20..40 {
            scan.note_open(at, Presence::There);
        }
        assert_eq!(scan.window, before);
    }

    #[test]
    fn workers_that_share_a_directory_are_in_order() {
        let mut scan = scan(4000);
        let mut there = vec![false; 4000];
        let mut missed = 0;
        // Four workers, each with a batch of eight.
        for batch in 0..100 {
            for within in 0..8 {
                for worker in 0..4 {
                    let at = batch * 32 + worker * 8 + within;
                    missed += usize::from(!there[at]);
                    scan.note_open(at, if there[at] { Presence::There } else { Presence::Absent });
                    all_next(&mut scan, ROOM).into_iter().for_each(|ahead| there[ahead] = true);
                }
            }
        }
        assert!(missed < 100, "{missed} of 3200");
    }

    #[test]
    fn a_shuffled_reading_gets_all_of_a_directory_that_fits() {
        let mut scan = scan(1000);
        let mut opened = 0;
        let mut there = vec![false; 1000];
        let mut hits = 0;
        for n in 0..1000 {
            let at = n * 387 % 1000;
            opened += 1;
            hits += usize::from(there[at]);
            scan.note_open(at, if there[at] { Presence::There } else { Presence::Absent });
            for ahead in all_next(&mut scan, ROOM) {
                assert!(opened >= SHUFFLED);
                assert!(!std::mem::replace(&mut there[ahead], true));
            }
        }
        assert!(hits > 700, "{hits}");
    }

    #[test]
    fn a_directory_that_does_not_fit_is_read_ahead_in_order_only() {
        let mut shuffled = scan(1000);
        let mut in_order = scan(1000);
        for n in 0..100 {
            shuffled.note_open(n * 387 % 1000, Presence::Absent);
            assert_eq!(shuffled.next(ROOM, 100_000), None);
            in_order.note_open(n, if n > 3 { Presence::Coming } else { Presence::Absent });
            all_next(&mut in_order, 100_000);
            assert!(in_order.ahead_bytes <= 100_000);
        }
        assert!(in_order.ahead > 50);
    }

    #[test]
    fn single_opens_fetch_nothing_ahead() {
        let mut scan = scan(1000);
        for at in [500, 10, 900, 300] {
            scan.note_open(at, Presence::Absent);
            assert_eq!(scan.next(ROOM, ROOM), None);
        }
    }

    #[test]
    fn who_skips_most_objects_is_left_alone() {
        let mut scan = scan(10_000);
        let mut ahead = 0;
        for n in 0..300 {
            scan.note_open(n * 30, Presence::Absent);
            ahead += all_next(&mut scan, ROOM).len();
        }
        assert!(ahead < 2600, "{ahead} objects for 300 opens");
    }

    #[test]
    fn what_is_thrown_out_before_it_is_opened_counts_against_it() {
        let mut scan = scan(1000);
        for at in 0..200 {
            scan.note_open(at, Presence::Absent);
            if at > 100 && scan.rest > 0 {
                assert_eq!(scan.next(ROOM, ROOM), None);
                return;
            }
            all_next(&mut scan, ROOM);
        }
        panic!("it went on");
    }

    #[test]
    fn large_objects_and_directories_are_passed_over() {
        let mut scan = Scan::new([10, 10, 10, 0, 0, 10].into());
        for at in 0..3 {
            scan.note_open(at, Presence::Absent);
        }
        assert_eq!(all_next(&mut scan, ROOM), [5]);
        scan.give_up(5);
        assert_eq!((scan.left, scan.ahead, scan.ahead_bytes), (0, 0, 0));
    }
}
