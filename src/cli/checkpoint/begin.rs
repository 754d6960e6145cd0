//! A new project that begins as a checkpoint of another one.

use super::line::Line;
use super::save::{Draft, Saver};
use super::variables::{Variables, check_trust};
use super::{find, require_developer};
use crate::catalog::{Project, ProjectName, Shown};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::{Version, restore};
use crate::workspace::Workspace;

/// A checkpoint from which a project is to be made.
pub struct Origin {
    shown: Shown,
    line: Line,
    version: Version,
}

impl Origin {
    /// Finds a checkpoint of `project` for a project of the same organization.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` below Developer; `NotPermitted` for another organization, and
    /// for variables that another user saved, unless they are trusted.
    pub async fn find(
        workspace: &Workspace,
        project: &Project,
        id: &str,
        new: &ProjectName,
        trust: bool,
    ) -> Result<Self> {
        require_developer(&workspace.catalog, project).await?;
        if project.name.organization != new.organization {
            let message =
                format!("{} is another organization than {}", new.organization, project.name);
            return Err(Error::new(ErrorKind::NotPermitted, message));
        }
        let shown = find::one(&workspace.catalog, project, id).await?;
        let line = Line::of(&shown)?;
        if line.spec.variables.is_some() && !trust {
            check_trust(&shown, workspace.catalog.user())?;
        }
        let Some(found) = workspace.catalog.newest_version(&shown.resource.id).await? else {
            let message = format!("checkpoint {} has no version", shown.name);
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let version = workspace.open_version(&found).await?;
        Ok(Self { shown, line, version })
    }

    /// Gives a new project the checkpoint's files, and makes all of it its first checkpoint.
    ///
    /// # Errors
    /// Those of the store and of the file system.
    pub async fn fill(self, config: &Config, workspace: &Workspace, new: &Project) -> Result<()> {
        let Self { shown, line, version } = self;
        let saver = Saver::new(workspace, new)?;
        if line.spec.data {
            restore(&version, &TreePath::parse("files")?, &saver.files).await?;
        }
        let notebook = match line.spec.notebook.as_deref() {
            Some(path) => saver.notebook_as_it_is(path).await?,
            None => None,
        };
        let variables = match line.spec.variables {
            Some(_) => Some(Variables::on_their_way(config, new)?),
            None => None,
        };
        if let Some(variables) = &variables {
            variables.restore(&version).await?;
        }
        let origin = format!("{}/checkpoint/{}", shown.resource.owner, shown.name);
        let draft =
            Draft { variables: variables.as_ref(), of: Some(origin), ..Draft::manual(notebook) };
        let stored = saver.capture(draft).await;
        if let Some(variables) = variables {
            variables.forget();
        }
        saver.publish(stored?).await.map(|_| ())
    }
}
