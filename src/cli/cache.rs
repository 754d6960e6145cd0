//! `atelier cache`: the blocks of buckets' objects that are kept on disk.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use super::{Context, table};
use crate::cache::disk::{CacheDir, Checked};
use crate::config::{CacheSize, Serving, ServingArgs, Span};
use crate::error::{Error, ErrorKind, Result};

/// Look at, empty or check what is kept on disk of buckets' objects.
#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Show how much is kept, and how much may be
    Status(Place),
    /// Remove what is kept; what is open stays readable
    Clear {
        /// Which cache
        #[command(flatten)]
        place: Place,
        /// Only what wasn't used for so long, such as 7d or 12h
        #[arg(long, value_name = "TIME")]
        older_than: Option<Span>,
    },
    /// Check every block, and drop those that are damaged
    Verify(Place),
}

/// Which cache is meant.
#[derive(Debug, Args)]
pub struct Place {
    /// Where blocks are kept [default: `atelier/blocks` in the XDG cache directory]
    #[arg(long, env = "ATELIER_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Most room for them, as mounts are told [default: 10%]
    #[arg(long, env = "ATELIER_CACHE_SIZE", value_name = "SIZE")]
    cache_size: Option<CacheSize>,
}

/// How much is kept, as it is shown.
#[derive(Debug, Serialize)]
struct Status {
    dir: PathBuf,
    objects: u64,
    used_bytes: u64,
    limit_bytes: u64,
    reserve_bytes: u64,
    oldest_use: Option<Timestamp>,
}

impl table::Row for Status {
    const HEADER: &'static [&'static str] =
        &["DIR", "OBJECTS", "USED", "LIMIT", "RESERVE", "OLDEST USE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.dir.display().to_string(),
            self.objects.to_string(),
            HumanBytes(self.used_bytes).to_string(),
            HumanBytes(self.limit_bytes).to_string(),
            HumanBytes(self.reserve_bytes).to_string(),
            self.oldest_use.map_or_else(|| "-".to_owned(), table::time),
        ]
    }
}

/// What was removed, as it is shown.
#[derive(Debug, Serialize)]
struct Cleared {
    objects: u64,
    bytes: u64,
}

impl table::Row for Cleared {
    const HEADER: &'static [&'static str] = &["OBJECTS", "FREED"];

    fn cells(&self) -> Vec<String> {
        vec![self.objects.to_string(), HumanBytes(self.bytes).to_string()]
    }
}

/// What was found, as it is shown.
#[derive(Debug, Serialize)]
struct Verified {
    objects: u64,
    bytes: u64,
    damaged: Vec<Damaged>,
}

#[derive(Debug, Serialize)]
struct Damaged {
    object: String,
    blocks: u64,
}

impl table::Row for Verified {
    const HEADER: &'static [&'static str] = &["OBJECTS", "SIZE", "DAMAGED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.objects.to_string(),
            HumanBytes(self.bytes).to_string(),
            self.damaged.len().to_string(),
        ]
    }
}

impl table::Row for Damaged {
    const HEADER: &'static [&'static str] = &["OBJECT", "DAMAGED BLOCKS"];

    fn cells(&self) -> Vec<String> {
        vec![self.object.clone(), self.blocks.to_string()]
    }
}

impl Cache {
    /// Does what was asked with the cache.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        let place = match self {
            Self::Status(place) | Self::Verify(place) | Self::Clear { place, .. } => place,
        };
        let args = ServingArgs {
            cache_dir: place.cache_dir.clone(),
            cache_size: place.cache_size,
            ..ServingArgs::default()
        };
        let Serving { cache_dir: dir, cache_size, .. } =
            Serving::resolve(&args, &context.config.cache)?;
        let Some(cache) = CacheDir::open(&dir, cache_size)? else {
            let message = format!("there is no cache in {}", dir.display());
            return Err(Error::new(ErrorKind::NotFound, message)
                .with_hint("a mount makes it; name another with --cache-dir"));
        };
        match self {
            Self::Status(_) => {
                let kept = cache.kept()?;
                let status = Status {
                    dir,
                    objects: kept.objects,
                    used_bytes: kept.used,
                    limit_bytes: kept.limit,
                    reserve_bytes: kept.reserve,
                    oldest_use: kept.oldest.and_then(|time| Timestamp::try_from(time).ok()),
                };
                table::show(&status, context.json)?;
            }
            Self::Clear { older_than, .. } => {
                let removed = cache.clear(older_than.map(|Span(span)| span))?;
                let (objects, bytes) = (removed.objects, removed.room);
                let freed = HumanBytes(bytes);
                table::say(format!("{objects} objects are removed, {freed} are free"));
                table::made(&Cleared { objects, bytes }, context.json)?;
            }
            Self::Verify(_) => verify(&cache, context.json)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn verify(cache: &CacheDir, json: bool) -> Result<()> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    let checked = cache.verify(|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let Checked { objects, bytes, damaged } = checked?;
    let damaged: Vec<_> = damaged
        .into_iter()
        .map(|damage| Damaged { object: damage.object, blocks: damage.blocks })
        .collect();
    let count = damaged.len();
    if json {
        table::show(&Verified { objects, bytes, damaged }, json)?;
    } else if count > 0 {
        table::list(&damaged, json)?;
    }
    if count > 0 {
        let message = format!("{count} of {objects} objects were damaged: the blocks are dropped");
        return Err(Error::new(ErrorKind::Damaged, message)
            .with_hint("they are fetched again when they are read"));
    }
    table::say(format!("the cache is whole: {objects} objects, {}", HumanBytes(bytes)));
    Ok(())
}
