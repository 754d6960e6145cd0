//! `atelier resources`: what a community offers.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Context, place, table};
use crate::catalog::Offer;
use crate::error::Result;

/// List what a community offers to its projects
#[derive(Debug, Args)]
pub struct Resources {
    /// The community [default: that of your project]
    #[arg(value_name = "[ORG/]COMMUNITY")]
    community: Option<String>,
}

#[derive(Serialize)]
struct Line {
    /// What `atelier add` takes.
    reference: String,
    #[serde(flatten)]
    offer: Offer,
}

impl table::Row for Line {
    const HEADER: &'static [&'static str] = &["RESOURCE", "PUBLISHED", "BY", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.reference.clone(),
            table::time(self.offer.published),
            self.offer.publisher.clone(),
            self.offer.resource.description.clone(),
        ]
    }
}

impl Resources {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        let community = match self.community {
            Some(community) => place::community(context, &catalog, &community).await?,
            None => context.project(&catalog).await?.name.at(),
        };
        let offers = catalog.offers(&community).await?;
        let lines: Vec<_> = offers
            .into_iter()
            .map(|offer| Line { reference: offer.resource.reference().to_string(), offer })
            .collect();
        table::list(&lines, context.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
