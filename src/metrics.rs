//! What is counted while a project is mounted: requests, bytes, hits, waits and how long they took.
//!
//! Everything is an atomic, so that counting costs nothing worth counting. [`Metrics::samples`] is
//! the one list of names, for `atelier status` and for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that grows, or follows what it measures.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Replaces the value, of a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many durations fell between two bounds that are 2^(1/4) apart, from 64 us to over an hour.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; Self::BUCKETS],
    sum_micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; Self::BUCKETS],
            sum_micros: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    const BUCKETS: usize = 104;

    /// The upper bound of the first bucket, in microseconds.
    const FIRST: f64 = 64.0;

    /// Counts one duration.
    pub fn note(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[Self::bucket(duration)].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    fn bucket(duration: Duration) -> usize {
        let micros = duration.as_secs_f64() * 1e6;
        // Clamped first, so that nothing is cut off.
        let steps = (micros / Self::FIRST).log2() * 4.0;
        steps.ceil().clamp(0.0, (Self::BUCKETS - 1) as f64) as usize
    }

    #[allow(clippy::cast_precision_loss)] // There are few.
    fn bound(bucket: usize) -> Duration {
        Duration::from_secs_f64(Self::FIRST * 2_f64.powf(bucket as f64 / 4.0) / 1e6)
    }

    /// For bounds that double, how many durations didn't exceed each; and how many there are.
    pub fn cumulative(&self) -> (Vec<(Duration, u64)>, u64) {
        let (mut count, mut below) = (0, Vec::with_capacity(Self::BUCKETS / 4));
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if at % 4 == 0 {
                below.push((Self::bound(at), count));
            }
        }
        (below, count)
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.load(Ordering::Relaxed))
    }

    /// The duration that a `share` of all (0 to 1) didn't exceed, a fifth too long at most; `None`
    /// when none was counted.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            seen += bucket.load(Ordering::Relaxed);
            if count > 0 && seen >= rank {
                return Some(Self::bound(at));
            }
        }
        None
    }
}

/// Everything that one process counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests sent to object stores, each attempt counted.
    pub requests: Counter,
    /// Attempts that followed one that failed.
    pub retries: Counter,
    /// Answers that told us to slow down.
    pub throttled: Counter,
    /// Second requests sent beside one that was slow.
    pub hedged: Counter,
    /// Calls that failed after all their attempts.
    pub failures: Counter,
    /// How long the first byte of an answer took.
    pub first_byte: Histogram,
    /// Bytes of objects that came from stores.
    pub bytes_fetched: Counter,
    /// Bytes of objects that programs asked for.
    pub bytes_read: Counter,
    /// Reads of objects.
    pub reads: Counter,
    /// Reads of objects that had to wait for something remote.
    pub stalls: Counter,
    /// How long reads of objects took.
    pub read_time: Histogram,
    /// Blocks found in memory.
    pub memory_hits: Counter,
    /// Blocks found on disk.
    pub disk_hits: Counter,
    /// Blocks that had to be fetched.
    pub misses: Counter,
    /// Blocks on disk that weren't what was written there.
    pub damaged: Counter,
    /// Bytes of blocks in memory now, those on their way included.
    pub memory_bytes: Counter,
    /// Names that the kernel asked for.
    pub lookups: Counter,
    /// Reads that the kernel asked for: what programs read but found in no page of it.
    pub kernel_reads: Counter,
    /// Bytes that the kernel was given before it asked.
    pub bytes_pushed: Counter,
    /// Opens of files that the kernel reads by itself from then on.
    pub passthrough_opens: Counter,
    /// Requests of the kernel that were answered.
    pub answered: Counter,
    /// Those of them that were answered with an error.
    pub refused: Counter,
}

/// One metric as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Its name without `atelier_`, in Prometheus' style.
    pub name: &'static str,
    /// What it counts, in a few words.
    pub help: &'static str,
    /// Its value.
    pub value: Value<'a>,
}

/// The value of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A number that only grows.
    Total(u64),
    /// A number that goes up and down.
    Gauge(u64),
    /// Durations.
    Times(&'a Histogram),
}

impl Metrics {
    /// All metrics by name.
    pub fn samples(&self) -> Vec<Sample<'_>> {
        let total = |name, help, counter: &Counter| Sample {
            name,
            help,
            value: Value::Total(counter.value()),
        };
        let times = |name, help, times| Sample { name, help, value: Value::Times(times) };
        vec![
            total("s3_requests_total", "requests sent to object stores", &self.requests),
            total("s3_retries_total", "attempts after one that failed", &self.retries),
            total("s3_throttled_total", "answers that told us to slow down", &self.throttled),
            total("s3_hedged_total", "second requests beside a slow one", &self.hedged),
            total("s3_failures_total", "calls that failed for good", &self.failures),
            times("s3_first_byte_seconds", "time to the first byte", &self.first_byte),
            total("s3_fetched_bytes_total", "bytes of objects that came", &self.bytes_fetched),
            total("s3_read_bytes_total", "bytes of objects asked for", &self.bytes_read),
            total("s3_reads_total", "reads of objects", &self.reads),
            total("s3_stalls_total", "reads that had to wait", &self.stalls),
            times("s3_read_seconds", "time that reads took", &self.read_time),
            total("cache_memory_hits_total", "blocks found in memory", &self.memory_hits),
            total("cache_disk_hits_total", "blocks found on disk", &self.disk_hits),
            total("cache_misses_total", "blocks that had to be fetched", &self.misses),
            total("cache_damaged_total", "damaged blocks on disk", &self.damaged),
            Sample {
                name: "cache_memory_bytes",
                help: "bytes of blocks in memory",
                value: Value::Gauge(self.memory_bytes.value()),
            },
            total("fuse_lookups_total", "names that the kernel asked for", &self.lookups),
            total("fuse_reads_total", "reads that the kernel asked for", &self.kernel_reads),
            total(
                "fuse_pushed_bytes_total",
                "bytes that the kernel was given before it asked",
                &self.bytes_pushed,
            ),
            total(
                "fuse_passthrough_opens_total",
                "opens of files that the kernel reads by itself",
                &self.passthrough_opens,
            ),
            total("fuse_answered_total", "requests answered", &self.answered),
            total("fuse_refused_total", "requests answered with an error", &self.refused),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for millis in 1..=1000 {
            histogram.note(Duration::from_millis(millis));
        }
        for (share, expected) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let found = histogram.quantile(share).unwrap().as_secs_f64();
            assert!((expected..expected * 1.2).contains(&found), "{share}: {found}");
        }
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.sum(), Duration::from_millis(500_500));
    }

    #[test]
    fn no_duration_is_too_short_or_too_long() {
        let histogram = Histogram::default();
        histogram.note(Duration::ZERO);
        histogram.note(Duration::from_secs(1 << 40));
        assert_eq!(histogram.count(), 2);
    }

    #[test]
    fn each_metric_has_a_name_of_its_own() {
        let metrics = Metrics::default();
        let mut names: Vec<_> = metrics.samples().iter().map(|sample| sample.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
