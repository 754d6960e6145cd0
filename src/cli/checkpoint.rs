//! `atelier checkpoint`: saved states of a notebook and the project's files.

use std::process::ExitCode;

use clap::Subcommand;
use indicatif::HumanBytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Context, live, table};
use crate::catalog::{Catalog, Project, Resource, Role, Shown};
use crate::error::{Error, ErrorKind, Result};
use crate::workspace::Workspace;

mod apply;
mod find;
mod save;

/// Checkpoints: saved states of a notebook and the project's files
///
/// The newest ten are kept, and ten more that are pinned. ID is a number such as 7, the name of a
/// pinned checkpoint, or `latest`.
#[derive(Debug, Subcommand)]
pub enum Checkpoint {
    /// Save a notebook's cells and output together with the project's files
    Create {
        /// The notebook, as the project shows it: files/…
        #[arg(long, value_name = "PATH")]
        notebook: String,
        /// Pin the checkpoint under this name
        #[arg(long)]
        name: Option<String>,
        /// Look at every file, also at those that weren't changed through the mount
        #[arg(long)]
        rescan: bool,
    },
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
    /// Make the project's files what they were
    ///
    /// What has changed since the newest checkpoint is saved as another one first. The outcome is
    /// a new checkpoint, too: nothing of what was is lost.
    Apply {
        /// Which
        id: String,
    },
    /// Delete one
    Delete {
        /// Which
        id: String,
    },
}

/// How a checkpoint came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    /// Somebody, or something, saved it.
    Manual,
    /// Another one was applied.
    Rollback,
}

/// What the catalogue keeps of a checkpoint beside its name, and `checkpoint.json` tells of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Spec {
    operation: Operation,
    /// The notebook, below the project; none where it was gone.
    notebook: Option<String>,
    /// Whether the project's files are in it.
    data: bool,
    /// How many files the project had.
    files: u64,
    /// Their length together, in bytes.
    bytes: u64,
    /// How many cells the notebook has; none where it couldn't be read.
    cells: Option<usize>,
    /// How many pieces of output its cells show.
    outputs: Option<usize>,
    kernel: Option<String>,
    /// The checkpoint that a rollback went back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    /// The checkpoint that was about to be applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

/// A checkpoint as it is listed and shown, and as its `checkpoint.json` has it.
#[derive(Clone, Debug, Serialize)]
struct Line {
    id: String,
    /// The name it is pinned under.
    name: Option<String>,
    creator: String,
    created: Timestamp,
    #[serde(flatten)]
    spec: Spec,
}

impl Line {
    fn new(id: String, resource: &Resource) -> Result<Self> {
        let spec = serde_json::from_value(resource.spec.clone()).map_err(|error| {
            Error::new(ErrorKind::Damaged, format!("the catalogue's entry of checkpoint {id}"))
                .with_source(error)
        })?;
        Ok(Self {
            id,
            name: resource.pinned_name().map(str::to_owned),
            creator: resource.creator.clone(),
            created: resource.created,
            spec,
        })
    }

    fn of(shown: &Shown) -> Result<Self> {
        Self::new(shown.name.clone(), &shown.resource)
    }
}

impl table::Row for Line {
    const HEADER: &'static [&'static str] =
        &["ID", "NAME", "OPERATION", "NOTEBOOK", "CELLS", "FILES", "SIZE", "CREATOR", "CREATED"];

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let spec = &self.spec;
        let operation = match (&spec.of, &spec.before) {
            (Some(of), _) => format!("rollback to {of}"),
            (None, Some(before)) => format!("before {before}"),
            (None, None) => "manual".to_owned(),
        };
        vec![
            self.id.clone(),
            self.name.clone().unwrap_or_else(dash),
            operation,
            spec.notebook.clone().unwrap_or_else(dash),
            spec.cells.map_or_else(dash, |cells| cells.to_string()),
            spec.files.to_string(),
            HumanBytes(spec.bytes).to_string(),
            self.creator.clone(),
            table::time(self.created),
        ]
    }
}

impl Checkpoint {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let workspace = Workspace::open(&context.config).await?;
        let project = workspace.project().await?;
        let catalog = &workspace.catalog;
        match self {
            Self::Create { notebook, name, rescan } => {
                require_developer(catalog, &project).await?;
                workspace.check_files_are_here(&project).await?;
                if let Some(name) = &name {
                    catalog.check_pin(&project, name).await?;
                }
                let saver = save::Saver::new(&workspace, &project)?.rescan(rescan);
                let notebook = saver.notebook(&notebook).await?;
                let draft = save::Draft { name, ..save::Draft::manual(Some(notebook)) };
                let line = saver.publish(saver.capture(draft).await?).await?;
                table::made(&line, context.json)?;
            }
            Self::List => {
                let all = find::all(catalog, &project).await?;
                let lines = all.iter().map(Line::of).collect::<Result<Vec<_>>>()?;
                table::list(&lines, context.json)?;
            }
            Self::Show { id } => {
                let found = find::one(catalog, &project, &id).await?;
                table::show(&Line::of(&found)?, context.json)?;
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
            Self::Apply { id } => {
                require_developer(catalog, &project).await?;
                workspace.check_files_are_here(&project).await?;
                let target = find::one(catalog, &project, &id).await?;
                let live = live::files(context, &project).await;
                let line = apply::apply(&workspace, &project, &target, live).await?;
                table::made(&line, context.json)?;
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
    apply::apply(workspace, project, &all.swap_remove(newest), None).await.map(|_| ())
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
