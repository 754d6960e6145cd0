//! A piece of an object: neighbouring blocks in one buffer, there or on their way.

use std::ops::Range;

use bytes::Bytes;
use tokio::sync::SetOnce;

use crate::error::{Error, Result};

/// Neighbouring blocks of one version of an object, in one buffer.
///
/// It enters the cache before its bytes do, so that cache and single flight are one thing.
#[derive(Debug)]
pub(super) struct Piece {
    /// Which bytes of the object it holds.
    pub(super) bytes: Range<u64>,
    content: SetOnce<Result<Bytes, Shareable>>,
}

impl Piece {
    pub(super) fn new(bytes: Range<u64>) -> Self {
        Self { bytes, content: SetOnce::new() }
    }

    /// How many bytes it holds or will hold.
    pub(super) fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    /// Ends the wait; only who fetches the piece calls it, once.
    pub(super) fn settle(&self, outcome: Result<Bytes, Shareable>) {
        // The run that fetches it owns it, so nobody else has settled it.
        let _ = self.content.set(outcome);
    }

    /// Whether nobody has to wait for it.
    pub(super) fn is_settled(&self) -> bool {
        self.content.get().is_some()
    }

    /// Waits until nobody has to wait for it; whether it is there.
    pub(super) async fn settled(&self) -> bool {
        self.content.wait().await.is_ok()
    }

    /// What it holds of `bytes`, if that is there; nothing is copied.
    pub(super) fn slice(&self, bytes: &Range<u64>) -> Option<Bytes> {
        match self.content.get() {
            Some(Ok(content)) => Some(self.cut(content, bytes)),
            _ => None,
        }
    }

    /// Waits for what it holds of `bytes`.
    ///
    /// # Errors
    /// Those of the fetch, whoever asked for it.
    pub(super) async fn wait(&self, bytes: &Range<u64>) -> Result<Bytes> {
        match self.content.wait().await {
            Ok(content) => Ok(self.cut(content, bytes)),
            Err(error) => Err(error.clone().into()),
        }
    }

    fn cut(&self, content: &Bytes, bytes: &Range<u64>) -> Bytes {
        let within = |at: u64| {
            let at = at.clamp(self.bytes.start, self.bytes.end) - self.bytes.start;
            usize::try_from(at).unwrap_or(content.len()).min(content.len())
        };
        content.slice(within(bytes.start)..within(bytes.end))
    }
}

/// An error that several readers get.
#[derive(Clone, Debug)]
pub(super) struct Shareable(std::sync::Arc<Error>);

impl From<Error> for Shareable {
    fn from(error: Error) -> Self {
        Self(std::sync::Arc::new(error))
    }
}

impl From<Shareable> for Error {
    fn from(Shareable(shared): Shareable) -> Self {
        let mut error = Self::new(shared.kind(), shared.to_string());
        if let Some(hint) = shared.hint() {
            error = error.with_hint(hint);
        }
        match std::error::Error::source(&*shared) {
            Some(cause) => error.with_source(cause.to_string()),
            None => error,
        }
    }
}
