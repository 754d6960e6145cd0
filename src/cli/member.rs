//! `atelier member`: who has which role where.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use super::{Context, place, reseal, table};
use crate::catalog::{Account, Catalog, Member as Found, Role, Scope};
use crate::error::Result;

mod key;

/// Members of communities and projects, their roles and keys
#[derive(Debug, Subcommand)]
pub enum Member {
    /// Grant a user a role, in place of the one that was granted before
    ///
    /// The secrets that he may open by it are encrypted to his keys, too.
    Add {
        /// Who
        #[arg(value_name = "USER")]
        member: String,
        /// viewer (sees names), developer (uses and makes), editor (deletes) or admin
        #[arg(long)]
        role: Role,
        /// Where
        #[arg(long, value_name = "COMMUNITY[/PROJECT]")]
        on: String,
    },
    /// List who has a role, by default on the project you chose
    List {
        /// Where
        #[arg(long, value_name = "COMMUNITY[/PROJECT]")]
        on: Option<String>,
    },
    /// Say whose account a user of the machine is, for mounts that others may enter
    ///
    /// Whoever works under the uid has what the member's roles allow, on every machine that mounts
    /// projects of the organization from this catalogue. It takes an admin of the organization's
    /// team.
    Map {
        /// The member
        #[arg(value_name = "USER")]
        member: String,
        /// The number of the account, as `id -u` prints it
        uid: u32,
        /// The organization [default: that of the project you chose]
        #[arg(long, value_name = "ORG")]
        on: Option<String>,
    },
    /// Take that back: the account is nobody's
    Unmap {
        /// The number of the account
        uid: u32,
        /// The organization [default: that of the project you chose]
        #[arg(long, value_name = "ORG")]
        on: Option<String>,
    },
    /// List whose account is whose
    Accounts {
        /// The organization [default: that of the project you chose]
        #[arg(long, value_name = "ORG")]
        on: Option<String>,
    },
    /// Take a user's role away; without the team of the organization he loses all others too
    ///
    /// The secrets that he could open are encrypted with new keys. He may have read them: change
    /// their values.
    Remove {
        /// Who
        #[arg(value_name = "USER")]
        member: String,
        /// Where
        #[arg(long, value_name = "COMMUNITY[/PROJECT]")]
        on: String,
    },
    /// The public age keys that secrets are encrypted to
    #[command(subcommand)]
    Key(key::Key),
}

#[derive(Serialize)]
#[serde(transparent)]
struct Line(Found);

impl table::Row for Line {
    const HEADER: &'static [&'static str] = &["USER", "ROLE", "FROM"];

    fn cells(&self) -> Vec<String> {
        let from = if self.0.inherited { "community" } else { "here" };
        vec![self.0.user.clone(), self.0.role.to_string(), from.to_owned()]
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Mapped(Account);

impl table::Row for Mapped {
    const HEADER: &'static [&'static str] = &["UID", "USER"];

    fn cells(&self) -> Vec<String> {
        vec![self.0.uid.to_string(), self.0.user.clone()]
    }
}

impl Member {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let catalog = context.catalog().await?;
        match self {
            Self::Add { member, role, on } => {
                let on = place::scope(context, &catalog, &on).await?;
                catalog.set_role(&member, role, &on).await?;
                table::say(format!("{member} is {role} on {on}"));
                if role >= Role::Developer && !catalog.has_key(&member, &on).await? {
                    say_that_he_has_no_key(&member, &on);
                }
                reseal::within(context, &catalog, &on).await?;
            }
            Self::List { on } => {
                let on = match on {
                    Some(on) => place::scope(context, &catalog, &on).await?,
                    None => Scope::Project(context.project(&catalog).await?.name),
                };
                let all: Vec<_> = catalog.members(&on).await?.into_iter().map(Line).collect();
                table::list(&all, context.json)?;
            }
            Self::Map { member, uid, on } => {
                let on = organization(context, &catalog, on).await?;
                catalog.map_account(&on, &member, uid).await?;
                table::say(format!("uid {uid} is {member} in {on}"));
            }
            Self::Unmap { uid, on } => {
                let on = organization(context, &catalog, on).await?;
                let member = catalog.unmap_account(&on, uid).await?;
                table::say(format!("uid {uid} isn't {member} in {on} any more"));
            }
            Self::Accounts { on } => {
                let on = organization(context, &catalog, on).await?;
                let all: Vec<_> = catalog.accounts(&on).await?.into_iter().map(Mapped).collect();
                table::list(&all, context.json)?;
            }
            Self::Remove { member, on } => {
                let on = place::scope(context, &catalog, &on).await?;
                catalog.remove_member(&member, &on).await?;
                table::say(format!("{member} has no role of his own on {on} any more"));
                // Who left by himself has nothing to say there any more.
                if member != context.config.user {
                    reseal::within(context, &catalog, &on).await?;
                }
            }
            Self::Key(key) => key.run(context, &catalog).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn say_that_he_has_no_key(member: &str, on: &Scope) {
    table::say(format!(
        "{member} has no key yet, so that no secret is encrypted to him\n\
         hint: he runs `atelier init`, then an admin `atelier member key add {member} RECIPIENT \
         --on {on}`, or a developer `atelier secret rotate --all`"
    ));
}

/// The organization that is named, or the one at hand.
async fn organization(context: &Context, catalog: &Catalog, on: Option<String>) -> Result<String> {
    match on {
        Some(on) => Ok(on),
        None => context.organization(catalog).await,
    }
}
