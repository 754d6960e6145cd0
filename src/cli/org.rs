//! `atelier org`: organizations.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use super::{Context, table};
use crate::catalog::{Organization, Policy};
use crate::error::Result;

/// Organizations: nothing is visible from one in another
#[derive(Debug, Subcommand)]
pub enum Org {
    /// Make an organization and its team; you become admin
    Create {
        /// Its name: 1 to 58 characters without /
        name: String,
    },
    /// List the organizations you are a member of
    List,
    /// Show one
    Show {
        /// Its name
        name: String,
    },
    /// Change its settings
    Set {
        /// Its name
        name: String,
        /// Who may publish resources: seed (admins of project and community) or current (editors
        /// of the project who are developers of the community)
        #[arg(long)]
        policy: Policy,
    },
}

#[derive(Serialize)]
#[serde(transparent)]
struct Line(Organization);

impl table::Row for Line {
    const HEADER: &'static [&'static str] = &["NAME", "POLICY", "CREATOR", "CREATED", "ID"];

    fn cells(&self) -> Vec<String> {
        let Organization { id, name, policy, creator, created, .. } = &self.0;
        vec![
            name.clone(),
            policy.to_string(),
            creator.clone(),
            table::time(*created),
            id.to_string(),
        ]
    }
}

impl Org {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        match self {
            Self::Create { name } => {
                let made = catalog.create_organization(&name).await?;
                table::say(format!("organization {name} and community {name}/{name} Team made"));
                table::made(&Line(made), context.json)?;
            }
            Self::List => {
                let all: Vec<_> = catalog.organizations().await?.into_iter().map(Line).collect();
                table::list(&all, context.json)?;
            }
            Self::Show { name } => {
                table::show(&Line(catalog.organization(&name).await?), context.json)?;
            }
            Self::Set { name, policy } => {
                catalog.set_policy(&name, policy).await?;
                table::say(format!("publishing in {name} follows policy {policy}"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
