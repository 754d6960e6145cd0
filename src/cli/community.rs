//! `atelier community`: teams and what they share.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use super::{Context, place, table};
use crate::catalog::{Catalog, Community as Found, Role};
use crate::error::Result;

/// Communities: teams that scope projects and what they share
#[derive(Debug, Subcommand)]
pub enum Community {
    /// Make a community; you become admin
    Create {
        /// Its name; without an organization it is made in the one at hand
        #[arg(value_name = "[ORG/]COMMUNITY")]
        name: String,
        /// What it is for
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
    },
    /// List the communities of one organization, or of all of yours
    List {
        /// The organization
        #[arg(value_name = "ORG")]
        organization: Option<String>,
    },
    /// Show one
    Show {
        /// Its name
        #[arg(value_name = "[ORG/]COMMUNITY")]
        name: String,
    },
    /// Delete an empty one
    Delete {
        /// Its name
        #[arg(value_name = "[ORG/]COMMUNITY")]
        name: String,
    },
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    community: Found,
    /// The role of who asks.
    role: Option<Role>,
}

impl Line {
    async fn new(catalog: &Catalog, community: Found) -> Result<Self> {
        Ok(Self { role: catalog.role_in(&community).await?, community })
    }
}

impl table::Row for Line {
    const HEADER: &'static [&'static str] =
        &["NAME", "YOUR ROLE", "CREATOR", "CREATED", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.community.name.to_string(),
            self.role.map_or_else(|| "-".to_owned(), |role| role.to_string()),
            self.community.creator.clone(),
            table::time(self.community.created),
            self.community.description.clone(),
        ]
    }
}

impl Community {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        match self {
            Self::Create { name, description } => {
                let name = place::community(context, &catalog, &name).await?;
                let made = catalog
                    .create_community(&name.organization, &name.community, &description)
                    .await?;
                table::say(format!("community {name} made"));
                table::made(&Line::new(&catalog, made).await?, context.json)?;
            }
            Self::List { organization } => {
                let organizations = match organization {
                    Some(one) => vec![catalog.organization(&one).await?],
                    None => catalog.organizations().await?,
                };
                let mut all = Vec::new();
                for organization in organizations {
                    for community in catalog.communities(&organization.name).await? {
                        all.push(Line::new(&catalog, community).await?);
                    }
                }
                table::list(&all, context.json)?;
            }
            Self::Show { name } => {
                let name = place::community(context, &catalog, &name).await?;
                let found = catalog.community(&name).await?;
                table::show(&Line::new(&catalog, found).await?, context.json)?;
            }
            Self::Delete { name } => {
                let name = place::community(context, &catalog, &name).await?;
                catalog.delete_community(&name).await?;
                table::say(format!("community {name} deleted"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
