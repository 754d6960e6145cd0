//! Reading ahead: who reads in order, or in equal steps, is recognised and finds the bytes there.

use std::collections::VecDeque;
use std::ops::Range;

pub(super) use self::beginning::Beginning;
pub(super) use self::hot::{Fill, Hot, SAMPLE};
use self::stream::Stream;
use self::stride::Stride;

mod beginning;
mod hot;
mod stream;
mod stride;

/// How many readers in order, and how many in steps, are told apart. Who reads here and there
/// takes none of these places.
const MOST_READERS: usize = 32;

/// How many single reads are remembered, to see whether another goes on from there.
const MOST_SINGLE: usize = 16;

/// What the first read of an object brings at once, in two requests: the first is short, so that
/// the program can begin.
const FIRST: [u64; 2] = [1 << 20, 4 << 20];

/// What to ask for behind, or before, what is being read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Where; each is a request of its own, but for the first where it goes on from the read.
    pub(super) ranges: Vec<Range<u64>>,
    /// The most bytes of one request.
    pub(super) longest: u64,
    /// What the reader has left behind.
    pub(super) left: Range<u64>,
    /// Whether it is read here and there, so that nobody knows what is next.
    pub(super) scattered: bool,
}

/// The readers of one version of an object.
#[derive(Debug)]
pub(super) struct Readers {
    size: u64,
    beginning: Beginning,
    /// Who reads in order, the last to read last.
    streams: Vec<Stream>,
    /// Who reads in equal steps, the last to read last.
    strides: Vec<Stride>,
    /// Reads that belonged to nobody yet, the last one last.
    single: VecDeque<Range<u64>>,
    hot: Hot,
}

impl Readers {
    pub(super) fn new(size: u64, beginning: Beginning) -> Self {
        Self {
            size,
            beginning,
            streams: Vec::new(),
            strides: Vec::new(),
            single: VecDeque::new(),
            hot: Hot::new(size),
        }
    }

    /// Notes that `read` is being read, and whether it has to wait; what else to ask for now, if
    /// `room` bytes may be.
    pub(super) fn note(&mut self, read: &Range<u64>, stalled: bool, room: u64) -> Plan {
        let size = self.size;
        if let Some(at) = self.streams.iter().rposition(|stream| stream.continues_with(read)) {
            let mut stream = self.streams.remove(at);
            let plan = stream.advance(read, stalled, room, size);
            self.streams.push(stream);
            return plan;
        }
        if let Some(at) = self.strides.iter().rposition(|stride| stride.continues_with(read)) {
            let mut stride = self.strides.remove(at);
            let plan = stride.advance(read, stalled, room, size);
            self.strides.push(stride);
            return plan;
        }
        if read.start == 0 && self.beginning == Beginning::InOrder {
            remember(&mut self.streams, Stream::new(read, FIRST[1]));
            return first_plan(read, size, room);
        }
        if let Some(at) = self.single.iter().rposition(|before| goes_on(before, read)) {
            let before = self.single.remove(at).unwrap_or_default();
            let mut stream = Stream::after(&before, read);
            let plan = stream.advance(read, false, room, size);
            remember(&mut self.streams, stream);
            return plan;
        }
        if let Some(mut stride) = Stride::find(&self.single, read) {
            let plan = stride.advance(read, false, room, size);
            remember(&mut self.strides, stride);
            return plan;
        }
        if self.single.len() == MOST_SINGLE {
            self.single.pop_front();
        }
        self.single.push_back(read.clone());
        self.hot.note_read(read, stalled);
        Plan { scattered: true, ..Plan::default() }
    }

    /// What is known of who reads here and there.
    pub(super) fn hot(&mut self) -> &mut Hot {
        &mut self.hot
    }
}

/// Whether `read` goes on where another ended; the kernel may leave out pages that it has.
fn goes_on(before: &Range<u64>, read: &Range<u64>) -> bool {
    let gap = (read.end - read.start) / 8;
    (before.end..=before.end.saturating_add(gap)).contains(&read.start)
}

fn remember<T>(readers: &mut Vec<T>, reader: T) {
    if readers.len() == MOST_READERS {
        readers.remove(0);
    }
    readers.push(reader);
}

