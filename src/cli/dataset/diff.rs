//! `atelier dataset diff`: what differs between two versions.

use futures_util::TryStreamExt as _;
use indicatif::HumanBytes;
use serde::Serialize;

use super::find::At;
use crate::catalog::{Shown, Version};
use crate::cli::difference::{kind, len, line, mode};
use crate::cli::table;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::Entry;
use crate::snapshot::diff::{Change, Difference, diff};
use crate::workspace::Workspace;

/// How much is collected before it is printed, in bytes.
const PRINTED_AT_ONCE: usize = 64 << 10;

/// Which versions are compared.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// Two versions, of one dataset or of two; or one, which is compared with the version before it
    #[arg(value_name = "NAME[@VERSION]", required = true, num_args = 1..=2)]
    versions: Vec<String>,
    /// Only tell how much differs
    #[arg(long)]
    stat: bool,
}

/// Entries and their length together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Amount {
    entries: u64,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }
}

/// How much differs.
#[derive(Debug, Default, Serialize)]
struct Summary {
    from: String,
    to: String,
    added: Amount,
    removed: Amount,
    changed: u64,
    changed_bytes_before: u64,
    changed_bytes_after: u64,
    /// Entries that differ in their time alone, which aren't listed.
    touched: u64,
}

impl table::Row for Summary {
    const HEADER: &'static [&'static str] =
        &["FROM", "TO", "ADDED", "REMOVED", "CHANGED", "TOUCHED"];

    fn cells(&self) -> Vec<String> {
        let amount = |amount: &Amount| format!("{} ({})", amount.entries, HumanBytes(amount.bytes));
        vec![
            self.from.clone(),
            self.to.clone(),
            amount(&self.added),
            amount(&self.removed),
            format!(
                "{} ({} -> {})",
                self.changed,
                HumanBytes(self.changed_bytes_before),
                HumanBytes(self.changed_bytes_after)
            ),
            self.touched.to_string(),
        ]
    }
}

/// An entry that only one of the versions has.
#[derive(Debug, Serialize)]
struct Only {
    path: String,
    kind: &'static str,
    bytes: u64,
}

/// An entry that both have.
#[derive(Debug, Serialize)]
struct Both {
    path: String,
    kind_before: &'static str,
    kind_after: &'static str,
    bytes_before: u64,
    bytes_after: u64,
    mode_before: String,
    mode_after: String,
}

/// Everything that differs, for programs.
#[derive(Debug, Default, Serialize)]
struct Differences {
    #[serde(flatten)]
    summary: Summary,
    added_entries: Vec<Only>,
    removed_entries: Vec<Only>,
    changed_entries: Vec<Both>,
}

impl table::Row for Differences {
    const HEADER: &'static [&'static str] = Summary::HEADER;

    fn cells(&self) -> Vec<String> {
        self.summary.cells()
    }
}

impl Diff {
    pub(super) async fn run(self, at: &At<'_>, workspace: &Workspace, json: bool) -> Result<()> {
        at.require_developer().await?;
        let [before, after] = self.both(at).await?;
        let called =
            |(shown, version): &(Shown, Version)| format!("{}@{}", shown.name, version.number);
        let (from, to) = (called(&before), called(&after));
        let summary = Summary { from, to, ..Summary::default() };
        let mut found = Differences { summary, ..Differences::default() };
        let (before, after) =
            (workspace.open_version(&before.1).await?, workspace.open_version(&after.1).await?);
        let (mut differences, mut lines) = (diff(&before, &after), String::new());
        while let Some(difference) = differences.try_next().await? {
            found.summary.count(&difference.change);
            match (self.stat, json) {
                (true, _) => {}
                (false, true) => found.keep(difference),
                (false, false) => {
                    lines.extend(line(&difference));
                    if lines.len() >= PRINTED_AT_ONCE {
                        table::print(std::mem::take(&mut lines).as_bytes())?;
                    }
                }
            }
        }
        table::print(lines.as_bytes())?;
        workspace.close().await;
        match (self.stat, json) {
            (true, _) => table::show(&found.summary, json),
            (false, true) => table::show(&found, json),
            (false, false) => {
                let cells = table::Row::cells(&found.summary);
                let [from, to, added, removed, changed, touched] = &cells[..] else {
                    return Ok(());
                };
                table::say(format!(
                    "{from} to {to}: {added} added, {removed} removed, {changed} changed, \
                     {touched} with another time alone"
                ));
                Ok(())
            }
        }
    }

    /// The versions to compare, the earlier one first if only one is named.
    async fn both(&self, at: &At<'_>) -> Result<[(Shown, Version); 2]> {
        if let [one, other] = &self.versions[..] {
            return Ok([at.version(one).await?, at.version(other).await?]);
        }
        let (shown, version) = at.version(&self.versions[0]).await?;
        let all = at.catalog.versions(&shown.resource.id).await?;
        let before = all.into_iter().rev().find(|other| other.number < version.number);
        let before = before.ok_or_else(|| {
            let message = format!("there is no version before {}@{}", shown.name, version.number);
            Error::new(ErrorKind::NotFound, message)
                .with_hint("name two versions, such as flowers@1 flowers@3")
        })?;
        Ok([(shown.clone(), before), (shown, version)])
    }
}

impl Summary {
    fn count(&mut self, change: &Change) {
        match change {
            Change::Added(entry) => self.added.add(len(entry)),
            Change::Removed(entry) => self.removed.add(len(entry)),
            Change::Changed { before, after } => {
                self.changed += 1;
                self.changed_bytes_before += len(before);
                self.changed_bytes_after += len(after);
            }
            Change::Touched => self.touched += 1,
        }
    }
}

impl Differences {
    fn keep(&mut self, Difference { path, change }: Difference) {
        let path = path.to_string();
        let only = |path, entry: &Entry| Only { path, kind: kind(entry), bytes: len(entry) };
        match change {
            Change::Added(entry) => self.added_entries.push(only(path, &entry)),
            Change::Removed(entry) => self.removed_entries.push(only(path, &entry)),
            Change::Changed { before, after } => self.changed_entries.push(Both {
                path,
                kind_before: kind(&before),
                kind_after: kind(&after),
                bytes_before: len(&before),
                bytes_after: len(&after),
                mode_before: mode(&before),
                mode_after: mode(&after),
            }),
            Change::Touched => {}
        }
    }
}
