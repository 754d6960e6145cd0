//! `atelier dataset tag` and `untag`: names for versions.

use super::find::At;
use crate::cli::table;
use crate::error::{Error, ErrorKind, Result};

/// What gets which name.
#[derive(Debug, clap::Args)]
pub struct TagVersion {
    /// The version; without one the newest active one
    #[arg(value_name = "NAME[@VERSION]")]
    name: String,
    /// Its name: letters, digits, `-`, `_` and `.`, the first a letter
    tag: String,
    /// Take the name from the version that has it
    #[arg(long = "move")]
    moves: bool,
}

/// What loses its name.
#[derive(Debug, clap::Args)]
pub struct UntagVersion {
    /// The dataset
    name: String,
    /// The name
    tag: String,
}

impl TagVersion {
    pub(super) async fn run(self, at: &At<'_>) -> Result<()> {
        let (shown, number) = at.own(&self.name).await?;
        let number = match number {
            Some(number) => number,
            None => at.version(&self.name).await?.1.number,
        };
        let before = at.catalog.tag(&shown.resource.id, number, &self.tag, self.moves).await?;
        let (name, tag) = (&shown.name, &self.tag);
        table::say(match before {
            Some(before) => format!("{name}@{tag} is version {number} now, and was {before}"),
            None => format!("{name}@{tag} is version {number}"),
        });
        Ok(())
    }
}

impl UntagVersion {
    pub(super) async fn run(self, at: &At<'_>) -> Result<()> {
        let (shown, number) = at.own(&self.name).await?;
        if number.is_some() {
            let message = format!("{} is a version, not a dataset", self.name);
            return Err(Error::new(ErrorKind::InvalidInput, message)
                .with_hint("write it as `atelier dataset untag NAME TAG`"));
        }
        let number = at.catalog.untag(&shown.resource.id, &self.tag).await?;
        table::say(format!(
            "version {number} of {} isn't called {} any more",
            shown.name, self.tag
        ));
        Ok(())
    }
}
