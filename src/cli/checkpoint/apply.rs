//! Makes the project's files what they were in a checkpoint, without losing what they are.

use std::path::PathBuf;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::save::{Draft, Saver};
use super::{Line, Operation};
use crate::catalog::{Project, Shown};
use crate::cli::table;
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::{Capture, Named, Version, restore};
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
    let notebook = Line::of(target)?.spec.notebook;
    let Some(found) = workspace.catalog.newest_version(&resource.id).await? else {
        return Err(Error::new(ErrorKind::NotFound, format!("checkpoint {name} has no version")));
    };
    let version = workspace.open_version(&found).await?;
    let saver = Saver::new(workspace, project)?;
    save_what_is_there(&saver, workspace, name, notebook.as_deref()).await?;

    let place = live.as_ref().unwrap_or(&saver.files);
    let done = restore(&version, &TreePath::parse("files")?, place).await?;
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

async fn save_what_is_there(
    saver: &Saver<'_>,
    workspace: &Workspace,
    target: &str,
    notebook: Option<&str>,
) -> Result<()> {
    let files = TreePath::parse("files")?;
    // What is stored here is found again when it is saved; the writer ends without publishing.
    let (packs, writer) = workspace.begin_writing().await?;
    let present = Capture::new().directory(files, &saver.files).run(&packs).await?;
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
    saver.publish(stored).await?;
    writer.end().await
}

/// Whether two versions hold the same project files; when those were changed doesn't matter.
async fn has_same_files(one: &Version, other: &Version) -> Result<bool> {
    let (mut one, mut other) = (files_of(one), files_of(other));
    loop {
        match (one.try_next().await?, other.try_next().await?) {
            (None, None) => return Ok(true),
            (Some(a), Some(b)) if is_same(&a, &b) => {}
            _ => return Ok(false),
        }
    }
}

fn files_of(version: &Version) -> futures_util::stream::BoxStream<'static, Result<Named>> {
    let is_file = |named: &Named| {
        named
            .directory
            .strip_prefix(b"files")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    version.entries().try_filter(move |named| std::future::ready(is_file(named))).boxed()
}

fn is_same(a: &Named, b: &Named) -> bool {
    a.directory == b.directory
        && a.name == b.name
        && a.entry.mode == b.entry.mode
        && a.entry.content.is_same(&b.entry.content)
}
