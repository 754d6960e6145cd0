//! `atelier store`: the content of datasets and checkpoints.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Subcommand;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Context, table};
use crate::catalog::collect::Rooted;
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::scrub::{Scrubbed, scrub};
use crate::snapshot::verify::Checking;
use crate::workspace::Workspace;

/// How many affected files of a version are named to people.
const NAMED: usize = 20;

/// Look at the store that keeps the content of datasets and checkpoints.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Show where the store is and how much it holds
    Show,
    /// Read all that is in the store, check every byte, and name what is damaged
    Verify,
}

/// A store as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    location: String,
    objects: u64,
    bytes: u64,
    unused_objects: u64,
    unused_bytes: u64,
}

impl table::Row for Shown {
    const HEADER: &'static [&'static str] = &["LOCATION", "USED", "UNUSED"];

    fn cells(&self) -> Vec<String> {
        let cell = |objects, bytes| format!("{objects} objects, {}", HumanBytes(bytes));
        vec![
            self.location.clone(),
            cell(self.objects, self.bytes),
            cell(self.unused_objects, self.unused_bytes),
        ]
    }
}

/// What was found, as it is shown.
#[derive(Debug, Serialize)]
struct Found {
    objects: u64,
    bytes: u64,
    versions: u64,
    unknown_objects: u64,
    damaged: Vec<DamagedObject>,
    affected: Vec<AffectedVersion>,
}

#[derive(Debug, Serialize)]
struct DamagedObject {
    object: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct AffectedVersion {
    version: String,
    files: Vec<String>,
}

impl table::Row for Found {
    const HEADER: &'static [&'static str] = &["OBJECTS", "SIZE", "VERSIONS", "DAMAGED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.objects.to_string(),
            HumanBytes(self.bytes).to_string(),
            self.versions.to_string(),
            self.damaged.len().to_string(),
        ]
    }
}

impl Store {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let workspace = Workspace::open(&context.config).await?;
        match self {
            Self::Show => {
                let location = workspace.store_location().await?;
                let outlook = workspace.catalog.outlook(Duration::ZERO).await?;
                let (used, unused) = (outlook.kept, outlook.condemned);
                let shown = Shown {
                    location,
                    objects: used.objects,
                    bytes: used.bytes,
                    unused_objects: unused.objects,
                    unused_bytes: unused.bytes,
                };
                table::show(&shown, context.json)?;
            }
            Self::Verify => verify(context, &workspace).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn verify(context: &Context, workspace: &Workspace) -> Result<()> {
    let progress = Arc::new(Checking::default());
    let check = Box::pin(scrub(&workspace.catalog, &workspace.packs, progress.clone()));
    let scrubbed = watched(&progress, check).await?;
    let bytes = progress.bytes.load(Ordering::Relaxed);
    let found = found(&scrubbed, bytes);
    if context.json {
        table::show(&found, true)?;
    } else {
        say(&found);
    }
    if scrubbed.is_whole() {
        let Found { objects, versions, .. } = found;
        let bytes = HumanBytes(bytes);
        table::say(format!("the store is whole: {objects} objects, {bytes}, {versions} versions"));
        return Ok(());
    }
    let (damaged, affected) = (found.damaged.len(), found.affected.len());
    let message =
        format!("the store is damaged: {damaged} objects, which affect {affected} versions");
    Err(Error::new(ErrorKind::Damaged, message).with_hint(
        "where the files are still at hand, make the datasets again: what is damaged isn't used \
         any more",
    ))
}

/// Waits for a check and shows how far it is.
pub(super) async fn watched<T>(progress: &Checking, check: impl Future<Output = T>) -> T {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len} objects, {msg}") {
        bar.set_style(style);
    }
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut check = std::pin::pin!(check);
    let checked = loop {
        tokio::select! {
            checked = &mut check => break checked,
            _ = tick.tick() => {
                bar.set_length(progress.total.load(Ordering::Relaxed));
                bar.set_position(progress.objects.load(Ordering::Relaxed));
                bar.set_message(HumanBytes(progress.bytes.load(Ordering::Relaxed)).to_string());
            }
        }
    };
    bar.finish_and_clear();
    checked
}

fn found(scrubbed: &Scrubbed, bytes: u64) -> Found {
    let damaged = scrubbed.damaged.iter().map(|damaged| DamagedObject {
        object: damaged.area.key(&damaged.id),
        reason: damaged.error.to_string(),
    });
    let affected = scrubbed.affected.iter().map(|(version, files)| AffectedVersion {
        version: name(version),
        files: files.iter().map(TreePath::to_string).collect(),
    });
    Found {
        objects: scrubbed.objects,
        bytes,
        versions: scrubbed.versions,
        unknown_objects: scrubbed.unknown,
        damaged: damaged.collect(),
        affected: affected.collect(),
    }
}

fn name(version: &Rooted) -> String {
    let Rooted { kind, name, number, project, .. } = version;
    format!("{kind} {name}@{number} of {project}")
}

fn say(found: &Found) {
    for damaged in &found.damaged {
        table::say(&damaged.reason);
    }
    for AffectedVersion { version, files } in &found.affected {
        for file in files.iter().take(NAMED) {
            table::say(format!("affected: {version}: {file}"));
        }
        if let Some(more @ 1..) = files.len().checked_sub(NAMED) {
            table::say(format!("affected: {version}: {more} more"));
        }
    }
    if found.unknown_objects > 0 {
        let unknown = found.unknown_objects;
        table::say(format!("{unknown} objects aren't known to the catalogue, and are left alone"));
    }
}
