//! An object that is read here and there again and again is better fetched as a whole.

use std::ops::Range;
use std::time::Duration;

/// Who has read so often here and there goes on so.
const READS: u64 = 8;

/// How many bytes a millisecond the line is taken to bring before it was measured: a fast one's.
const GUESS: u128 = 128_000;

/// How much is fetched to measure the line, in bytes, and of how many it may be measured early,
/// since it doesn't weigh beside them.
pub(in crate::tree::bucket) const SAMPLE: u64 = 16 << 20;
const SAMPLE_AFTER: u64 = 4 * SAMPLE;

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
    /// How many bytes the line brings in a millisecond.
    rate: u128,
    /// Whether that was measured.
    measured: bool,
    /// Whether something is being fetched.
    busy: bool,
}

impl Hot {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            reads: 0,
            bytes: 0,
            waited: Duration::ZERO,
            rate: GUESS,
            measured: false,
            busy: false,
        }
    }

    pub(super) fn note_read(&mut self, read: &Range<u64>, stalled: bool) {
        self.reads += 1;
        self.bytes += if stalled { read.end - read.start } else { 0 };
    }

    /// Notes how long a read waited; what to fetch now, if anything: nothing else until what came
    /// of it is noted.
    pub(in crate::tree::bucket) fn note_wait(&mut self, waited: Duration) -> Option<Fill> {
        self.waited += waited;
        let in_time = self.waited.as_micros().saturating_mul(self.rate) / 1000;
        let enough = in_time >= u128::from(self.size);
        let due = enough && self.reads >= READS;
        let fill = match self.measured {
            true if due => Fill::All,
            false if due || self.bytes >= SAMPLE_AFTER => Fill::Sample,
            _ => return None,
        };
        (!std::mem::replace(&mut self.busy, true)).then_some(fill)
    }

    /// Notes how long a sample took, of which so many bytes weren't there.
    pub(in crate::tree::bucket) fn note_sample(&mut self, bytes: u64, took: Duration) {
        (self.measured, self.busy) = (true, false);
        if bytes > 0 {
            self.rate = (u128::from(bytes) * 1000 / took.as_micros().max(1)).max(1);
        }
    }

    /// Notes that the fetch is over. If not all of it came, or it was thrown out since, programs have
    /// to wait as long again before it is fetched again.
    pub(in crate::tree::bucket) fn note_end(&mut self) {
        (self.bytes, self.waited, self.busy) = (0, Duration::ZERO, false);
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
        for read in 1..40_000 {
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
        // 64, 512 and 8 MB/s.
        for (sample, seconds) in [(262, 16), (33, 2), (2000, 128)] {
            let fills = fills(1 << 30, Duration::from_millis(sample));
            let [(Fill::Sample, first), (Fill::All, all)] = fills[..] else { panic!("{fills:?}") };
            assert_eq!(first, 420, "as long as a fast line takes for all of it");
            let due = (seconds * 50).max(first + 1);
            assert!(all.abs_diff(due) <= 2 + due / 20, "{fills:?}, not {due}");
        }
    }

    #[test]
    fn the_line_is_measured_early_where_that_does_not_weigh() {
        let fills = fills(8 << 30, Duration::from_millis(33));
        assert_eq!(fills[0], (Fill::Sample, SAMPLE_AFTER / READ));
        assert!(fills.len() == 2 && fills[1].1.abs_diff(845) < 30, "{fills:?}");
    }

    #[test]
    fn what_failed_or_was_thrown_out_is_fetched_again_after_as_long_a_wait() {
        let mut hot = Hot::new(16_000_000);
        let mut fills = Vec::new();
        for read in 1..30 {
            hot.note_read(&(0..READ), true);
            match hot.note_wait(WAIT) {
                Some(Fill::Sample) if fills.is_empty() => hot.note_end(),
                Some(Fill::Sample) => hot.note_sample(12_800_000, Duration::from_millis(100)),
                Some(Fill::All) => hot.note_end(),
                None => continue,
            }
            fills.push(read);
        }
        assert_eq!(fills, [8, 15, 16, 23]);
    }

    #[test]
    fn reads_that_need_not_wait_change_nothing() {
        let mut hot = Hot::new(1 << 20);
        for _ in 0..10_000 {
            hot.note_read(&(0..READ), false);
        }
        assert_eq!(hot.note_wait(Duration::from_millis(1)), None);
        assert_eq!(hot.note_wait(WAIT), Some(Fill::Sample));
        assert_eq!(hot.note_wait(WAIT), None);
    }
}
