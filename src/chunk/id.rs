//! Names of bytes: their BLAKE3.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The BLAKE3 hash of some bytes, and so their name: 64 hexadecimal digits where it is shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Id([u8; Id::LEN]);

impl Id {
    /// Length in bytes.
    pub const LEN: usize = blake3::OUT_LEN;

    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash itself.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Eight bytes of the hash, for tables that check the rest elsewhere.
    pub(super) fn short(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("a hash is longer than that"))
    }
}

impl From<[u8; Id::LEN]> for Id {
    fn from(hash: [u8; Id::LEN]) -> Self {
        Self(hash)
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hash = HEXLOWER.decode(text.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
        hash.map(Self).ok_or_else(|| {
            let message =
                format!("\"{}\" isn't an id of 64 hexadecimal digits", text.escape_debug());
            Error::new(ErrorKind::InvalidInput, message)
        })
    }
}

impl TryFrom<String> for Id {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = Id::of(b"");
        let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse::<Id>().unwrap(), id);
        for wrong in ["", "af", &text[1..], &text.to_uppercase(), &format!("{text}0")] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong}");
        }
    }
}
