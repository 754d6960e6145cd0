//! What stands for a bucket that can't be opened: a directory that says why.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};

use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, Entry, File, OpenMode, Tree};

/// The tree of a connection that is inactive, or whose key can't be opened here.
///
/// It can be seen, so that listing its parent works; everything in it is `PermissionDenied`.
pub struct RefusedTree {
    reason: String,
    hint: Option<String>,
    since: SystemTime,
}

impl RefusedTree {
    /// Makes a tree that refuses with this reason.
    pub fn new(reason: &Error) -> Self {
        let hint = reason.hint().map(str::to_owned);
        Self { reason: reason.to_string(), hint, since: SystemTime::now() }
    }

    fn refusal(&self) -> Error {
        let error = Error::new(ErrorKind::PermissionDenied, &self.reason);
        match &self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

#[async_trait]
impl Tree for RefusedTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        if path.is_root() {
            return Ok(Attr::dir(self.since, Duration::from_secs(1)));
        }
        Err(self.refusal())
    }

    fn list(&self, _dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        let refusal = self.refusal();
        Box::pin(stream::once(async { Err(refusal) }))
    }

    async fn open(&self, _path: &TreePath, _mode: OpenMode) -> Result<Arc<dyn File>> {
        Err(self.refusal())
    }
}
