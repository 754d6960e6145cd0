//! The command line: a file per command, whose doc comment is its help.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, GlobalArgs};
use crate::error::{IoContext, Result};

mod environment;
pub mod outcome;
pub mod run;
pub mod secret;
mod shield;
pub mod table;

/// Mounts a machine-learning project as a directory.
#[derive(Debug, Parser)]
#[command(name = "atelier", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand)]
    Secret(secret::Secret),
    Run(run::Run),
}

/// What every command gets: where everything is, and how to print.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where everything is and who is acting.
    pub config: Config,
    /// Whether to print JSON.
    pub json: bool,
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        let context = Context { config: Config::resolve(&self.global)?, json: self.global.json };
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context(|| "the threads that commands run on can't be started".to_owned())?
            .block_on(self.command.run(&context))
    }
}

impl Command {
    async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Secret(command) => command.run(context).await,
            Self::Run(command) => command.run(context).await,
        }
    }
}
