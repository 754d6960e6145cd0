//! Which secrets become variables of an environment.

use std::collections::BTreeMap;

use super::Context;
use super::environment::{DEFAULT, Environments};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::{Value, name};
use crate::workspace::Workspace;

/// The environment files and the secrets in them that are wanted.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// An environment file; of two that set a variable, the later one wins [default: project, if
    /// it is there]
    #[arg(long = "env", value_name = "NAME")]
    environments: Vec<String>,

    /// Take this secret, and no others but those named like this
    #[arg(long, value_name = "KEY")]
    only: Vec<String>,

    /// Take this variable although it changes how programs run, such as `PATH` or `LD_PRELOAD`
    #[arg(long, value_name = "KEY")]
    allow_env: Vec<String>,
}

impl Selection {
    /// Decrypts what is wanted, all of it or nothing.
    ///
    /// # Errors
    /// `NotFound` for an environment file or a secret that is named but isn't there,
    /// `NotPermitted` for a name that changes how programs run; else as
    /// [`EnvironmentFile::open`](crate::secret::EnvironmentFile::open).
    pub(super) async fn variables(&self, context: &Context) -> Result<BTreeMap<String, Value>> {
        let workspace = Workspace::open(&context.config).await?;
        let project = workspace.project().await?;
        let names = if self.environments.is_empty() {
            match workspace.catalog.environment(&project, DEFAULT).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                other => other.map(|_| vec![DEFAULT.to_owned()])?,
            }
        } else {
            self.environments.clone()
        };
        let mut variables = BTreeMap::new();
        if !names.is_empty() {
            let environments = Environments::of(context, workspace.catalog.clone(), project)?;
            for name in &names {
                for (key, value) in environments.open(name).await?.values() {
                    if self.wants(key) {
                        self.check(key, name)?;
                        variables.insert(key.to_owned(), value.clone());
                    }
                }
            }
        }
        match self.only.iter().find(|key| !variables.contains_key(*key)) {
            Some(missing) => Err(Error::new(
                ErrorKind::NotFound,
                format!("no secret {missing} is in {}", listed(&names)),
            )
            .with_hint("`atelier secret list` shows those that are there")),
            None => Ok(variables),
        }
    }

    fn wants(&self, key: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == key)
    }

    fn check(&self, key: &str, environment: &str) -> Result<()> {
        if name::is_dangerous(key) && !self.allow_env.iter().any(|allowed| allowed == key) {
            let message = format!(
                "environment file {environment} sets {key}, which changes how programs run"
            );
            return Err(Error::new(ErrorKind::NotPermitted, message).with_hint(format!(
                "if that is meant, `--allow-env {key}`; `--only` leaves it out"
            )));
        }
        Ok(())
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => format!("environment file {DEFAULT}, which isn't there"),
        [name] => format!("environment file {name}"),
        names => format!("environment files {}", names.join(", ")),
    }
}
