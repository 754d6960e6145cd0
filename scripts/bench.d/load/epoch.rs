//! Readers of many small files, each read whole once.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::data::{is_small, shuffle};
use crate::{Effort, Outcome, Place};

#[derive(Args)]
pub(crate) struct Epoch {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    effort: Effort,
    /// Which file comes after which
    #[arg(long, default_value = "listed")]
    order: Order,
    /// Which shuffled order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which part of the files, of so many as there are processes
    #[arg(long, default_value_t = 0)]
    part: usize,
    /// How many processes share the files
    #[arg(long, default_value_t = 1)]
    parts: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Order {
    /// As the directories list them
    Listed,
    /// As a loader of training data shuffles them
    Shuffled,
}

impl Epoch {
    pub(crate) fn run(self) -> Outcome {
        let start = Instant::now();
        let mut files = Vec::new();
        list(&self.place.path, &mut files)?;
        let listing = start.elapsed().as_secs_f64();
        if self.order == Order::Shuffled {
            shuffle(&mut files, self.seed);
        }
        let files: Vec<_> = files.into_iter().skip(self.part).step_by(self.parts.max(1)).collect();

        let start = Instant::now();
        let (next, end) = (AtomicUsize::new(0), start + self.effort.limit());
        let results: Vec<_> = std::thread::scope(|scope| {
            let readers =
                (0..self.effort.readers).map(|_| scope.spawn(|| read_next(&files, &next, end)));
            let readers: Vec<_> = readers.collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader ends")).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        let latencies = Latencies::merge(results)?;
        Ok(json!({
            "files": latencies.count(),
            "bytes": latencies.bytes,
            "listed": files.len(),
            "listing_seconds": listing,
            "seconds": seconds,
            "rate": latencies.count() as f64 / seconds,
            "p50_ms": latencies.percentile(50),
            "p99_ms": latencies.percentile(99),
        }))
    }
}

/// The files below a directory, in the order of its listings, without asking for attributes.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn read_next(files: &[PathBuf], next: &AtomicUsize, end: Instant) -> std::io::Result<Latencies> {
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut latencies = Latencies::default();
    while Instant::now() < end {
        let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
        let start = Instant::now();
        buffer.clear();
        // It asks for the length, then reads until there is no more, as Python's read() does.
        let read = File::open(path).and_then(|mut file| file.read_to_end(&mut buffer));
        read.map_err(|error| std::io::Error::other(format!("{}: {error}", path.display())))?;
        latencies.note(start.elapsed());
        latencies.bytes += buffer.len() as u64;
        if !is_small(path, &buffer) {
            return Err(std::io::Error::other(format!("wrong bytes in {}", path.display())));
        }
    }
    Ok(latencies)
}

/// How long each of many reads took.
#[derive(Default)]
pub(crate) struct Latencies {
    durations: Vec<Duration>,
    bytes: u64,
}

impl Latencies {
    pub(crate) fn note(&mut self, duration: Duration) {
        self.durations.push(duration);
    }

    pub(crate) fn merge(parts: Vec<std::io::Result<Self>>) -> std::io::Result<Self> {
        let mut whole = Self::default();
        for part in parts {
            let part = part?;
            whole.durations.extend(part.durations);
            whole.bytes += part.bytes;
        }
        whole.durations.sort();
        Ok(whole)
    }

    pub(crate) fn count(&self) -> usize {
        self.durations.len()
    }

    /// The milliseconds that so many hundredths of the reads didn't exceed.
    pub(crate) fn percentile(&self, hundredths: usize) -> f64 {
        let last = self.durations.len().saturating_sub(1);
        let index = (self.durations.len() * hundredths / 100).min(last);
        self.durations.get(index).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
    }
}
