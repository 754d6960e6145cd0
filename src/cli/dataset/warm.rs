//! `atelier dataset warm`: what a loader will ask for is brought near before it does.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{At, Context};
use crate::cache;
use crate::cli::table;
use crate::config::{ByteCount, CacheSize, Serving, ServingArgs};
use crate::error::{IoContext as _, Result};
use crate::object::{Near, Place};
use crate::path::TreePath;
use crate::snapshot;
use crate::snapshot::warm::{Warmed, Warming};
use crate::workspace::Workspace;

mod shuffle;

/// What is brought near, and in which order.
#[derive(Debug, clap::Args)]
pub struct Warm {
    /// The version; without one the newest active one
    #[arg(value_name = "NAME[@VERSION|@TAG]")]
    name: String,

    /// Files and directories in it [default: all of it, as it lies in the store]
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Take the files that FILE lists, a path in the dataset a line, in that order
    #[arg(long, value_name = "FILE", conflicts_with_all = ["paths", "shuffle_seed"])]
    order: Option<PathBuf>,

    /// Take all files in the order that `random.Random(N).shuffle` of Python gives the sorted list
    /// of their paths
    #[arg(long, value_name = "N", conflicts_with = "paths")]
    shuffle_seed: Option<u64>,

    /// Most bytes [default: half of the memory that is available, or what the disk cache may have]
    #[arg(long, value_name = "SIZE")]
    most: Option<ByteCount>,

    /// Where mounts keep blocks of a bucket, as `mount` has it
    #[arg(long, env = "ATELIER_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Most room for them, as `mount` has it
    #[arg(long, env = "ATELIER_CACHE_SIZE", value_name = "SIZE")]
    cache_size: Option<CacheSize>,
}

/// What was done, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    version: u32,
    files: u64,
    bytes_there: u64,
    bytes_brought: u64,
    complete: bool,
}

impl table::Row for Shown {
    const HEADER: &'static [&'static str] = &["NAME", "FILES", "THERE", "BROUGHT", "COMPLETE"];

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{}@{}", self.name, self.version),
            self.files.to_string(),
            HumanBytes(self.bytes_there).to_string(),
            HumanBytes(self.bytes_brought).to_string(),
            super::yes_or_no(self.complete),
        ]
    }
}

impl Warm {
    /// How what is read is kept: as a mount keeps it.
    ///
    /// # Errors
    /// Those of [`Serving::resolve`].
    pub(super) fn serving(&self, context: &Context) -> Result<Serving> {
        let (cache_dir, cache_size) = (self.cache_dir.clone(), self.cache_size);
        let args = ServingArgs { cache_dir, cache_size, ..ServingArgs::default() };
        Serving::resolve(&args, &context.config.cache)
    }

    pub(super) async fn run(
        self,
        context: &Context,
        workspace: &Workspace,
        at: &At<'_>,
    ) -> Result<()> {
        at.require_developer().await?;
        let (shown, named) = at.version(&self.name).await?;
        let version = workspace.open_version(&named).await?;
        let files = self.files(&version).await?;
        let most = self.most.map_or(u64::MAX, |ByteCount(bytes)| bytes);
        let most = match version.packs().store().near().map(Near::place) {
            // The kernel counts what is in its memory as that of who read it first.
            Some(Place::Memory) => cache::affordable(most),
            _ => most,
        };
        let progress = Warming::default();
        let warmed = watched(&progress, Box::pin(version.warm(&files, most, &progress))).await;
        workspace.close().await;
        let Warmed { place, complete } = warmed?;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let shown = Shown {
            name: shown.name,
            version: named.number,
            files: files.len() as u64,
            bytes_there: count(&progress.there),
            bytes_brought: count(&progress.brought),
            complete,
        };
        say(&shown, place, count(&progress.files));
        table::made(&shown, context.json)
    }

    /// The files that are meant, by number, in order.
    async fn files(&self, version: &snapshot::Version) -> Result<Vec<u64>> {
        if let Some(seed) = self.shuffle_seed {
            let mut files = version.files_by_path().await?;
            shuffle::shuffle(&mut files, seed);
            return Ok(files);
        }
        if let Some(list) = &self.order {
            let shown = list.display();
            let lines = fs::read(list).context(|| format!("{shown} can't be read"))?;
            let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let paths: Vec<_> = lines.map(path).collect::<Result<_>>()?;
            return version.files_at(paths).await;
        }
        if self.paths.is_empty() {
            return version.files_at([Bytes::new()]).await;
        }
        let paths = self.paths.iter().map(|words| path(words.as_bytes()));
        let paths: Vec<_> = paths.collect::<Result<_>>()?;
        version.files_at(paths).await
    }
}

/// A path as `find` and `ls` print it: `./` before it and `/` behind it mean nothing.
fn path(text: &[u8]) -> Result<Bytes> {
    let text = text.strip_prefix(b"./").unwrap_or(text);
    let text = text.strip_suffix(b"/").unwrap_or(text);
    let text = if text == b"." { b"" } else { text };
    Ok(Bytes::copy_from_slice(TreePath::parse(text)?.as_bytes()))
}

/// Waits for the work and shows how far it is.
async fn watched<T>(progress: &Warming, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len} files, {msg}") {
        bar.set_style(style);
    }
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut work = std::pin::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = tick.tick() => {
                let count = |counter: &std::sync::atomic::AtomicU64| {
                    counter.load(Ordering::Relaxed)
                };
                bar.set_length(count(&progress.total));
                bar.set_position(count(&progress.files));
                let (brought, there) = (count(&progress.brought), count(&progress.there));
                let (brought, there) = (HumanBytes(brought), HumanBytes(there));
                bar.set_message(format!("{brought} brought, {there} there"));
            }
        }
    };
    bar.finish_and_clear();
    done
}

fn say(shown: &Shown, place: Place, looked_at: u64) {
    let Shown { name, version, files, bytes_there, bytes_brought, complete } = shown;
    let place = match place {
        Place::Memory => "in memory",
        Place::Disk => "in the disk cache",
    };
    let (there, brought) = (HumanBytes(*bytes_there), HumanBytes(*bytes_brought));
    let line = format!("{brought} brought, {there} were there");
    table::say(if *complete {
        format!("dataset {name}@{version}: {files} files are {place}: {line}")
    } else {
        format!(
            "dataset {name}@{version}: {looked_at} of {files} files are {place}, and there is no \
             room for more: {line}"
        )
    });
}
