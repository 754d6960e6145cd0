//! `atelier checkpoint diff`: which cells, variables and files differ between two.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::TryStreamExt as _;
use indicatif::HumanBytes;
use serde::Serialize;

use super::find;
use super::line::Line;
use crate::catalog::{Project, Shown};
use crate::cli::{difference, table};
use crate::error::{Error, ErrorKind, Result};
use crate::notebook::difference::{CellChange, CellDifference, cells};
use crate::notebook::state::Variable;
use crate::path::TreePath;
use crate::snapshot::Version;
use crate::snapshot::diff::{Change, diff};
use crate::workspace::Workspace;

/// Which checkpoints are compared.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The earlier one
    before: String,
    /// The later one
    #[arg(default_value = "latest")]
    after: String,
}

/// A variable that isn't the same in both.
#[derive(Debug, Serialize)]
struct VariableDifference {
    name: String,
    change: &'static str,
    before: Option<Variable>,
    after: Option<Variable>,
}

/// A file that isn't the same in both.
#[derive(Debug, Serialize)]
struct FileDifference {
    path: String,
    change: &'static str,
}

/// Everything that differs, for programs.
#[derive(Debug, Serialize)]
struct Differences {
    from: String,
    to: String,
    cells: Vec<CellDifference>,
    variables: Vec<VariableDifference>,
    files: Vec<FileDifference>,
}

impl table::Row for Differences {
    const HEADER: &'static [&'static str] = &["FROM", "TO", "CELLS", "VARIABLES", "FILES"];

    fn cells(&self) -> Vec<String> {
        let Self { from, to, cells, variables, files } = self;
        let counts = [cells.len(), variables.len(), files.len()].map(|count| count.to_string());
        [from.clone(), to.clone()].into_iter().chain(counts).collect()
    }
}

/// A checkpoint and what it holds.
struct Side {
    line: Line,
    version: Version,
}

impl Side {
    async fn open(workspace: &Workspace, project: &Project, id: &str) -> Result<Self> {
        let found = find::one(&workspace.catalog, project, id).await?;
        let Shown { name, resource, .. } = &found;
        let Some(version) = workspace.catalog.newest_version(&resource.id).await? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("checkpoint {name} has no version"),
            ));
        };
        Ok(Self { line: Line::of(&found)?, version: workspace.open_version(&version).await? })
    }

    /// The notebook's bytes; those of an empty one where there is none.
    async fn notebook(&self) -> Result<Vec<u8>> {
        let path = TreePath::parse("notebook.ipynb")?;
        match self.version.read(&path, 0..u64::MAX).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(br#"{"cells": []}"#.to_vec()),
            other => other.map(Vec::from),
        }
    }

    fn variables(&self) -> BTreeMap<&str, &Variable> {
        let all = self.line.spec.variables.iter().flatten();
        all.map(|variable| (variable.name.as_str(), variable)).collect()
    }
}

impl Diff {
    pub(super) async fn run(
        self,
        workspace: &Workspace,
        project: &Project,
        json: bool,
    ) -> Result<()> {
        let before = Side::open(workspace, project, &self.before).await?;
        let after = Side::open(workspace, project, &self.after).await?;
        let mut lines = String::new();
        let cells = cells(&before.notebook().await?, &after.notebook().await?)?;
        for CellDifference { cell, change, text } in &cells {
            let (sign, what) = match change {
                CellChange::Added => ('+', ""),
                CellChange::Removed => ('-', ""),
                CellChange::Changed => ('~', ""),
                CellChange::Output => ('~', " output"),
            };
            let _ = writeln!(lines, "{sign} cell {cell}{what}  {text}");
        }
        // What differs in the store says so of variables, too: nothing is read but what differs.
        let (mut files, mut changed) = (Vec::new(), Vec::new());
        let mut differences = diff(&before.version, &after.version);
        let mut file_lines = String::new();
        while let Some(difference) = differences.try_next().await? {
            let path = difference.path.to_string();
            let change = match difference.change {
                Change::Added(_) => "added",
                Change::Removed(_) => "removed",
                Change::Changed { ref before, ref after } if path.starts_with("variables/") => {
                    if !before.content.is_same(&after.content) {
                        changed.push(path);
                    }
                    continue;
                }
                Change::Changed { .. } => "changed",
                Change::Touched => continue,
            };
            if path.starts_with("files/") {
                file_lines.extend(difference::line(&difference));
                files.push(FileDifference { path, change });
            }
        }
        let variables = variables(&before, &after, &changed);
        lines.extend(variables.iter().map(variable_line));
        lines += &file_lines;
        let (from, to) = (before.line.id, after.line.id);
        workspace.close().await;
        let found = Differences { from, to, cells, variables, files };
        if json {
            return table::show(&found, true);
        }
        table::print(lines.as_bytes())?;
        let Differences { from, to, cells, variables, files } = found;
        let [cells, variables, files] = [cells.len(), variables.len(), files.len()];
        table::say(format!(
            "{from} to {to}: {cells} cells, {variables} variables, {files} files differ"
        ));
        Ok(())
    }
}

fn variables(before: &Side, after: &Side, changed: &[String]) -> Vec<VariableDifference> {
    if before.line.spec.variables.is_none() || after.line.spec.variables.is_none() {
        // Where they weren't saved, nothing is known of them.
        return Vec::new();
    }
    let (old, new) = (before.variables(), after.variables());
    let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    let differing = names.into_iter().filter_map(|name| {
        let change = match (old.get(name), new.get(name)) {
            (None, _) => "added",
            (_, None) => "removed",
            // The length of a pickle depends on what it is next to, its bytes decide.
            (Some(old), Some(new)) => {
                let file = format!("variables/{name}.pkl");
                let described = old.kind != new.kind
                    || old.import != new.import
                    || old.left_out.is_some() != new.left_out.is_some();
                if !described && !changed.contains(&file) {
                    return None;
                }
                "changed"
            }
        };
        let owned = |of: Option<&&Variable>| of.map(|variable| (*variable).clone());
        let (before, after) = (owned(old.get(name)), owned(new.get(name)));
        Some(VariableDifference { name: name.to_owned(), change, before, after })
    });
    differing.collect()
}

fn variable_line(difference: &VariableDifference) -> String {
    let VariableDifference { name, change, before, after } = difference;
    let sign = match *change {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let described = |variable: &Variable| {
        let size = variable.size.map_or_else(String::new, |size| format!(" {}", HumanBytes(size)));
        let left_out = variable.left_out.as_ref().map_or("", |_| " left out");
        format!("{}{size}{left_out}", variable.kind)
    };
    let (before, after) = (before.as_ref().map(described), after.as_ref().map(described));
    let what = match (before, after) {
        (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
        (before, after) => after.or(before).unwrap_or_default(),
    };
    format!("{sign} variable {name}  {what}\n")
}
