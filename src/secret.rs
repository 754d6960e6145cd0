//! Environment files: secrets in the SOPS dotenv format with age recipients.
//!
//! [`EnvironmentFile`] is what everyone may see: key names and ciphertext. With one of the
//! recipients' [`identity::Identities`] it becomes an [`OpenEnvironment`], which holds values and
//! can be changed and sealed again. `sops` 3.11 reads what is written here and writes what is
//! read here; where it accepts more than it should, this is stricter.

use std::fmt;

use zeroize::Zeroizing;

use crate::crypto::Locked;
use crate::error::{Error, ErrorKind, Result};

mod dotenv;
mod draft;
mod environment;
pub mod identity;
mod metadata;
pub mod name;
mod open;
mod plain;
pub mod policy;
mod seen;
mod wrap;

pub use draft::Draft;
pub use environment::EnvironmentFile;
pub use open::OpenEnvironment;
pub use plain::{Changes, import};
pub use seen::Seen;

/// Larger environment files are neither read nor written, in bytes.
pub const MAX_FILE: usize = 1 << 20;

/// A secret's value: any bytes; never printed nor swapped out, and wiped from memory when it is
/// dropped.
#[derive(Clone)]
pub struct Value(Locked<[u8]>);

impl Value {
    /// Takes the bytes of a value.
    pub fn new(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Self {
        Self(Locked::from(&bytes.into()[..]))
    }

    /// The bytes, to be handed to whoever may have them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Opens the environment file `name`, whose content is `body`, and takes the value of one key.
///
/// # Errors
/// `NotFound` when there is no such key or its value isn't encrypted; else as
/// [`EnvironmentFile::parse`] and [`EnvironmentFile::open`].
pub fn reveal(
    name: &str,
    body: &[u8],
    identities: &identity::Identities,
    key: &str,
) -> Result<Value> {
    let environment = EnvironmentFile::parse(name, body)?.open(identities)?;
    environment.value(key).cloned().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("environment file {name} has no secret {key}"))
            .with_hint("`atelier secret list` shows those that are there")
    })
}
