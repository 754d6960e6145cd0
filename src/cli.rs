//! The command line: a file per command, whose doc comment is its help.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, GlobalArgs};
use crate::error::{IoContext, Result};

pub mod cache;
pub mod checkpoint;
mod child;
pub mod community;
pub mod completions;
pub mod dataset;
mod difference;
mod draft;
pub mod env;
mod environment;
pub mod gc;
pub mod identity;
pub mod init;
mod live;
pub mod member;
pub mod mount;
pub mod notebook;
pub mod org;
pub mod outcome;
mod place;
pub mod project;
pub mod publish;
mod reseal;
pub mod resources;
pub mod run;
pub mod s3;
pub mod secret;
mod shield;
pub mod status;
pub mod store;
pub mod table;
pub mod unmount;
pub mod use_project;
mod variables;
pub mod whoami;

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
    Init(init::Init),
    #[command(subcommand)]
    Org(org::Org),
    #[command(subcommand)]
    Community(community::Community),
    #[command(subcommand)]
    Project(project::Project),
    #[command(subcommand)]
    Member(member::Member),
    #[command(subcommand)]
    Identity(identity::Identity),
    Use(use_project::UseProject),
    Whoami(whoami::Whoami),
    #[command(subcommand)]
    Dataset(dataset::Dataset),
    #[command(subcommand)]
    S3(s3::S3),
    #[command(subcommand)]
    Secret(secret::Secret),
    #[command(subcommand)]
    Checkpoint(checkpoint::Checkpoint),
    #[command(subcommand)]
    Notebook(notebook::Notebook),
    Publish(publish::Publish),
    Unpublish(publish::Unpublish),
    Add(publish::Add),
    Remove(publish::Remove),
    Resources(resources::Resources),
    Run(run::Run),
    Env(env::Env),
    #[command(subcommand)]
    Cache(cache::Cache),
    #[command(subcommand)]
    Store(store::Store),
    Gc(gc::Gc),
    Mount(mount::Mount),
    Unmount(unmount::Unmount),
    Status(status::Status),
    Completions(completions::Completions),
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
        shield::raise()?;
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
            Self::Init(command) => command.run(context).await,
            Self::Org(command) => command.run(context).await,
            Self::Community(command) => command.run(context).await,
            Self::Project(command) => command.run(context).await,
            Self::Member(command) => command.run(context).await,
            Self::Identity(command) => command.run(context).await,
            Self::Use(command) => command.run(context).await,
            Self::Whoami(command) => command.run(context).await,
            Self::Dataset(command) => command.run(context).await,
            Self::S3(command) => command.run(context).await,
            Self::Secret(command) => command.run(context).await,
            Self::Checkpoint(command) => command.run(context).await,
            Self::Notebook(command) => command.run(context),
            Self::Publish(command) => command.run(context).await,
            Self::Unpublish(command) => command.run(context).await,
            Self::Add(command) => command.run(context).await,
            Self::Remove(command) => command.run(context).await,
            Self::Resources(command) => command.run(context).await,
            Self::Run(command) => command.run(context).await,
            Self::Env(command) => command.run(context).await,
            Self::Cache(command) => command.run(context),
            Self::Store(command) => command.run(context).await,
            Self::Gc(command) => command.run(context).await,
            Self::Mount(command) => command.run(context).await,
            Self::Unmount(command) => command.run(context).await,
            Self::Status(command) => command.run(context).await,
            Self::Completions(command) => command.run(context).await,
        }
    }
}
