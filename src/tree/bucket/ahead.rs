//! Reading ahead: who reads in order is recognised, and finds the bytes there already.

use std::ops::Range;

/// What the first read of an object brings, and the second of a reader who goes on in order.
const FIRST_WINDOW: u64 = 1 << 20;

/// The furthest that is read ahead of one reader: four requests of 8 MiB fill a fast line.
const LARGEST_WINDOW: u64 = 32 << 20;

/// Reads that come so far before or behind the expected place are still in order: the kernel
/// sends several at once, and they overtake one another.
const TOLERANCE: u64 = 512 << 10;

/// How many readers of one open file are told apart.
const MOST_READERS: usize = 8;

/// The readers of one open file.
#[derive(Debug, Default)]
pub(super) struct Readers(Vec<Reader>);

#[derive(Debug)]
struct Reader {
    /// Where the next read is expected.
    next: u64,
    /// Up to where bytes were asked for.
    ahead: u64,
    /// How much is asked for at a time; 0 while it isn't known that the reader reads in order.
    window: u64,
}

impl Readers {
    /// Notes that `read` is being read; what else to ask for now, behind it.
    pub(super) fn note(&mut self, read: Range<u64>, size: u64) -> Range<u64> {
        let Some(at) =
            self.0.iter().position(|reader| reader.next.abs_diff(read.start) <= TOLERANCE)
        else {
            return self.note_new(read, size);
        };
        // The reader who read last is the last: the first is the one to forget.
        let mut reader = self.0.remove(at);
        reader.next = reader.next.max(read.end);
        let mut ahead = read.end..read.end;
        if reader.next.saturating_add(reader.window / 2) >= reader.ahead {
            reader.window = (reader.window * 2).clamp(FIRST_WINDOW, LARGEST_WINDOW);
            let start = reader.ahead.max(reader.next);
            ahead = start.min(size)..start.saturating_add(reader.window).min(size);
            reader.ahead = ahead.end;
        }
        self.0.push(reader);
        ahead
    }

    /// A reader at the start probably goes on; one elsewhere probably looks something up.
    fn note_new(&mut self, read: Range<u64>, size: u64) -> Range<u64> {
        if self.0.len() == MOST_READERS {
            self.0.remove(0);
        }
        let window = if read.start == 0 { FIRST_WINDOW } else { 0 };
        let ahead = read.end..read.end.max(window).min(size).max(read.end);
        self.0.push(Reader { next: read.end, ahead: ahead.end, window });
        ahead
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 30;
    const READ: u64 = 128 << 10;

    #[test]
    fn who_reads_in_order_is_kept_ahead_of() {
        let mut readers = Readers::default();
        let mut asked = 0;
        for read in 0..2000 {
            let start = read * READ;
            let ahead = readers.note(start..start + READ, SIZE);
            if !ahead.is_empty() {
                assert_eq!(ahead.start, asked.max(start + READ));
                assert!(ahead.end - ahead.start <= LARGEST_WINDOW);
                asked = ahead.end;
            }
            assert!(asked >= start + READ);
        }
        assert!(asked >= 2000 * READ + LARGEST_WINDOW / 2);
    }

    #[test]
    fn who_jumps_gets_no_more_than_asked_for() {
        let mut readers = Readers::default();
        for read in 1..200 {
            let start = (read * 7_777_777) % (SIZE - READ);
            assert!(readers.note(start..start + READ, SIZE).is_empty(), "{read}");
        }
    }

    #[test]
    fn several_readers_are_told_apart() {
        let mut readers = Readers::default();
        let mut ahead = [0; 4];
        for read in 0..100 {
            for (reader, ahead) in (0..).zip(&mut ahead) {
                let start = reader * (SIZE / 4) + read * READ;
                *ahead += u64::from(!readers.note(start..start + READ, SIZE).is_empty());
            }
        }
        assert!(ahead.iter().all(|times| *times >= 4), "{ahead:?}");
    }

    proptest! {
        #[test]
        fn nothing_behind_the_end_is_asked_for(
            size in 1_u64..5_000_000,
            reads in proptest::collection::vec((0_u64..6_000_000, 1_u64..300_000), 1..50),
        ) {
            let mut readers = Readers::default();
            for (start, len) in reads {
                if start < size {
                    let ahead = readers.note(start..(start + len).min(size), size);
                    prop_assert!(ahead.start <= ahead.end && ahead.end <= size);
                }
            }
        }
    }
}
