//! A visit of everything below a directory, with its attributes.

use std::fs;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::{Effort, Outcome, Place};

#[derive(Args)]
pub(crate) struct Walk {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    effort: Effort,
}

impl Walk {
    pub(crate) fn run(self) -> Outcome {
        let start = Instant::now();
        let end = start + self.effort.limit();
        let (mut dirs, mut entries, mut bytes) = (vec![self.place.path], 0_u64, 0_u64);
        'walk: while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                let attr = entry.metadata()?;
                entries += 1;
                bytes += attr.len();
                if attr.is_dir() {
                    dirs.push(entry.path());
                }
                if Instant::now() >= end {
                    break 'walk;
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = entries as f64 / seconds;
        Ok(json!({ "entries": entries, "bytes": bytes, "seconds": seconds, "rate": rate }))
    }
}
