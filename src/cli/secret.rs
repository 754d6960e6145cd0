//! `atelier secret`: environment files and the secrets in them.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::Context;
use super::environment::{Absent, DEFAULT, Environments, Resealed};
use super::reseal::Progress;
use super::table::{self, Row};
use crate::catalog::Kind;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::secret::{EnvironmentFile, MAX_FILE, OpenEnvironment, Value, name};
use crate::workspace::Workspace;

mod edit;
mod export;
mod import;

/// Keep secrets in encrypted environment files.
#[derive(Debug, clap::Subcommand)]
pub enum Secret {
    /// Set a secret to the value on standard input, or ask for it
    ///
    /// One line feed at the end of the input isn't part of the value.
    Set(Set),
    /// List the names of secrets
    List(List),
    /// Tell of a secret, and with --reveal its value, to a terminal only
    Show(Show),
    /// Delete a secret, or with --all a whole environment file
    Delete(Delete),
    /// Copy the secrets of an environment file, also of one that another project shares
    ///
    /// The copy belongs to this project and knows nothing of later changes.
    Copy(CopyFile),
    /// Encrypt an environment file with a new key, to the present members only
    Rotate(Rotate),
    /// Change an environment file in your editor, $VISUAL or $EDITOR
    ///
    /// The plaintext is only in memory while the editor runs, in a directory of yours.
    Edit(edit::Edit),
    /// Take in the secrets of a plain .env file, or of one that is encrypted to you
    Import(import::Import),
    /// Write an environment file as it is, encrypted, or encrypted to others
    Export(export::Export),
}

/// A secret by name.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The name of the secret, such as `API_KEY`
    key: String,
    /// The environment file
    #[arg(long = "env", value_name = "NAME", default_value = DEFAULT)]
    environment: String,
}

/// What is set.
#[derive(Debug, clap::Args)]
pub struct Set {
    #[command(flatten)]
    named: Named,
    /// Taken only to say that a value can't be an argument.
    #[arg(hide = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// What is listed.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only this environment file
    #[arg(long = "env", value_name = "NAME")]
    environment: Option<String>,
}

/// What is shown.
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    named: Named,
    /// Print the value, if standard output is a terminal
    #[arg(long)]
    reveal: bool,
}

/// What is copied.
#[derive(Debug, clap::Args)]
pub struct CopyFile {
    /// The environment file to copy
    from: String,
    /// The environment file to make
    to: String,
}

/// What is deleted.
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// The name of the secret
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    key: Option<String>,
    /// The environment file
    #[arg(long = "env", value_name = "NAME", default_value = DEFAULT)]
    environment: String,
    /// Delete the whole environment file
    #[arg(long)]
    all: bool,
}

/// What is rotated.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// The environment file
    #[arg(long = "env", value_name = "NAME", default_value = DEFAULT)]
    environment: String,
    /// Rotate all environment files of the project
    #[arg(long, conflicts_with = "environment")]
    all: bool,
}

/// A secret as it is listed: everything but its value.
#[derive(Debug, Serialize)]
struct Listed {
    key: String,
    environment: String,
    /// When its environment file was last sealed.
    modified: Timestamp,
}

impl Row for Listed {
    const HEADER: &'static [&'static str] = &["KEY", "ENVIRONMENT", "MODIFIED"];

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), self.environment.clone(), table::time(self.modified)]
    }
}