fn first_plan(read: &Range<u64>, size: u64, room: u64) -> Plan {
    let [first, last] = FIRST.map(|end| end.min(read.end + room).min(size).max(read.end));
    let ranges = [read.end..first, first..last];
    Plan {
        ranges: ranges.into_iter().filter(|range| !range.is_empty()).collect(),
        longest: FIRST[1],
        ..Plan::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 30;
    const READ: u64 = 128 << 10;
    const MIB: u64 = 1 << 20;
    const ROOM: u64 = 256 * MIB;

    /// An object whose bytes come at once, or only when they were asked for in time.
    struct Bench {
        readers: Readers,
        asked: Vec<Range<u64>>,
        requests: usize,
        stalls: usize,
    }

    /// Where one reads who reads here and there, below `end`.
    fn anywhere(read: u64, end: u64) -> Range<u64> {
        let word = (read + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let start = (word ^ (word >> 32)) % ((end - READ) / 4096) * 4096;
        start..start + READ
    }

    impl Bench {
        fn new() -> Self {
            let readers = Readers::new(SIZE, Beginning::InOrder);
            Self { readers, asked: Vec::new(), requests: 0, stalls: 0 }
        }

        /// Reads; what wasn't asked for before is waited for.
        fn read(&mut self, read: Range<u64>) {
            let has = |at: u64| self.asked.iter().any(|range| range.contains(&at));
            let stalled = !(has(read.start) && has(read.end - 1));
            let plan = self.readers.note(&read, stalled, ROOM);
            self.stalls += usize::from(stalled);
            self.requests += usize::from(stalled) + plan.ranges.len();
            if stalled {
                self.asked.push(read);
            }
            self.asked.extend(plan.ranges);
        }

        fn bytes_asked(&self) -> u64 {
            let mut ranges = self.asked.clone();
            ranges.sort_unstable_by_key(|range| range.start);
            let (mut bytes, mut end) = (0, 0);
            for range in ranges {
                bytes += range.end.max(end) - range.start.max(end);
                end = end.max(range.end);
            }
            bytes
        }
    }

    #[test]
    fn the_first_two_requests_are_sent_at_once() {
        let mut readers = Readers::new(SIZE, Beginning::InOrder);
        let plan = readers.note(&(0..READ), true, ROOM);
        assert_eq!(plan.ranges, [READ..MIB, MIB..4 * MIB]);
        let mut readers = Readers::new(2 * MIB, Beginning::InOrder);
        assert_eq!(readers.note(&(0..READ), true, ROOM).ranges, [READ..MIB, MIB..2 * MIB]);
        let mut readers = Readers::new(SIZE, Beginning::AtIndex);
        assert!(readers.note(&(0..READ), true, ROOM).ranges.is_empty());
    }

    #[test]
    fn who_reads_in_order_waits_once() {
        let mut bench = Bench::new();
        for read in 0..2000 {
            bench.read(read * READ..(read + 1) * READ);
        }
        assert_eq!(bench.stalls, 1);
        assert!(bench.bytes_asked() <= 2000 * READ + 4 * MIB);
        assert!(bench.requests <= 300, "{}", bench.requests);
    }

    #[test]
    fn the_window_grows_only_while_the_reader_waits() {
        let mut readers = Readers::new(SIZE, Beginning::InOrder);
        let (mut asked, mut furthest) = (0, Vec::new());
        for read in 0..200 {
            let stalled = read < 100;
            let read = read * MIB..(read + 1) * MIB;
            let plan = readers.note(&read, stalled, ROOM);
            for range in plan.ranges {
                assert!(range.start >= asked, "asked twice");
                asked = range.end;
            }
            furthest.push(asked - read.end);
        }
        assert!(furthest[1] <= 8 * MIB, "{furthest:?}");
        assert!(furthest[99] > 48 * MIB && furthest[99] <= 64 * MIB, "{furthest:?}");
        assert!(furthest[199] <= 64 * MIB);
        // Without waits it stays what it was at first.
        let mut bench = Bench::new();
        (0..200).for_each(|read| bench.read(read * MIB..(read + 1) * MIB));
        assert!(bench.bytes_asked() <= 204 * MIB);
    }

    #[test]
    fn the_window_shrinks_with_the_room() {
        let mut readers = Readers::new(SIZE, Beginning::InOrder);
        let mut asked = 0;
        for read in 0..100 {
            let read = read * MIB..(read + 1) * MIB;
            for range in readers.note(&read, true, 3 * MIB).ranges {
                asked = range.end;
            }
            assert!(asked <= read.end + 3 * MIB);
        }
        assert!(readers.note(&(100 * MIB..101 * MIB), true, 0).ranges.is_empty());
    }

    #[test]
    fn requests_end_where_reads_do() {
        let mut readers = Readers::new(SIZE, Beginning::InOrder);
        readers.note(&(0..READ), true, ROOM);
        for read in 1..50 {
            let start = read * MIB - 3 * READ;
            for range in readers.note(&(start..start + MIB), true, ROOM).ranges {
                assert_eq!((range.end + 3 * READ) % MIB, 0);
            }
        }
    }

    #[test]
    fn who_reads_here_and_there_gets_what_was_asked_for() {
        let mut bench = Bench::new();
        let mut bytes = 0;
        for read in 1..500 {
            bench.read(anywhere(read, SIZE));
            bytes += READ;
        }
        assert!(bench.bytes_asked() <= bytes, "{} for {bytes}", bench.bytes_asked());
    }

    #[test]
    fn who_reads_here_and_there_ends_nobodys_stream() {
        let mut bench = Bench::new();
        for read in 0..400 {
            bench.read(read * MIB..(read + 1) * MIB);
            for other in 0..5 {
                let there = anywhere(read * 5 + other, 500 * MIB);
                bench.read(there.start + 512 * MIB..there.end + 512 * MIB);
            }
        }
        assert!(bench.stalls <= 1 + 5 * 400);
        let stalls = bench.stalls;
        bench.read(400 * MIB..401 * MIB);
        assert_eq!(bench.stalls, stalls);
    }

    #[test]
    fn several_readers_are_told_apart() {
        let mut bench = Bench::new();
        for read in 0..200 {
            for reader in 0..8 {
                let start = reader * (SIZE / 8) + read * READ;
                bench.read(start..start + READ);
            }
        }
        assert!(bench.stalls <= 8 * 3, "{}", bench.stalls);
    }

    #[test]
    fn reads_that_overtake_one_another_are_in_order() {
        let mut bench = Bench::new();
        for pair in 0..100 {
            bench.read((2 * pair + 1) * MIB..(2 * pair + 2) * MIB);
            bench.read(2 * pair * MIB..(2 * pair + 1) * MIB);
        }
        assert!(bench.stalls <= 3, "{}", bench.stalls);
    }

    #[test]
    fn who_reads_backwards_is_kept_ahead_of() {
        let mut bench = Bench::new();
        for read in (SIZE / READ - 1000..SIZE / READ).rev() {
            bench.read(read * READ..(read + 1) * READ);
        }
        assert!(bench.stalls <= 4, "{}", bench.stalls);
        assert!(bench.bytes_asked() <= 1100 * READ);
    }

    #[test]
    fn who_reads_in_steps_is_kept_ahead_of() {
        for step in [MIB, 3 * MIB + 4096] {
            let mut bench = Bench::new();
            (1..200).for_each(|read| bench.read(read * step..read * step + READ));
            assert!(bench.stalls <= 4, "{step}: {}", bench.stalls);
            assert!(bench.bytes_asked() <= 240 * READ, "{step}: {}", bench.bytes_asked() / READ);
        }
    }

    #[test]
    fn who_waits_for_what_he_reads_in_order_makes_nothing_hot() {
        let mut readers = Readers::new(SIZE, Beginning::InOrder);
        for read in 0..100 {
            let plan = readers.note(&(read * MIB..(read + 1) * MIB), true, ROOM);
            assert!(!plan.scattered);
        }
    }

    proptest! {
        #[test]
        fn nothing_behind_the_end_and_no_more_than_fits_is_asked_for(
            size in 1_u64..5_000_000,
            room in 0_u64..3_000_000,
            reads in proptest::collection::vec(
                (0_u64..6_000_000, 1_u64..300_000, any::<bool>()), 1..50),
        ) {
            let mut readers = Readers::new(size, Beginning::InOrder);
            for (start, len, stalled) in reads {
                if start < size {
                    let read = start..(start + len).min(size);
                    let ranges = readers.note(&read, stalled, room).ranges;
                    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
                    prop_assert!(bytes <= room + len, "{} of {}", bytes, room);
                    for range in ranges {
                        prop_assert!(range.start < range.end && range.end <= size);
                    }
                }
            }
        }
    }
}
