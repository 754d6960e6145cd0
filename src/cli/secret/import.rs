//! `atelier secret import`: secrets from a file, told by their names only.

use std::fs::File;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Absent, Context, DEFAULT, Environments, read_all, table};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::secret::identity::Identities;
use crate::secret::{self, EnvironmentFile, Value};

/// What is taken in.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// A plain .env file, one that `sops` encrypted to you, or - for standard input
    file: PathBuf,
    /// The environment file that takes them
    #[arg(long = "env", value_name = "NAME", default_value = DEFAULT)]
    environment: String,
}

impl Import {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let environments = Environments::open_project(context).await?;
        let text = read(&self.file)?;
        let text = str::from_utf8(&text).map_err(|_| {
            let message = format!("{} isn't text", self.file.display());
            Error::new(ErrorKind::InvalidInput, message)
        })?;
        let (mut pairs, encrypted) = pairs(&self.file, text, &environments.identities)?;
        let empty = |(_, value): &(String, Value)| value.expose().is_empty();
        let left_out: Vec<_> =
            pairs.extract_if(.., |pair| empty(pair)).map(|(key, _)| key).collect();
        let (mut set, mut unchanged) = (Vec::new(), Vec::new());
        let name = &self.environment;
        environments
            .change(name, Absent::Create, |opened| {
                (set, unchanged) = (Vec::new(), Vec::new());
                for (key, value) in &pairs {
                    let list =
                        if opened.set(key, value.clone())? { &mut set } else { &mut unchanged };
                    list.push(key.as_str());
                }
                Ok(!set.is_empty())
            })
            .await?;
        told("set", &set);
        told("unchanged", &unchanged);
        told("left out, since a secret can't be empty", &left_out);
        if set.is_empty() && unchanged.is_empty() {
            let message = format!("{} holds no secret", self.file.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        if !encrypted && self.file != Path::new("-") {
            table::say(format!("{} still holds them in plaintext: delete it", self.file.display()));
        }
        Ok(())
    }
}

fn told<T: AsRef<str>>(what: &str, keys: &[T]) {
    if !keys.is_empty() {
        let keys: Vec<_> = keys.iter().map(AsRef::as_ref).collect();
        table::say(format!("{what}: {}", keys.join(", ")));
    }
}

/// The pairs of a file, and whether they were encrypted in it.
fn pairs(file: &Path, text: &str, identities: &Identities) -> Result<(Vec<(String, Value)>, bool)> {
    let shown = file.display().to_string();
    if !text.lines().any(|line| line.starts_with("sops_mac=")) {
        return Ok((secret::import(&shown, text)?, false));
    }
    let opened = EnvironmentFile::parse(&shown, text.as_bytes())?.open(identities)?;
    let pairs = opened.values().map(|(key, value)| (key.to_owned(), value.clone()));
    Ok((pairs.collect(), true))
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let shown = file.display().to_string();
    if file == Path::new("-") {
        return read_all(rustix::stdio::stdin(), "the standard input");
    }
    read_all(File::open(file).context(|| format!("{shown} can't be read"))?, &shown)
}
