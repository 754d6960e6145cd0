//! `atelier identity`: the age keys that open environment files.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use super::{Context, reseal, table};
use crate::catalog::{Catalog, Reach, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::identity::Identities;

/// Your age identities, or those of this host
#[derive(Debug, Subcommand)]
pub enum Identity {
    /// Show your public keys, and whether secrets are encrypted to them
    Show,
    /// Make an identity where there is none, and register it
    ///
    /// Where the old one was lost, another member lets the new one in by `atelier secret rotate
    /// --all` in your project; then `atelier identity forget` the old one.
    New {
        /// Make one for this host, as root, so that its mounts open the keys of buckets
        #[arg(long)]
        host: bool,
    },
    /// Make a new identity, and encrypt your secrets to it instead of the present one
    ///
    /// The present one stays in its file behind the new one: other files may need it.
    Rotate,
    /// Have nothing encrypted to one of your public keys any more
    Forget {
        /// The public key, age1…
        recipient: String,
    },
}

/// A public key of the user.
#[derive(Serialize)]
struct Listed {
    recipient: String,
    /// Whether the private key is in the user's file.
    present: bool,
    /// Whether secrets are encrypted to it.
    registered: bool,
}

impl table::Row for Listed {
    const HEADER: &'static [&'static str] = &["RECIPIENT", "IN FILE", "REGISTERED"];

    fn cells(&self) -> Vec<String> {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        vec![self.recipient.clone(), yes(self.present), yes(self.registered)]
    }
}

impl Identity {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Show => show(context).await?,
            Self::New { host: true } => new_for_host(&context.config.host_identity_file)?,
            Self::New { host: false } => new(context).await?,
            Self::Rotate => rotate(context).await?,
            Self::Forget { recipient } => forget(context, &recipient).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn show(context: &Context) -> Result<()> {
    let registered = context.catalog().await?.own_recipients().await?;
    let present = match Identities::load(&context.config.identity_file) {
        Err(error) if error.kind() == ErrorKind::NoIdentity && !registered.is_empty() => Vec::new(),
        other => other?.recipients(),
    };
    let lost = registered.iter().filter(|recipient| !present.contains(recipient));
    let rows: Vec<_> = present
        .iter()
        .chain(lost)
        .map(|recipient| Listed {
            recipient: recipient.clone(),
            present: present.contains(recipient),
            registered: registered.contains(recipient),
        })
        .collect();
    table::list(&rows, context.json)
}

async fn new(context: &Context) -> Result<()> {
    let file = &context.config.identity_file;
    match Identities::load(file) {
        Ok(_) => {
            let message = format!("there is an age identity in {} already", file.display());
            return Err(Error::new(ErrorKind::AlreadyExists, message)
                .with_hint("`atelier identity rotate` replaces it"));
        }
        Err(error) if error.kind() == ErrorKind::NoIdentity => {}
        Err(error) => return Err(error),
    }
    let catalog = context.catalog().await?;
    let recipient = Identities::load_or_create(file)?.recipient();
    catalog.add_recipient(&context.config.user, &recipient).await?;
    table::say(format!("your new identity is in {}; its public key is registered", file.display()));
    table::say(
        "secrets that are there already open to it once another member has run `atelier \
                secret rotate --all`",
    );
    table::print(format!("{recipient}\n").as_bytes())
}

fn new_for_host(file: &Path) -> Result<()> {
    let recipient = Identities::load_or_create(file)?.recipient();
    table::say(format!("the identity of this host is in {}", file.display()));
    table::say("next, as an admin: `atelier member key add --host NAME RECIPIENT --on …`");
    table::print(format!("{recipient}\n").as_bytes())
}

async fn rotate(context: &Context) -> Result<()> {
    let catalog = context.catalog().await?;
    let file = &context.config.identity_file;
    let old = Identities::load(file)?.recipients();
    let recipient = Identities::renew(file)?.recipient();
    catalog.add_recipient(&context.config.user, &recipient).await?;
    for registered in catalog.own_recipients().await? {
        if old.contains(&registered) {
            catalog.remove_recipient(&registered).await?;
        }
    }
    table::say(format!("your new identity is in {}, in front of the old one", file.display()));
    table::print(format!("{recipient}\n").as_bytes())?;
    reseal_everywhere(context, &catalog).await
}

async fn forget(context: &Context, recipient: &str) -> Result<()> {
    let catalog = context.catalog().await?;
    if catalog.own_recipients().await? == [recipient] {
        let message = format!("{recipient} is your only key: you would be shut out");
        return Err(Error::new(ErrorKind::NotPermitted, message)
            .with_hint("`atelier identity rotate` replaces it"));
    }
    catalog.remove_recipient(recipient).await?;
    table::say(format!("nothing is encrypted to {recipient} from now on"));
    reseal_everywhere(context, &catalog).await
}

/// Has everything that the user may change encrypted to the keys that are registered now.
async fn reseal_everywhere(context: &Context, catalog: &Catalog) -> Result<()> {
    let mut reach = Reach::default();
    for organization in catalog.organizations().await? {
        let communities = catalog.communities(&organization.name).await?;
        let team = communities.into_iter().find(|community| community.is_default);
        if let Some(team) = team {
            let found = catalog.secrets_within(&Scope::Community(team.name)).await?;
            reach.secrets.extend(found.secrets);
        }
    }
    reseal::all(context, catalog, reach).await
}