impl Secret {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Set(set) => set.run(context).await?,
            Self::List(list) => {
                let rows = listed(context, list.environment.as_deref()).await?;
                table::list(&rows, context.json)?;
            }
            Self::Show(show) => show.run(context).await?,
            Self::Delete(delete) => delete.run(context).await?,
            Self::Copy(copy) => copy.run(context).await?,
            Self::Rotate(rotate) => rotate.run(context).await?,
            Self::Edit(edit) => edit.run(context).await?,
            Self::Import(import) => import.run(context).await?,
            Self::Export(export) => export.run(context).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Set {
    async fn run(self, context: &Context) -> Result<()> {
        name::check(&self.named.key).map_err(|error| {
            error.with_hint("the value comes from standard input, or `atelier secret set KEY` asks")
        })?;
        let Named { key, environment } = self.named;
        if !self.arguments.is_empty() {
            let message = format!("the value of {key} can't be an argument: others could see it");
            return Err(Error::new(ErrorKind::InvalidInput, message).with_hint(format!(
                "`atelier secret set {key}` asks for it, or reads it from standard input"
            )));
        }
        let environments = Environments::open_project(context).await?;
        let value = read_value(&key)?;
        let written = environments
            .change(&environment, Absent::Create, |opened| opened.set(&key, value.clone()))
            .await?;
        let what = if written { "set" } else { "unchanged" };
        table::say(format!("secret {key} of environment file {environment} is {what}"));
        Ok(())
    }
}

impl Delete {
    async fn run(self, context: &Context) -> Result<()> {
        let environment = &self.environment;
        let Some(key) = &self.key else {
            let catalog = context.catalog().await?;
            let project = context.project(&catalog).await?;
            let shown = catalog.shown(&project, Kind::Secret, environment).await?;
            if shown.added {
                let message = format!("{environment} belongs to {}", shown.resource.owner);
                return Err(Error::new(ErrorKind::NotPermitted, message)
                    .with_hint(format!("`atelier remove secret/{environment}` takes it out")));
            }
            catalog.delete_resource(&shown.resource).await?;
            table::say(format!("environment file {environment} is deleted"));
            return Ok(());
        };
        let environments = Environments::open_project(context).await?;
        let deleted = environments.change(environment, Absent::Refuse, |opened| {
            opened.delete(key).then_some(true).ok_or_else(|| missing(key, environment))
        });
        deleted.await?;
        table::say(format!("secret {key} of environment file {environment} is deleted"));
        Ok(())
    }
}

impl Show {
    async fn run(self, context: &Context) -> Result<()> {
        let Named { key, environment } = &self.named;
        if !self.reveal {
            let rows = listed(context, Some(environment)).await?;
            let row = rows.iter().find(|row| row.key == *key);
            return table::show(row.ok_or_else(|| missing(key, environment))?, context.json);
        }
        if !io::stdout().is_terminal() {
            let message = format!("the value of {key} is only shown on a terminal");
            return Err(Error::new(ErrorKind::NotPermitted, message)
                .with_hint("`atelier run -- COMMAND` gives it to a command"));
        }
        let opened = Environments::open_project(context).await?.open(environment).await?;
        let value = opened.value(key).ok_or_else(|| missing(key, environment))?;
        table::print(value.expose())?;
        table::print(b"\n")
    }
}

impl CopyFile {
    async fn run(self, context: &Context) -> Result<()> {
        let Self { from, to } = &self;
        let environments = Environments::open_project(context).await?;
        let copied = environments.open(from).await?;
        match environments.catalog.environment(&environments.project, to).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => {
                let message = format!("environment file {to} is there already");
                return found.and(Err(Error::new(ErrorKind::AlreadyExists, message)));
            }
        }
        let copy = |new: &mut OpenEnvironment| {
            copied.values().try_for_each(|(key, value)| new.set(key, value.clone()).map(drop))?;
            Ok(true)
        };
        environments.change(to, Absent::Create, copy).await?;
        table::say(format!("environment file {from} is copied to {to}"));
        Ok(())
    }
}

impl Rotate {
    async fn run(self, context: &Context) -> Result<()> {
        let environments = Environments::open_project(context).await?;
        let Environments { catalog, project, .. } = &environments;
        let rotate = |opened: &mut OpenEnvironment| opened.rotate().map(|()| true);
        if !self.all {
            let name = &self.environment;
            environments.change(name, Absent::Refuse, rotate).await?;
            table::say(format!("environment file {name} is encrypted with a new key"));
            return Ok(());
        }
        let mut own = catalog.resources(project, Kind::Secret).await?;
        own.retain(|shown| !shown.added);
        let mut progress = Progress::of(own.len());
        for shown in own {
            let rotated = environments.change(&shown.name, Absent::Refuse, rotate).await;
            progress.told(&shown.resource, rotated.map(|_| Resealed::Rotated));
        }
        progress.done()
    }
}

/// The names of secrets, for which no key is needed.
async fn listed(context: &Context, environment: Option<&str>) -> Result<Vec<Listed>> {
    let workspace = Workspace::open(&context.config).await?;
    let project = workspace.project().await?;
    let names = if let Some(name) = environment {
        vec![name.to_owned()]
    } else {
        let shown = workspace.catalog.resources(&project, Kind::Secret).await?;
        shown.into_iter().map(|shown| shown.name).collect()
    };
    let mut rows = Vec::new();
    for name in names {
        let found = workspace.catalog.environment(&project, &name).await?;
        let file = EnvironmentFile::parse(&name, &found.body)?;
        rows.extend(file.keys().map(|key| Listed {
            key: key.to_owned(),
            environment: name.clone(),
            modified: file.modified(),
        }));
    }
    Ok(rows)
}

/// Reads a value from a prompt that doesn't show it, or from standard input.
fn read_value(key: &str) -> Result<Value> {
    let what = format!("the value of {key}");
    if io::stdin().is_terminal() {
        let typed = rpassword::prompt_password(format!("value of {key}: "));
        return Ok(Value::new(typed.context(|| format!("{what} can't be read"))?.into_bytes()));
    }
    let bytes = read_all(rustix::stdio::stdin(), &what)?;
    Ok(Value::new(bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec()))
}

/// Reads to the end: without std's buffers, which nobody wipes, into one that never moves.
fn read_all(from: impl AsFd, what: &str) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; MAX_FILE + 1]);
    let mut len = 0;
    while len < bytes.len() {
        match rustix::io::read(&from, &mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context(|| format!("{what} can't be read")),
        }
    }
    if len > MAX_FILE {
        let message = format!("{what} has more than 1 MiB");
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn missing(key: &str, environment: &str) -> Error {
    let message = format!("environment file {environment} has no secret {key}");
    Error::new(ErrorKind::NotFound, message)
        .with_hint("`atelier secret list` shows those that are there")
}
