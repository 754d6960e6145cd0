//! An object that is read here and there again and again is better fetched as a whole.

use std::ops::Range;
use std::time::Duration;

/// Who has read so often here and there goes on so.
const READS: u64 = 8;

/// How many bytes a microsecond the line is taken to bring before it was measured: a fast one's.
const GUESS: u128 = 128;

/// How much is fetched ahead to measure the line, in bytes, and how many must have been waited for
/// before, so that it doesn't weigh.
pub(in crate::tree::bucket) const SAMPLE: u64 = 16 << 20;
const SAMPLE_AFTER: u64 = 3 * SAMPLE;

/// What to fetch of an object that is read here and there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tree::bucket) enum Fill {
    /// A [`SAMPLE`], to tell how long all of it takes.
    Sample,
    /// All of it.
    All,
}

/// Decides when.
///
/// All of an object is to be fetched when programs have waited as long for parts of it as all of
/// it takes: then neither who goes on nor who stops loses more than that time.
#[derive(Debug)]
pub(in crate::tree::bucket) struct Hot {
    size: u64,
    reads: u64,
    /// The bytes of those reads that had to wait, and for how long.
    bytes: u64,
    waited: Duration,
    /// How many bytes the line brings in a microsecond.
    rate: u128,
    sampled: bool,
    filled: bool,
}

impl Hot {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            reads: 0,
            bytes: 0,
            waited: Duration::ZERO,
            rate: GUESS,
            sampled: false,
            filled: false,
        }
    }

    pub(super) fn note_read(&mut self, read: &Range<u64>, stalled: bool) {
        self.reads += 1;
        self.bytes += if stalled { read.end - read.start } else { 0 };
    }

    /// Notes how long a read waited; what to fetch now, each of which is told once.
    pub(in crate::tree::bucket) fn note_wait(&mut self, waited: Duration) -> Option<Fill> {
        self.waited += waited;
        let enough = self.waited.as_micros().saturating_mul(self.rate) >= u128::from(self.size);
        if self.filled {
            return None;
        }
        if enough && self.reads >= READS {
            self.filled = true;
            return Some(Fill::All);
        }
        let sample = !self.sampled && self.bytes >= SAMPLE_AFTER;
        self.sampled |= sample;
        sample.then_some(Fill::Sample)
    }

    /// Notes how long the bytes of a sample took that weren't there.
    pub(in crate::tree::bucket) fn note_sample(&mut self, bytes: u64, took: Duration) {
        if bytes > 0 {
            self.rate = (u128::from(bytes) / took.as_micros().max(1)).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u64 = 128 << 10;
    const WAIT: Duration = Duration::from_millis(20);

    /// After which reads what is fetched of an object, if a sample takes so long.
    fn fills(size: u64, sample: Duration) -> Vec<(Fill, u64)> {
        let mut hot = Hot::new(size);
        let mut fills = Vec::new();
        for read in 1..10_000 {
            hot.note_read(&(0..READ), true);
            if let Some(fill) = hot.note_wait(WAIT) {
                fills.push((fill, read));
                if fill == Fill::Sample {
                    hot.note_sample(SAMPLE, sample);
                }
            }
        }
        fills
    }

    #[test]
    fn all_of_an_object_is_fetched_when_programs_waited_as_long_as_it_takes() {
        for (size, reads) in [(16_000_000, 8), (128_000_000, 50), (640_000_000, 250)] {
            assert_eq!(fills(size, Duration::from_secs(9)), [(Fill::All, reads)]);
        }
    }

    #[test]
    fn how_long_it_takes_is_measured_when_that_does_not_weigh() {
        let size = 1 << 30;
        let sample = (Fill::Sample, SAMPLE_AFTER / READ);
        // 8 and 320 MB/s: 128 s and 3.2 s for all of it, at 50 reads a second.
        let slow = fills(size, Duration::from_secs(2));
        assert!(slow[0] == sample && slow.len() == 2, "{slow:?}");
        assert!(slow[1].0 == Fill::All && slow[1].1.abs_diff(6400) < 700, "{slow:?}");
        let fast = fills(size, Duration::from_millis(50));
        assert_eq!(fast, [sample, (Fill::All, sample.1 + 1)]);
    }

    #[test]
    fn reads_that_need_not_wait_change_nothing() {
        let mut hot = Hot::new(1 << 20);
        for _ in 0..10_000 {
            hot.note_read(&(0..READ), false);
        }
        assert_eq!(hot.note_wait(Duration::from_millis(1)), None);
        assert_eq!(hot.note_wait(WAIT), Some(Fill::All));
        assert_eq!(hot.note_wait(WAIT), None);
    }
}
