//! Makes a notebook, its variables and the project's files what they were in a checkpoint, without
//! losing what they are.

use std::path::PathBuf;

use futures_util::TryStreamExt as _;

use super::line::{Line, Operation, Spec};
use super::save::{Draft, Saver, with_variables};
use super::variables::{Variables, Whose, check_trust};
use super::{find, require_developer};
use crate::catalog::{Project, Shown};
use crate::cli::{Context, live, table};
use crate::error::{Error, ErrorKind, Result};
use crate::notebook::state::VALUES;
use crate::path::TreePath;
use crate::snapshot::diff::{Change, Difference, diff};
use crate::snapshot::{Restored, Version, restore, restore_changes};
use crate::workspace::Workspace;

/// Which checkpoint, and what of it.
#[derive(Debug, clap::Args)]
#[group(skip)]
// Each is an option that is typed by itself.
#[allow(clippy::struct_excessive_bools)]
pub struct Apply {
    /// Which
    id: String,
    /// Only the notebook: its cells and their output
    #[arg(long, group = "part")]
    notebook_only: bool,
    /// Only the variables
    #[arg(long, group = "part")]
    variables: bool,
    /// Only the project's files, the notebook among them
    #[arg(long, group = "part")]
    files: bool,
    #[command(flatten)]
    whose: Whose,
    /// Load variables that another user saved; loading them runs code of his
    #[arg(long)]
    trust: bool,
}

/// What is put back.
#[derive(Clone, Copy)]
struct Parts {
    files: bool,
    notebook: bool,
    variables: bool,
}

impl Apply {
    /// Puts back what is asked for, and tells of the rollback.
    ///
    /// # Errors
    /// Those of [`apply`]; `NotPermitted` for variables that another user saved; `NotFound`,
    /// `TimedOut` for the kernel.
    pub(super) async fn run(
        self,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
    ) -> Result<Line> {
        require_developer(&workspace.catalog, project).await?;
        workspace.check_files_are_here(project).await?;
        let target = find::one(&workspace.catalog, project, &self.id).await?;
        let spec = Line::of(&target)?.spec;
        let parts = self.parts(&target, &spec)?;
        if parts.variables && !self.trust {
            check_trust(&target, workspace.catalog.user())?;
        }
        let variables = if parts.variables {
            self.whose.find(&context.config, project, spec.notebook.as_deref()).await?
        } else {
            None
        };
        if let Some(variables) = &variables {
            variables.capture().await?;
        }
        let live = live::files(context, project).await;
        apply(workspace, project, &target, parts, variables.as_ref(), live).await
    }

    /// What is to be put back, and can be.
    fn parts(&self, target: &Shown, spec: &Spec) -> Result<Parts> {
        let Shown { name, .. } = target;
        let refused = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        if self.variables && !self.whose.is_said() {
            return refused("it isn't said whose variables are meant".to_owned()).map_err(
                |error: Error| error.with_hint("--kernel auto finds the notebook's running kernel"),
            );
        }
        let only = self.notebook_only || self.variables || self.files;
        let parts = Parts {
            files: self.files || (!only && spec.data),
            notebook: self.notebook_only || !only,
            variables: self.variables || (!only && self.whose.is_said()),
        };
        if parts.variables && spec.variables.is_none() {
            return refused(format!("checkpoint {name} has no variables"));
        }
        if !spec.data && (self.files || !(only || parts.variables)) {
            return Err(without_files(name));
        }
        if self.notebook_only && spec.notebook.is_none() {
            return refused(format!("checkpoint {name} has no notebook"));
        }
        Ok(parts)
    }
}

/// Makes the project's files what they were in a checkpoint, behind no mount.
///
/// # Errors
/// Those of [`apply`]; `NotFound` when it has no files.
pub(super) async fn apply_files(
    workspace: &Workspace,
    project: &Project,
    target: &Shown,
) -> Result<Line> {
    if !Line::of(target)?.spec.data {
        return Err(without_files(&target.name));
    }
    let parts = Parts { files: true, notebook: false, variables: false };
    apply(workspace, project, target, parts, None, None).await
}

fn without_files(name: &str) -> Error {
    let message = format!("checkpoint {name} has no files: they were more than it could take");
    Error::new(ErrorKind::NotFound, message)
        .with_hint(format!("its notebook is checkpoints/{name}/notebook.ipynb"))
}

