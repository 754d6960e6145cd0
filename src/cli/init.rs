//! `atelier init`: the home, with its catalogue, store and identity.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Context, table};
use crate::catalog::Catalog;
use crate::error::{IoContext, Result};
use crate::secret::identity::Identities;
use crate::workspace::Workspace;

/// Make the home: catalogue, store and identity; what is there stays
#[derive(Debug, Args)]
pub struct Init {}

#[derive(Serialize)]
struct Made {
    home: PathBuf,
    user: String,
    identity_file: PathBuf,
    recipient: String,
}

impl table::Row for Made {
    const HEADER: &'static [&'static str] = &["HOME", "USER", "IDENTITY", "RECIPIENT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.home.display().to_string(),
            self.user.clone(),
            self.identity_file.display().to_string(),
            self.recipient.clone(),
        ]
    }
}

impl Init {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let config = &context.config;
        config.check_place_of_home()?;
        private_dir(&config.home)?;
        config.check_home()?;
        let catalog = Catalog::open(&config.catalog_file(), &config.user).await?;
        private_dir(&config.store_dir())?;
        Workspace::prepare_store(config, &catalog).await?;
        let identities = Identities::load_or_create(&config.identity_file)?;
        let known = catalog.own_recipients().await?;
        for recipient in identities.recipients() {
            if !known.contains(&recipient) {
                catalog.add_recipient(&config.user, &recipient).await?;
            }
        }
        let first = catalog.organizations().await?.is_empty();
        catalog.close().await;
        let made = Made {
            home: config.home.clone(),
            user: config.user.clone(),
            identity_file: config.identity_file.clone(),
            recipient: identities.recipient(),
        };
        table::show(&made, context.json)?;
        if first {
            table::say("next: `atelier org create NAME`");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes a folder that only its owner may look into, also where it was there and open to others.
fn private_dir(dir: &Path) -> Result<()> {
    let shown = dir.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .context(|| format!("the folder {shown} can't be made"))?;
    let mode = fs::metadata(dir).context(|| format!("{shown} can't be looked at"))?.permissions();
    if mode.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))
            .context(|| format!("{shown} can't be closed to others"))?;
    }
    Ok(())
}
