//! `atelier secret export`: an environment file for elsewhere, never in plaintext.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use super::{Context, DEFAULT, Environments, table};
use crate::error::{IoContext as _, Result};
use crate::secret::OpenEnvironment;

/// What is written, and for whom.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The environment file
    #[arg(long = "env", value_name = "NAME", default_value = DEFAULT)]
    environment: String,
    /// Encrypt it to this age key instead, with a new data key; as often as there are keys
    #[arg(long, value_name = "RECIPIENT")]
    to: Vec<String>,
    /// A new file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Export {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let name = &self.environment;
        let body = if self.to.is_empty() {
            let catalog = context.catalog().await?;
            let project = context.project(&catalog).await?;
            catalog.environment(&project, name).await?.body
        } else {
            let opened = Environments::open_project(context).await?.open(name).await?;
            let mut copy = OpenEnvironment::create(name)?;
            for (key, value) in opened.values() {
                copy.set(key, value.clone())?;
            }
            copy.seal(&self.to)?
        };
        let Some(file) = &self.output else { return table::print(&body) };
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        written
            .and_then(|mut file| file.write_all(&body))
            .context(|| format!("{} can't be written", file.display()))?;
        table::say(format!("environment file {name} is in {}, encrypted", file.display()));
        Ok(())
    }
}
