//! `atelier run`: a command with secrets in its environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::variables::Selection;
use super::{Context, outcome, shield};
use crate::error::{ErrorKind, Result};
use crate::secret::Value;

/// Variables that lead to age identities: the command gets values, not keys.
pub(super) const KEY_VARIABLES: &[&str] =
    &["SOPS_AGE_KEY", "SOPS_AGE_KEY_CMD", "SOPS_AGE_KEY_FILE", "SOPS_AGE_SSH_PRIVATE_KEY_FILE"];

/// Run a command with secrets in its environment.
///
/// The secrets are decrypted here, and the command takes the place of this program: no shell, the
/// same terminal, signals and exit code. It isn't started if anything is wrong with a secret. A
/// command that isn't found exits with 127, one that can't be executed with 126.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    selection: Selection,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// Runs the command in place of this program.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let variables = self.selection.variables(context).await?;
        shield::lowered(|| execute(&self.command, &variables))
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
    outcome::not_run(program, command.exec())
}
