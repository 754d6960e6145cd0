//! `atelier dataset export`: a version as plain files.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar};

use super::find::At;
use crate::cli::{shield, table};
use crate::error::{ErrorKind, Result};
use crate::snapshot::export::export;
use crate::snapshot::restore::Restoring;
use crate::workspace::Workspace;

/// What is written where.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The version; without one the newest active one
    #[arg(value_name = "NAME[@VERSION]")]
    name: String,
    /// The directory: empty, or not there yet
    #[arg(value_name = "DIR")]
    into: PathBuf,
}

impl Export {
    pub(super) async fn run(self, at: &At<'_>, workspace: &Workspace) -> Result<()> {
        at.require_developer().await?;
        shield::make_files_for_the_user();
        let (shown, version) = at.version(&self.name).await?;
        let opened = workspace.open_version(&version).await?;
        let progress = Arc::<Restoring>::default();
        let bar = ProgressBar::new_spinner();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut run = std::pin::pin!(export(&opened, &self.into, progress.clone()));
        let done = loop {
            tokio::select! {
                done = &mut run => break done,
                _ = tick.tick() => {
                    bar.set_message(line(&progress, version.files));
                    bar.tick();
                }
            }
        };
        bar.finish_and_clear();
        workspace.close().await;
        let refused = [ErrorKind::DirectoryNotEmpty, ErrorKind::ResourceBusy];
        let done = done.map_err(|error| {
            if refused.contains(&error.kind()) {
                return error;
            }
            error.with_hint("what was written stays: the same command goes on where it stopped")
        })?;
        let (files, bytes) = (version.files, HumanBytes(version.bytes));
        let (name, number, into) = (shown.name, version.number, self.into.display());
        let mut said = format!("dataset {name}@{number} is in {into}: {files} files, {bytes}");
        if done.unchanged > 0 {
            let _ = write!(said, "; {} were there already", done.unchanged);
        }
        table::say(said);
        Ok(())
    }
}

fn line(progress: &Restoring, files: u64) -> String {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let done = count(&progress.written) + count(&progress.unchanged);
    format!("{done} of {files} files, {}", HumanBytes(count(&progress.bytes)))
}
