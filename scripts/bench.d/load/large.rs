//! Readers of one large file: in order, or anywhere.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::data::{is_right, shuffle};
use crate::epoch::Latencies;
use crate::{Effort, Outcome, Place};

#[derive(Args)]
pub(crate) struct Sequential {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    effort: Effort,
    /// Bytes of one read
    #[arg(long, default_value_t = 1 << 20)]
    block: usize,
}

#[derive(Args)]
pub(crate) struct Random {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    effort: Effort,
    /// Bytes of one read, which starts at a multiple of them
    #[arg(long, default_value_t = 128 << 10)]
    block: usize,
    /// Which order
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Sequential {
    pub(crate) fn run(self) -> Outcome {
        let start = Instant::now();
        let path = &self.place.path;
        let len = path.metadata()?.len();
        let parts = self.effort.readers as u64;
        let part = len.div_ceil(parts).next_multiple_of(self.block as u64);
        let end = start + self.effort.limit();
        let results: Vec<_> = std::thread::scope(|scope| {
            let readers = (0..parts).map(|number| {
                scope.spawn(move || {
                    let bounds = (number * part).min(len)..((number + 1) * part).min(len);
                    read_part(path, bounds, self.block, end)
                })
            });
            let readers: Vec<_> = readers.collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader ends")).collect()
        });
        let elapsed = start.elapsed();
        let (mut bytes, mut first) = (0, Duration::MAX);
        for result in results {
            let (read, waited) = result?;
            bytes += read;
            first = first.min(waited);
        }
        let seconds = elapsed.as_secs_f64();
        Ok(json!({
            "bytes": bytes,
            "seconds": seconds,
            "rate": bytes as f64 / 1e6 / seconds,
            "first_ms": first.as_secs_f64() * 1e3,
        }))
    }
}

/// The bytes read, and how long the first of them took.
fn read_part(
    path: &Path,
    bounds: std::ops::Range<u64>,
    block: usize,
    end: Instant,
) -> std::io::Result<(u64, Duration)> {
    let start = Instant::now();
    let mut first = None;
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(bounds.start))?;
    let mut buffer = vec![0; block];
    let mut offset = bounds.start;
    while offset < bounds.end && Instant::now() < end {
        let mut filled = 0;
        while filled < block {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
            first.get_or_insert_with(|| start.elapsed());
        }
        if filled == 0 {
            return Err(std::io::Error::other(format!("the file ends at {offset}")));
        }
        expect_right(offset, &buffer[..filled])?;
        offset += filled as u64;
    }
    Ok((offset - bounds.start, first.unwrap_or_default()))
}

impl Random {
    pub(crate) fn run(self) -> Outcome {
        let start = Instant::now();
        let path = &self.place.path;
        let mut offsets: Vec<u64> = (0..path.metadata()?.len() / self.block as u64)
            .map(|at| at * self.block as u64)
            .collect();
        shuffle(&mut offsets, self.seed);
        let (next, end) = (AtomicUsize::new(0), start + self.effort.limit());
        let results: Vec<_> = std::thread::scope(|scope| {
            let readers = (0..self.effort.readers)
                .map(|_| scope.spawn(|| read_anywhere(path, &offsets, &next, self.block, end)));
            let readers: Vec<_> = readers.collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader ends")).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        let latencies = Latencies::merge(results)?;
        let reads = latencies.count();
        Ok(json!({
            "reads": reads,
            "bytes": reads * self.block,
            "seconds": seconds,
            "rate": reads as f64 / seconds,
            "p50_ms": latencies.percentile(50),
            "p99_ms": latencies.percentile(99),
        }))
    }
}

fn read_anywhere(
    path: &Path,
    offsets: &[u64],
    next: &AtomicUsize,
    block: usize,
    end: Instant,
) -> std::io::Result<Latencies> {
    let file = File::open(path)?;
    let mut buffer = vec![0; block];
    let mut latencies = Latencies::default();
    while Instant::now() < end {
        let Some(&offset) = offsets.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
        let start = Instant::now();
        file.read_exact_at(&mut buffer, offset)?;
        latencies.note(start.elapsed());
        expect_right(offset, &buffer)?;
    }
    Ok(latencies)
}

fn expect_right(offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    if is_right(offset, bytes) {
        return Ok(());
    }
    Err(std::io::Error::other(format!("wrong bytes between {offset} and the next {}", bytes.len())))
}
