//! Which dataset and which version is meant: `NAME`, `NAME@VERSION` or `NAME@TAG`.

use crate::catalog::{Catalog, Kind, Project, Role, Shown, Version};
use crate::error::{Error, ErrorKind, Result};

/// The datasets of a project.
pub(super) struct At<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) project: &'a Project,
}

impl At<'_> {
    pub(super) async fn dataset(&self, name: &str) -> Result<Shown> {
        self.catalog.shown(self.project, Kind::Dataset, name).await
    }

    /// The dataset that is meant, and the number of its version if one is named.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn named(&self, text: &str) -> Result<(Shown, Option<u32>)> {
        let Some((name, version)) = text.rsplit_once('@') else {
            return Ok((self.dataset(text).await?, None));
        };
        if let Ok(number) = version.parse() {
            return Ok((self.dataset(name).await?, Some(number)));
        }
        // An added dataset may show as NAME@PROJECT.
        let whole = self.dataset(text).await;
        if !whole.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok((whole?, None));
        }
        let shown = self.dataset(name).await?;
        let number = self.catalog.tagged(&shown.resource.id, version).await?.ok_or_else(|| {
            let message = format!("dataset {name} has no version or tag {version}");
            Error::new(ErrorKind::NotFound, message)
                .with_hint(format!("`atelier dataset log {name}` shows those it has"))
        })?;
        Ok((shown, Some(number)))
    }

    /// The version that is meant; without a name for it the newest active one.
    ///
    /// # Errors
    /// `NotFound`, also when no version is active.
    pub(super) async fn version(&self, text: &str) -> Result<(Shown, Version)> {
        let (shown, number) = self.named(text).await?;
        let version = match number {
            Some(number) => Some(self.catalog.version(&shown.resource.id, number).await?),
            None => self.catalog.newest_version(&shown.resource.id).await?,
        };
        let version = version.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("dataset {text} has no active version"))
                .with_hint(format!("name one of those that `atelier dataset log {text}` shows"))
        })?;
        Ok((shown, version))
    }

    /// One of the project's own datasets, which alone it may change.
    ///
    /// # Errors
    /// `NotFound`; `NotPermitted` for one that was added from another project.
    pub(super) async fn own(&self, text: &str) -> Result<(Shown, Option<u32>)> {
        let (shown, number) = self.named(text).await?;
        if shown.added {
            let message = format!("dataset {text} belongs to {}", shown.resource.owner);
            return Err(Error::new(ErrorKind::NotPermitted, message)
                .with_hint(format!("add `--project {}`", shown.resource.owner)));
        }
        Ok((shown, number))
    }

    /// Reading what is in datasets takes this role; whoever only lists them needs less.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(super) async fn require_developer(&self) -> Result<()> {
        if self.catalog.role_on(self.project).await? >= Some(Role::Developer) {
            return Ok(());
        }
        let message = format!("the datasets of {} take the role developer", self.project.name);
        Err(Error::new(ErrorKind::PermissionDenied, message)
            .with_hint("one of the project's admins can grant it"))
    }
}
