//! `atelier use`: the project that commands work on.

use std::process::ExitCode;

use clap::Args;

use super::{Context, place, table};
use crate::error::Result;

/// Choose the project that commands work on
#[derive(Debug, Args)]
pub struct UseProject {
    /// Its name
    #[arg(value_name = "[ORG/]COMMUNITY/PROJECT")]
    name: String,
}

impl UseProject {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        let name = place::project(context, &catalog, &self.name).await?;
        let chosen = catalog.select_project(&name).await?;
        table::say(format!("commands work on {} from now on", chosen.name));
        if let Some(other) =
            context.config.project.as_ref().filter(|other| **other != name.to_string())
        {
            table::say(format!(
                "as long as nothing names another: $ATELIER_PROJECT or --project says {other}"
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
