//! A project's environment files, opened with the user's identity, changed and put back.

use super::{Context, table};
use crate::catalog::{Catalog, Environment, Project, Recipient};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::identity::Identities;
use crate::secret::{EnvironmentFile, OpenEnvironment, Seen};

/// The environment file that is meant where none is named.
pub(super) const DEFAULT: &str = "project";

/// Where a user's environment files are, and what opens them.
pub(super) struct Environments {
    pub(super) catalog: Catalog,
    pub(super) project: Project,
    pub(super) identities: Identities,
    pub(super) seen: Seen,
}

/// What is done when there is no environment file of that name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// An empty one is made.
    Create,
    /// It is an error.
    Refuse,
}

/// What it took to have a file encrypted to those who may open it, and to nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resealed {
    /// It was.
    Unchanged,
    /// Somebody was let in.
    Wrapped,
    /// Somebody was shut out, by a new key.
    Rotated,
}

impl Environments {
    /// Those of the project to work on.
    pub(super) async fn open_project(context: &Context) -> Result<Self> {
        let catalog = context.catalog().await?;
        let project = context.project(&catalog).await?;
        Self::of(context, catalog, project)
    }

    /// Those of a project.
    ///
    /// # Errors
    /// `NoIdentity` for who has none.
    pub(super) fn of(context: &Context, catalog: Catalog, project: Project) -> Result<Self> {
        let identities = Identities::load(&context.config.identity_file)?;
        let seen = Seen::kept_in(context.config.seen_file.clone());
        Ok(Self { catalog, project, identities, seen })
    }

    /// Opens an environment file to use what is in it.
    ///
    /// # Errors
    /// `PermissionDenied` when it is encrypted to a key that nobody has ever registered, which is
    /// named; else as [`Environments::unseal`].
    pub(super) async fn open(&self, name: &str) -> Result<OpenEnvironment> {
        let found = self.catalog.environment(&self.project, name).await?;
        let file = EnvironmentFile::parse(name, &found.body)?;
        self.check_strangers(&found, &file).await?;
        self.unseal(&found, file)
    }

    /// Opens an environment file with the user's identity.
    ///
    /// # Errors
    /// `Damaged` for an older version than the user has seen; else as [`EnvironmentFile::open`].
    fn unseal(&self, found: &Environment, file: EnvironmentFile) -> Result<OpenEnvironment> {
        let name = file.name().to_owned();
        let opened = file.open(&self.identities)?;
        self.seen.advance(found.resource.id.as_str(), &name, opened.sealed())?;
        Ok(opened)
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
        self.change_for(name, absent, |opened, _| change(opened)).await
    }

    /// Has an environment file encrypted to those whom the catalogue knows, and nobody else: who
    /// isn't among them any more is shut out by a new data key.
    pub(super) async fn reseal(&self, name: &str) -> Result<Resealed> {
        let mut shut_out = false;
        let written = self.change_for(name, Absent::Refuse, |opened, recipients| {
            shut_out = opened.has_stranger(recipients);
            if shut_out {
                opened.rotate()?;
            }
            Ok(false)
        });
        Ok(match (written.await?, shut_out) {
            (false, _) => Resealed::Unchanged,
            (true, false) => Resealed::Wrapped,
            (true, true) => Resealed::Rotated,
        })
    }

    async fn change_for(
        &self,
        name: &str,
        absent: Absent,
        mut change: impl FnMut(&mut OpenEnvironment, &[String]) -> Result<bool>,
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
        change: &mut impl FnMut(&mut OpenEnvironment, &[String]) -> Result<bool>,
    ) -> Result<bool> {
        let (mut environment, generation, recipients) =
            match self.catalog.environment(&self.project, name).await {
                Ok(found) => {
                    refuse_foreign(&found, &self.project)?;
                    let file = EnvironmentFile::parse(name, &found.body)?;
                    let recipients = self.catalog.recipients_of(&found.resource).await?;
                    (self.unseal(&found, file)?, Some(found.generation), recipients)
                }
                Err(error) if error.kind() == ErrorKind::NotFound && absent == Absent::Create => {
                    let recipients = self.catalog.recipients(&self.project).await?;
                    (OpenEnvironment::create(name)?, None, recipients)
                }
                Err(error) => return Err(error),
            };
        let recipients = self.check_recipients(recipients)?;
        let changed = change(&mut environment, &recipients)?;
        if !changed && environment.is_sealed_to(&recipients) {
            return Ok(false);
        }
        let body = environment.seal(&recipients)?;
        self.catalog.put_environment(&self.project, name, generation, body).await?;
        Ok(true)
    }

    /// Refuses a file that is encrypted to a key that nobody has ever registered: somebody put it
    /// in by stealth. One of a former member is told of, and gone with the next rotation.
    async fn check_strangers(&self, found: &Environment, file: &EnvironmentFile) -> Result<()> {
        let members = self.catalog.recipients_of(&found.resource).await?;
        let members: Vec<_> = members.into_iter().map(|known| known.recipient).collect();
        let (name, named) = (file.name(), file.recipients());
        for stranger in named.iter().filter(|recipient| !members.contains(recipient)) {
            match self.catalog.holder(stranger).await? {
                Some(holder) => table::say(format!(
                    "warning: environment file {name} is still encrypted to a key of {holder}, \
                     {stranger}; `atelier secret rotate --env {name}` shuts it out"
                )),
                None => return Err(stealthy(name, stranger)),
            }
        }
        Ok(())
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

fn stealthy(name: &str, stranger: &str) -> Error {
    let message =
        format!("environment file {name} is encrypted to {stranger}, a key that nobody registered");
    Error::new(ErrorKind::PermissionDenied, message).with_hint(format!(
        "`atelier secret rotate --env {name}` shuts it out; then change the values that its \
         holder may have read"
    ))
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
