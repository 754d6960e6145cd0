//! `atelier member key`: whose public keys the secrets of a place are encrypted to.

use clap::{Args, Subcommand};

use super::{Context, place, reseal, table};
use crate::catalog::{Catalog, Holder, Recipient, Scope};
use crate::error::Result;

/// Public age keys of members and hosts
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Register a key for a member who can't do it himself, or for a host
    ///
    /// It counts where you are admin: in this project, or in the projects of this community. Their
    /// secrets are encrypted to it at once. So a member who lost his identity gets them back.
    Add(Named),
    /// Take a key back that was registered like that
    ///
    /// Secrets that are encrypted to it get new keys.
    Remove(Named),
    /// List the keys that a project's secrets are encrypted to
    List,
}

/// A key, and whose.
#[derive(Debug, Args)]
pub struct Named {
    /// The member's name, or the host's with --host
    #[arg(value_name = "NAME")]
    holder: String,
    /// The public key, age1…
    recipient: String,
    /// It is a host's: its mounts open the keys of buckets, and no user of it sees them
    #[arg(long)]
    host: bool,
    /// Where it counts
    #[arg(long, value_name = "COMMUNITY[/PROJECT]")]
    on: String,
}

impl table::Row for Recipient {
    const HEADER: &'static [&'static str] = &["HOLDER", "RECIPIENT"];

    fn cells(&self) -> Vec<String> {
        vec![self.user.clone(), self.recipient.clone()]
    }
}

impl Key {
    pub(super) async fn run(self, context: &Context, catalog: &Catalog) -> Result<()> {
        match self {
            Self::Add(named) => {
                let (holder, on) = named.resolve(context, catalog).await?;
                catalog.place_recipient(&holder, &named.recipient, &on).await?;
                table::say(format!("{holder} has the key {} on {on}", named.recipient));
                reseal::within(context, catalog, &on).await
            }
            Self::Remove(named) => {
                let (holder, on) = named.resolve(context, catalog).await?;
                catalog.displace_recipient(&holder, &named.recipient, &on).await?;
                table::say(format!("{holder} hasn't the key {} on {on} any more", named.recipient));
                reseal::within(context, catalog, &on).await
            }
            Self::List => {
                let project = context.project(catalog).await?;
                table::list(&catalog.recipients(&project).await?, context.json)
            }
        }
    }
}

impl Named {
    async fn resolve(&self, context: &Context, catalog: &Catalog) -> Result<(Holder, Scope)> {
        let name = self.holder.clone();
        let holder = if self.host { Holder::Host(name) } else { Holder::Member(name) };
        Ok((holder, place::scope(context, catalog, &self.on).await?))
    }
}
