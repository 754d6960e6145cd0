//! What can be wrong with stored bytes.

use crate::error::{Error, ErrorKind};

/// What is wrong with stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// They aren't what they were.
    Damage(&'static str),
    /// Their format has a number that this program doesn't know.
    Later(u16),
}

impl Flaw {
    /// The error, which names the object that has the flaw.
    pub fn error(self, key: &str) -> Error {
        match self {
            Self::Damage(what) => {
                Error::new(ErrorKind::Damaged, format!("{key} is damaged: {what}"))
                    .with_hint("`atelier store verify` tells which versions and files are affected")
            }
            Self::Later(format) => {
                let message =
                    format!("{key} has format {format}, which this program is older than");
                Error::new(ErrorKind::Unsupported, message)
                    .with_hint("install the newer atelier that wrote it")
            }
        }
    }
}

impl From<&'static str> for Flaw {
    fn from(what: &'static str) -> Self {
        Self::Damage(what)
    }
}
