//! Wrapping a data key for a recipient, with age.

use age::x25519;
use zeroize::Zeroizing;

use super::identity::Identities;
use crate::crypto::DataKey;
use crate::error::{Error, ErrorKind, Result};

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----\n";
const END: &str = "-----END AGE ENCRYPTED FILE-----";

/// Larger age files are refused: one of 32 bytes for one recipient takes about 450.
const MAX_ARMORED: usize = 4096;

/// A data key that one recipient can unwrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrap {
    pub(super) recipient: x25519::Recipient,
    /// A complete armored age file that holds the key, with its line feeds.
    pub(super) armored: String,
}

/// Wraps a key.
pub(super) fn wrap(key: &DataKey, recipient: &x25519::Recipient) -> Result<Wrap> {
    let armored = age::encrypt_and_armor(recipient, key.as_bytes()).map_err(|error| {
        let message = format!("the data key can't be encrypted to {recipient}");
        Error::new(ErrorKind::Io, message).with_source(error)
    })?;
    Ok(Wrap { recipient: recipient.clone(), armored })
}

/// Unwraps the key with the identity that one of the wraps is for; `None` when there is no such.
pub(super) fn unwrap(wraps: &[Wrap], identities: &Identities) -> Option<Result<DataKey>> {
    let (wrap, identity) =
        wraps.iter().find_map(|wrap| Some((wrap, identities.matching(&wrap.recipient)?)))?;
    let damaged = || {
        let message = format!("the data key for {} is damaged", wrap.recipient);
        Error::new(ErrorKind::NoIdentity, message)
    };
    Some(
        age::decrypt(identity, wrap.armored.as_bytes())
            .map_err(|error| damaged().with_source(error))
            .map(Zeroizing::new)
            .and_then(|bytes| DataKey::from_bytes(&bytes).ok_or_else(damaged)),
    )
}

/// Whether this looks like an armored age file, which only its recipient can tell for certain.
pub(super) fn is_armored(text: &str) -> bool {
    let Some(body) = text.strip_prefix(BEGIN).filter(|_| text.len() <= MAX_ARMORED) else {
        return false;
    };
    let body = body.strip_suffix('\n').unwrap_or(body);
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '\n');
    body.strip_suffix(END).is_some_and(|body| body.ends_with('\n') && body.chars().all(is_base64))
}
