//! Encrypting environment files anew when those who may open them change.

use std::fmt::Display;

use super::environment::{Environments, Resealed};
use super::{Context, table};
use crate::catalog::{Catalog, Reach, Resource, Scope};
use crate::error::{Error, Result};

/// How a project's members have everything encrypted to those who are there now.
const REMEDY: &str = "a developer of the project runs `atelier secret rotate --all`";

/// Has the secrets that the members of a community or project may open encrypted to the present
/// ones, and tells of each.
///
/// # Errors
/// The first of those of the single files; the others are done all the same.
pub(super) async fn within(context: &Context, catalog: &Catalog, on: &Scope) -> Result<()> {
    all(context, catalog, catalog.secrets_within(on).await?).await
}

/// Has these secrets encrypted to those who may open them now.
///
/// # Errors
/// As [`within`].
pub(super) async fn all(context: &Context, catalog: &Catalog, reach: Reach) -> Result<()> {
    let mut progress = Progress::of(reach.secrets.len());
    for secret in &reach.secrets {
        progress.told(secret, one(context, catalog, secret).await);
    }
    if reach.others > 0 {
        table::say(format!(
            "{} more environment files are in projects where you aren't developer; there, {REMEDY}",
            reach.others
        ));
    }
    progress.done()
}

/// Has one secret encrypted to those who may open it now.
async fn one(context: &Context, catalog: &Catalog, secret: &Resource) -> Result<Resealed> {
    let project = catalog.project_by_id(&secret.project).await?;
    Environments::of(context, catalog.clone(), project)?.reseal(&secret.name).await
}

/// Tells how far the work on several environment files is.
pub(super) struct Progress {
    count: usize,
    done: usize,
    failed: usize,
    first: Option<Error>,
}

impl Progress {
    pub(super) fn of(count: usize) -> Self {
        Self { count, done: 0, failed: 0, first: None }
    }

    /// Tells what came of one file.
    pub(super) fn told(&mut self, secret: &Resource, outcome: Result<Resealed>) {
        let Resource { name, owner, .. } = secret;
        self.done += 1;
        let what: &dyn Display = match &outcome {
            Ok(Resealed::Unchanged) => return,
            Ok(Resealed::Wrapped) => &"is encrypted to its new members, too",
            Ok(Resealed::Rotated) => &"is encrypted with a new key",
            Err(error) => &format!("stays as it was: {error}"),
        };
        let (done, count) = (self.done, self.count);
        table::say(format!("[{done}/{count}] environment file {name} of {owner} {what}"));
        if let Err(error) = outcome {
            self.failed += 1;
            self.first.get_or_insert(error);
        }
    }

    /// Fails if any file did.
    pub(super) fn done(self) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let message =
            format!("{} of {} environment files stay as they were", self.failed, self.count);
        let hint = first.hint().map_or_else(|| REMEDY.to_owned(), str::to_owned);
        Err(Error::new(first.kind(), message).with_source(first).with_hint(hint))
    }
}