/// Saves what is there, unless the newest checkpoint has it so; makes it what it was; saves the
/// outcome as a rollback. Where a mount shows the files they are changed in it, at `live`, so that
/// whoever uses it sees them at once. The kernel comes first: where it can't be given its
/// variables, nothing has changed.
///
/// # Errors
/// `NotFound` for a checkpoint without its version; `ResourceBusy` when something among the files
/// can't be saved and so would be lost; those of the kernel and of the stores.
async fn apply(
    workspace: &Workspace,
    project: &Project,
    target: &Shown,
    parts: Parts,
    variables: Option<&Variables>,
    live: Option<PathBuf>,
) -> Result<Line> {
    let Shown { name, resource, .. } = target;
    let notebook = Line::of(target)?.spec.notebook;
    let path = notebook.as_deref();
    let Some(found) = workspace.catalog.newest_version(&resource.id).await? else {
        return Err(Error::new(ErrorKind::NotFound, format!("checkpoint {name} has no version")));
    };
    let version = workspace.open_version(&found).await?;
    let saver = Saver::new(workspace, project)?;
    let present = match variables {
        Some(variables) if variables.has_values()? => Some(variables),
        _ => None,
    };
    save_what_is_there(&saver, workspace, name, path, present).await?;
    if let Some(variables) = variables {
        variables.restore(&version).await?;
    }
    put_back(&saver, &version, parts, path, name, live).await?;
    let notebook = match path {
        Some(path) => saver.notebook_as_it_is(path).await?,
        None => None,
    };
    let draft = Draft {
        operation: Operation::Rollback,
        of: Some(name.clone()),
        variables,
        ..Draft::manual(notebook)
    };
    saver.publish(saver.capture(draft).await?).await
}

/// Puts back the files, or the notebook alone.
async fn put_back(
    saver: &Saver<'_>,
    version: &Version,
    parts: Parts,
    notebook: Option<&str>,
    name: &str,
    live: Option<PathBuf>,
) -> Result<()> {
    if parts.files {
        let done = bring_back(saver, version, live).await?;
        table::say(format!(
            "checkpoint {name} applied: {} written, {} unchanged, {} removed",
            done.written, done.unchanged, done.removed
        ));
    } else if let (true, Some(path)) = (parts.notebook, notebook) {
        let bytes = version.read(&TreePath::parse("notebook.ipynb")?, 0..u64::MAX).await?;
        saver.write_notebook(path, &bytes, live.as_deref()).await?;
        table::say(format!("checkpoint {name} applied: {path}"));
    } else {
        table::say(format!("checkpoint {name} applied: its variables"));
    }
    Ok(())
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
    variables: Option<&Variables>,
) -> Result<()> {
    // What is stored here is found again when it is saved; the writer ends without publishing.
    let (packs, writer) = workspace.begin_writing().await?;
    let (mut capture, _) = saver.look_at_files().await?;
    if let Some(variables) = variables {
        capture = with_variables(capture, variables)?;
    }
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
        && has_same(&present, &newest, variables.is_some()).await.unwrap_or(false)
    {
        return writer.end().await;
    }
    let notebook = match notebook {
        Some(path) => saver.notebook_as_it_is(path).await?,
        None => None,
    };
    let draft = Draft { before: Some(target.to_owned()), variables, ..Draft::manual(notebook) };
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

/// Whether two versions hold the same project files, and the same variables if that matters; when
/// those were changed doesn't.
async fn has_same(present: &Version, newest: &Version, variables: bool) -> Result<bool> {
    let mut differences = diff(newest, present);
    while let Some(Difference { path, change }) = differences.try_next().await? {
        let top = path.names().next().unwrap_or_default();
        let differs = match change {
            Change::Touched => false,
            _ if top == b"files" => true,
            // The mode of a variable's file is that of a scratch file.
            Change::Changed { before, after } => !before.content.is_same(&after.content),
            Change::Added(_) | Change::Removed(_) => true,
        };
        let matters =
            top == b"files" || (variables && VALUES.iter().any(|values| values.as_bytes() == top));
        if matters && differs {
            return Ok(false);
        }
    }
    Ok(true)
}
