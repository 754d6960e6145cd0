//! `atelier whoami`: who is acting, where, and as what.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Context, table};
use crate::catalog::{ProjectName, Role};
use crate::error::Result;

/// Show who you are, your home, the project you chose and your role on it
#[derive(Debug, Args)]
pub struct Whoami {}

#[derive(Serialize)]
struct Me {
    user: String,
    home: PathBuf,
    project: Option<ProjectName>,
    role: Option<Role>,
    recipients: Vec<String>,
}

impl table::Row for Me {
    const HEADER: &'static [&'static str] = &["USER", "HOME", "PROJECT", "ROLE", "RECIPIENT"];

    fn cells(&self) -> Vec<String> {
        let project = self.project.as_ref().map(ToString::to_string);
        vec![
            self.user.clone(),
            self.home.display().to_string(),
            project.unwrap_or_else(|| "-".to_owned()),
            self.role.map_or_else(|| "-".to_owned(), |role| role.to_string()),
            if self.recipients.is_empty() { "-".to_owned() } else { self.recipients.join(" ") },
        ]
    }
}

impl Whoami {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        let project = match &context.config.project {
            Some(name) => Some(catalog.project(&name.parse()?).await?),
            None => catalog.selected_project().await?,
        };
        let role = match &project {
            Some(project) => catalog.role_on(project).await?,
            None => None,
        };
        let me = Me {
            user: context.config.user.clone(),
            home: context.config.home.clone(),
            project: project.map(|project| project.name),
            role,
            recipients: catalog.own_recipients().await?,
        };
        table::show(&me, context.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
