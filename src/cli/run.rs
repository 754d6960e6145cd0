//! `atelier run`: a command with secrets in its environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::environment::{DEFAULT, Environments};
use super::shield::Shield;
use super::{Context, outcome, table};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::identity::Identities;
use crate::secret::{Value, name};
use crate::workspace::Workspace;

/// Variables that lead to age identities: the command gets values, not keys.
const KEY_VARIABLES: &[&str] =
    &["SOPS_AGE_KEY", "SOPS_AGE_KEY_CMD", "SOPS_AGE_KEY_FILE", "SOPS_AGE_SSH_PRIVATE_KEY_FILE"];

/// Run a command with secrets in its environment.
///
/// The secrets are decrypted here, and the command takes the place of this program: no shell, the
/// same terminal, signals and exit code. It isn't started if anything is wrong with a secret. A
/// command that isn't found exits with 127, one that can't be executed with 126.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// An environment file; of two that set a variable, the later one wins [default: project, if
    /// it is there]
    #[arg(long = "env", value_name = "NAME")]
    environments: Vec<String>,

    /// Set this secret, and no others but those named like this
    #[arg(long, value_name = "KEY")]
    only: Vec<String>,

    /// Set this variable although it changes how programs run, such as PATH or LD_PRELOAD
    #[arg(long, value_name = "KEY")]
    allow_env: Vec<String>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// Runs the command in place of this program.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let shield = Shield::raise()?;
        let variables = self.variables(context).await?;
        shield.lower()?;
        Ok(execute(&self.command, &variables))
    }

    async fn variables(&self, context: &Context) -> Result<BTreeMap<String, Value>> {
        let workspace = Workspace::open(&context.config).await?;
        let project = workspace.project().await?;
        let names = if self.environments.is_empty() {
            let default = workspace.catalog.environment(&project, DEFAULT).await;
            match default {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                other => other.map(|_| vec![DEFAULT.to_owned()])?,
            }
        } else {
            self.environments.clone()
        };
        let mut variables = BTreeMap::new();
        if !names.is_empty() {
            let identities = Identities::load(&context.config.identity_file)?;
            let environments =
                Environments { catalog: workspace.catalog.clone(), project, identities };
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

/// Becomes the command; returns only if that fails.
fn execute(command: &[OsString], variables: &BTreeMap<String, Value>) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return outcome::exit_code(ErrorKind::InvalidInput);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    for key in KEY_VARIABLES {
        command.env_remove(key);
    }
    for (key, value) in variables {
        command.env(key, OsStr::from_bytes(value.expose()));
    }
    let error = command.exec();
    // As shells have it, POSIX.1-2024 section 2.8.2.
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let message = format!("{} can't be run", program.display());
    table::say(outcome::report(&Error::io(error, message)).trim_end());
    ExitCode::from(code)
}

fn listed(names: &[String]) -> String {
    match names {
        [] => format!("environment file {DEFAULT}, which isn't there"),
        [name] => format!("environment file {name}"),
        names => format!("environment files {}", names.join(", ")),
    }
}
