//! A project's environment files, opened with the user's identity, changed and put back.

use crate::catalog::{Catalog, Environment, Project, Recipient};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::identity::Identities;
use crate::secret::{EnvironmentFile, OpenEnvironment};

/// The environment file that is meant where none is named.
pub(super) const DEFAULT: &str = "project";

/// Where a user's environment files are, and what opens them.
pub(super) struct Environments {
    pub(super) catalog: Catalog,
    pub(super) project: Project,
    pub(super) identities: Identities,
}

/// What is done when there is no environment file of that name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// An empty one is made.
    Create,
    /// It is an error.
    Refuse,
}

impl Environments {
    /// Opens an environment file.
    pub(super) async fn open(&self, name: &str) -> Result<OpenEnvironment> {
        let found = self.catalog.environment(&self.project, name).await?;
        EnvironmentFile::parse(name, &found.body)?.open(&self.identities)
    }

    /// Opens an environment file, changes it, and puts it back, encrypted to the members that the
    /// catalogue knows. `change` says whether there was anything to change; the answer is whether
    /// anything was written.
    ///
    /// Somebody else may have been faster: then it is done once more, on what he wrote.
    pub(super) async fn change(
        &self,
        name: &str,
        absent: Absent,
        mut change: impl FnMut(&mut OpenEnvironment) -> Result<bool>,
    ) -> Result<bool> {
        match self.try_change(name, absent, &mut change).await {
            Err(error) if error.kind() == ErrorKind::StaleHandle => {
                self.try_change(name, absent, &mut change).await
            }
            other => other,
        }
    }

    async fn try_change(
        &self,
        name: &str,
        absent: Absent,
        change: &mut impl FnMut(&mut OpenEnvironment) -> Result<bool>,
    ) -> Result<bool> {
        let (mut environment, generation, recipients) =
            match self.catalog.environment(&self.project, name).await {
                Ok(found) => {
                    refuse_foreign(&found, &self.project)?;
                    let environment = EnvironmentFile::parse(name, &found.body)?;
                    let recipients = self.catalog.recipients_of(&found.resource).await?;
                    (environment.open(&self.identities)?, Some(found.generation), recipients)
                }
                Err(error) if error.kind() == ErrorKind::NotFound && absent == Absent::Create => {
                    let recipients = self.catalog.recipients(&self.project).await?;
                    (OpenEnvironment::create(name)?, None, recipients)
                }
                Err(error) => return Err(error),
            };
        let recipients = self.check_recipients(recipients)?;
        let changed = change(&mut environment)?;
        if !changed && environment.is_sealed_to(&recipients) {
            return Ok(false);
        }
        let body = environment.seal(&recipients)?;
        self.catalog.put_environment(&self.project, name, generation, body).await?;
        Ok(true)
    }

    /// Makes sure that this user is among those that a file will be encrypted to.
    fn check_recipients(&self, recipients: Vec<Recipient>) -> Result<Vec<String>> {
        let own = self.identities.recipients();
        let recipients: Vec<_> = recipients.into_iter().map(|known| known.recipient).collect();
        if recipients.iter().any(|known| own.contains(known)) {
            return Ok(recipients);
        }
        let message = format!("your age identity isn't registered in {}", self.project.name);
        Err(Error::new(ErrorKind::NoIdentity, message)
            .with_hint("`atelier init` registers it; secrets are for Developers of the project"))
    }
}

/// What another project shares can be used, not changed; the catalogue insists on it too, but
/// whoever may not see that project would be told only that something isn't there.
fn refuse_foreign(found: &Environment, project: &Project) -> Result<()> {
    let resource = &found.resource;
    if resource.project == project.id {
        return Ok(());
    }
    let message = format!("environment file {} belongs to {}", resource.name, resource.owner);
    Err(Error::new(ErrorKind::NotPermitted, message))
}
