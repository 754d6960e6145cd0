//! An environment file as everyone sees it: key names, recipients and ciphertext.

use jiff::Timestamp;

use super::Value;
use super::dotenv::{self, Body, Line, unescape};
use super::identity::Identities;
use super::metadata::{self, Metadata};
use super::open::{Entry, OpenEnvironment};
use super::wrap;
use crate::crypto::{DataKey, digest};
use crate::error::{Error, ErrorKind, Result};

/// A sealed environment file.
#[derive(Clone, Debug)]
pub struct EnvironmentFile {
    name: String,
    lines: Vec<Line>,
    metadata: Metadata,
}

impl EnvironmentFile {
    /// Reads the bytes of the environment file `name`.
    ///
    /// # Errors
    /// `Damaged` when they aren't exactly in the format; the message names the line by its
    /// number.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let (lines, metadata) = dotenv::parse(bytes).map_err(|fault| {
            let place = match fault.line {
                0 => format!("environment file {name}"),
                line => format!("line {line} of environment file {name}"),
            };
            Error::new(ErrorKind::Damaged, format!("{place} can't be read: {}", fault.what))
        })?;
        Ok(Self { name: name.to_owned(), lines, metadata })
    }

    /// The name by which messages tell of it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of the encrypted secrets, in the order of the file.
    ///
    /// Keys whose values are empty or clear aren't secrets: nothing vouches for them.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.lines
            .iter()
            .filter(|line| matches!(line.body, Body::Sealed(_)))
            .filter_map(|line| line.key.as_deref())
    }

    /// When the file was sealed, to the second.
    pub fn modified(&self) -> Timestamp {
        self.metadata.modified
    }

    /// The recipients that the file names, which are not to be trusted: anyone can write them.
    pub fn recipients(&self) -> Vec<String> {
        self.metadata.wraps.iter().map(|wrap| wrap.recipient.to_string()).collect()
    }

    /// Decrypts everything and checks that nothing was added, removed, changed or moved.
    ///
    /// # Errors
    /// `NoIdentity` when none of the identities opens the file, `DecryptFailed` when a line
    /// wasn't encrypted with this file's key, `MacMismatch` when the whole doesn't fit the seal.
    pub fn open(self, identities: &Identities) -> Result<OpenEnvironment> {
        let key = self.unwrap_key(identities)?;
        let mut entries = Vec::with_capacity(self.lines.len());
        for line in self.lines {
            let value = match &line.body {
                Body::Empty => Value::new(Vec::new()),
                Body::Clear(text) => Value::new(unescape(text).into_bytes()),
                Body::Sealed(sealed) => {
                    let opened = key.open(sealed, &line.context());
                    Value::new(opened.ok_or_else(|| undecryptable(&self.name, &line))?)
                }
            };
            entries.push(Entry { line, value });
        }
        check_mac(&self.name, &self.metadata, &key, &entries)?;
        Ok(OpenEnvironment::opened(self.name, key, entries, self.metadata))
    }

    fn unwrap_key(&self, identities: &Identities) -> Result<DataKey> {
        let Some(unwrapped) = wrap::unwrap(&self.metadata.wraps, identities) else {
            let message = format!("environment file {} isn't encrypted to you", self.name);
            let hint = format!(
                "your recipient is {}; a member who can open the file adds it by any `atelier \
                 secret set`, once `atelier init` has registered you",
                identities.recipient()
            );
            return Err(Error::new(ErrorKind::NoIdentity, message).with_hint(hint));
        };
        unwrapped.map_err(|error| {
            let message = format!("environment file {} can't be opened", self.name);
            Error::new(error.kind(), message).with_source(error)
        })
    }
}

/// The digest of all values that aren't comments, in order.
pub(super) fn mac_of(entries: &[Entry]) -> String {
    digest(entries.iter().filter(|e| e.line.key.is_some()).map(|e| e.value.expose()))
}

fn check_mac(name: &str, metadata: &Metadata, key: &DataKey, entries: &[Entry]) -> Result<()> {
    let context = metadata::seconds(metadata.modified);
    let stated = key.open(&metadata.mac, context.as_bytes());
    if stated.is_some_and(|stated| *stated == *mac_of(entries).as_bytes()) {
        return Ok(());
    }
    let message = format!("environment file {name} was changed after it was sealed");
    Err(Error::new(ErrorKind::MacMismatch, message))
}

fn undecryptable(name: &str, line: &Line) -> Error {
    let what = match &line.key {
        Some(key) => format!("the value of {key}"),
        None => "a comment".to_owned(),
    };
    let message = format!("{what} in environment file {name} can't be decrypted");
    Error::new(ErrorKind::DecryptFailed, message)
}
