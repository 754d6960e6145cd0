//! `atelier checkpoint create`: saves a notebook, its variables and the project's files.

use super::line::{Line, Operation};
use super::require_developer;
use super::save::{Draft, Saver};
use super::variables::{Whose, tell_left_out};
use crate::catalog::Project;
use crate::cli::Context;
use crate::error::Result;
use crate::workspace::Workspace;

/// What is to be saved.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// The notebook, as the project shows it: files/…
    #[arg(long, value_name = "PATH", required_unless_present_any = ["kernel", "state"])]
    notebook: Option<String>,
    /// Pin the checkpoint under this name
    #[arg(long)]
    name: Option<String>,
    /// Give it a word by which people know it; again for more
    #[arg(long = "tag", value_name = "WORD")]
    tags: Vec<String>,
    /// Look at every file, also at those that weren't changed through the mount
    #[arg(long)]
    rescan: bool,
    #[command(flatten)]
    whose: Whose,
    /// A cell was run, and each run is saved
    #[arg(long, hide = true)]
    after_cell: bool,
}

impl Create {
    pub(super) async fn run(
        self,
        context: &Context,
        workspace: &Workspace,
        project: &Project,
    ) -> Result<Line> {
        let catalog = &workspace.catalog;
        require_developer(catalog, project).await?;
        workspace.check_files_are_here(project).await?;
        if let Some(name) = &self.name {
            catalog.check_pin(project, name).await?;
        }
        let saver = Saver::new(workspace, project)?.rescan(self.rescan);
        let path = self.notebook.as_deref();
        let notebook = match path {
            Some(path) => Some(saver.notebook(path).await?),
            None => None,
        };
        let variables = self.whose.find(&context.config, project, path).await?;
        if let Some(variables) = &variables {
            variables.capture().await?;
        }
        let operation = if self.after_cell { Operation::CellRun } else { Operation::Manual };
        let draft = Draft {
            operation,
            name: self.name,
            tags: self.tags,
            variables: variables.as_ref(),
            ..Draft::manual(notebook)
        };
        let stored = saver.capture(draft).await?;
        if let Some(state) = stored.state() {
            tell_left_out(state);
        }
        saver.publish(stored).await
    }
}
