//! `atelier checkpoint`: saved states of a notebook and the project's files.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Context, table};
use crate::catalog::{Catalog, Project, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::workspace::Workspace;
use line::{Described, Line};

pub use begin::Origin;

mod apply;
mod begin;
mod create;
mod diff;
mod find;
mod line;
mod save;
mod variables;

/// Checkpoints: saved states of a notebook and the project's files
///
/// The newest ten are kept, and ten more that are pinned. ID is a number such as 7, the name of a
/// pinned checkpoint, or `latest`.
#[derive(Debug, Subcommand)]
pub enum Checkpoint {
    /// Save a notebook's cells, output and variables together with the project's files
    ///
    /// The variables are those of the notebook's running kernel, if --kernel says which it is. What
    /// can't be pickled is left out and named.
    Create(create::Create),
    /// List the checkpoints
    List,
    /// Show one
    Show {
        /// Which
        id: String,
    },
    /// Give one a name; it is kept until it is unpinned
    Pin {
        /// Which
        id: String,
        /// Its name
        name: String,
    },
    /// Take a pinned one's name away
    Unpin {
        /// Which
        id: String,
    },
    /// Make a notebook, its variables and the project's files what they were
    ///
    /// The variables go to the kernel that --kernel names. What has changed since the newest
    /// checkpoint is saved as another one first. The outcome is a new checkpoint, too: nothing of
    /// what was is lost.
    Apply(apply::Apply),
    /// Show which cells, variables and files differ between two
    Diff(diff::Diff),
    /// Delete one
    Delete {
        /// Which
        id: String,
    },
}

impl Checkpoint {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let workspace = Workspace::open(&context.config).await?;
        let project = workspace.project().await?;
        let catalog = &workspace.catalog;
        match self {
            Self::Create(create) => {
                let line = create.run(context, &workspace, &project).await?;
                table::made(&line, context.json)?;
            }
            Self::List => {
                let all = find::all(catalog, &project).await?;
                let lines = all.iter().map(Line::of).collect::<Result<Vec<_>>>()?;
                table::list(&lines, context.json)?;
            }
            Self::Show { id } => {
                let found = find::one(catalog, &project, &id).await?;
                let line = Line::of(&found)?;
                table::show(&line, context.json)?;
                let variables: Vec<_> =
                    line.spec.variables.iter().flatten().map(Described).collect();
                if !context.json && !variables.is_empty() {
                    table::print(b"\n")?;
                    table::list(&variables, false)?;
                }
            }
            Self::Pin { id, name } => {
                let found = find::own(catalog, &project, &id).await?;
                let pinned = catalog.pin(&project, &found.id, &name).await?;
                table::say(format!("checkpoint {} pinned as {name}", found.name));
                table::made(&Line::new(found.name, &pinned)?, context.json)?;
            }
            Self::Unpin { id } => {
                let found = find::own(catalog, &project, &id).await?;
                let unpinned = catalog.unpin(&found.id).await?;
                table::say(format!("checkpoint {} unpinned", found.name));
                table::made(&Line::new(found.name, &unpinned)?, context.json)?;
            }
            Self::Apply(apply) => {
                let line = apply.run(context, &workspace, &project).await?;
                table::made(&line, context.json)?;
            }
            Self::Diff(diff) => {
                require_developer(catalog, &project).await?;
                diff.run(&workspace, &project, context.json).await?;
            }
            Self::Delete { id } => {
                let found = find::own(catalog, &project, &id).await?;
                catalog.delete_resource(&found).await?;
                table::say(format!("checkpoint {} deleted", found.name));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes this home's files of a project those of its newest checkpoint, as they were on another
/// host. What is here from before is saved first, and stays where there is no checkpoint.
///
/// # Errors
/// Those of applying one.
pub(super) async fn bring(workspace: &Workspace, project: &Project) -> Result<()> {
    let mut all = find::all(&workspace.catalog, project).await?;
    let Some(newest) = find::newest(&all) else {
        let name = &project.name;
        table::say(format!("{name} has no checkpoint: its files are those that are here"));
        return Ok(());
    };
    apply::apply_files(workspace, project, &all.swap_remove(newest)).await.map(|_| ())
}

/// Reading the project's files takes this role; whoever only lists checkpoints needs less.
async fn require_developer(catalog: &Catalog, project: &Project) -> Result<()> {
    if catalog.role_on(project).await? >= Some(Role::Developer) {
        return Ok(());
    }
    let message = format!("the checkpoints of {} take the role developer", project.name);
    Err(Error::new(ErrorKind::PermissionDenied, message)
        .with_hint("one of the project's admins can grant it"))
}
