//! Makes the project's files what they were in a checkpoint, without losing what they are.

use std::path::PathBuf;

use futures_util::TryStreamExt as _;

use super::save::{Draft, Saver};
use super::{Line, Operation, Spec};
use crate::catalog::{Project, Shown};
use crate::cli::table;
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::diff::{Change, diff};
use crate::snapshot::{Restored, Version, restore, restore_changes};
use crate::workspace::Workspace;

/// Saves the files as they are, unless the newest checkpoint has them so; makes them what they
/// were; saves the outcome as a rollback. Where a mount shows the files they are changed in it, at
/// `live`, so that whoever uses it sees them at once.
///
/// # Errors
/// `NotFound` for a checkpoint without its version; `ResourceBusy` when something among the files
/// can't be saved and so would be lost.
pub(super) async fn apply(
    workspace: &Workspace,
    project: &Project,
    target: &Shown,
    live: Option<PathBuf>,
) -> Result<Line> {
    let Shown { name, resource, .. } = target;
    let Spec { notebook, data, .. } = Line::of(target)?.spec;
    if !data {
        let message = format!("checkpoint {name} has no files: they were more than it could take");
        return Err(Error::new(ErrorKind::NotFound, message)
            .with_hint(format!("its notebook is checkpoints/{name}/notebook.ipynb")));
    }
    let Some(found) = workspace.catalog.newest_version(&resource.id).await? else {
        return Err(Error::new(ErrorKind::NotFound, format!("checkpoint {name} has no version")));
    };
    let version = workspace.open_version(&found).await?;
    let saver = Saver::new(workspace, project)?;
    save_what_is_there(&saver, workspace, name, notebook.as_deref()).await?;

    let done = bring_back(&saver, &version, live).await?;
    let notebook = match &notebook {
        Some(path) => saver.notebook_as_it_is(path).await?,
        None => None,
    };
    let draft =
        Draft { operation: Operation::Rollback, of: Some(name.clone()), ..Draft::manual(notebook) };
    let line = saver.publish(saver.capture(draft).await?).await?;
    table::say(format!(
        "checkpoint {name} applied: {} written, {} unchanged, {} removed",
        done.written, done.unchanged, done.removed
    ));
    Ok(line)
}

/// Makes the files what they are in a version.
async fn bring_back(
    saver: &Saver<'_>,
    version: &Version,
    live: Option<PathBuf>,
) -> Result<Restored> {
    let at = TreePath::parse("files")?;
    let changes = saver.differences(version).await?;
    // Behind no mount it has to be noted here what may change.
    let (into, _marks) = match live {
        Some(live) => (live, Vec::new()),
        None => (saver.files.clone(), saver.mark(changes.as_ref())?),
    };
    match changes {
        Some(changes) => restore_changes(version, &at, &into, changes).await,
        None => restore(version, &at, &into).await,
    }
}

async fn save_what_is_there(
    saver: &Saver<'_>,
    workspace: &Workspace,
    target: &str,
    notebook: Option<&str>,
) -> Result<()> {
    // What is stored here is found again when it is saved; the writer ends without publishing.
    let (packs, writer) = workspace.begin_writing().await?;
    let (capture, _) = saver.look_at_files().await?;
    let present = capture.run(&packs).await?;
    if let Some(skipped) = present.skipped.first() {
        return Err(Error::new(
            ErrorKind::ResourceBusy,
            format!("{} can't be saved and would be lost: {}", skipped.path, skipped.reason),
        )
        .with_hint("move it out of files/, then apply the checkpoint again"));
    }
    if present.totals.files + present.totals.symlinks == 0 {
        return Ok(());
    }
    let present = Version::open(packs, present.root).await?;
    // If the newest one is damaged, the files are saved once more.
    if let Some(newest) = saver.newest().await?
        && has_same_files(&present, &newest).await.unwrap_or(false)
    {
        return writer.end().await;
    }
    let notebook = match notebook {
        Some(path) => saver.notebook_as_it_is(path).await?,
        None => None,
    };
    let draft = Draft { before: Some(target.to_owned()), ..Draft::manual(notebook) };
    let stored = saver.capture(draft).await?;
    if let Some(skipped) = stored.skipped().first() {
        return Err(Error::new(
            ErrorKind::ResourceBusy,
            format!("{} changed while it was saved: {}", skipped.path, skipped.reason),
        ));
    }
    if !stored.has_files() {
        let message = "the files are more than checkpoints take, and would be lost";
        return Err(Error::new(ErrorKind::ResourceBusy, message)
            .with_hint("`atelier project set --checkpoint-files none` has them saved"));
    }
    saver.publish(stored).await?;
    writer.end().await
}

/// Whether two versions hold the same project files; when those were changed doesn't matter.
async fn has_same_files(present: &Version, newest: &Version) -> Result<bool> {
    let mut differences = diff(newest, present);
    while let Some(difference) = differences.try_next().await? {
        let is_file = difference.path.names().next() == Some(b"files");
        if is_file && difference.change != Change::Touched {
            return Ok(false);
        }
    }
    Ok(true)
}
