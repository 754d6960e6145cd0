//! `atelier completions`: what a shell completes.

use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{Cli, Context, table};
use crate::error::Result;

/// Print completions for a shell
///
/// For bash: atelier completions bash > ~/.local/share/bash-completion/completions/atelier
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell that will read them
    shell: clap_complete::Shell,
}

impl Completions {
    /// Runs the command.
    #[allow(clippy::unused_async)] // Every command is called the same way.
    pub async fn run(self, _context: &Context) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "atelier", &mut script);
        table::print(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
