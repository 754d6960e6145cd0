//! A version as a tree: read-only, and for ever the same.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};

use super::{Attr, Entry, File, OpenMode, PageCache, Tree, read_only};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::snapshot::{self, Content, Version};

mod number;

/// How long answers may be cached: nothing ever changes.
const TTL: Duration = Duration::from_hours(24 * 365);

/// The tree of a version.
pub struct SnapshotTree {
    version: Version,
    /// What it is called in messages.
    name: Arc<str>,
}

impl SnapshotTree {
    /// Serves `version`.
    pub fn new(version: Version) -> Self {
        let name = format!("version {}", version.id());
        Self::named(version, name)
    }

    /// Serves `version`, which messages call by a name such as `dataset flowers@2`.
    pub fn named(version: Version, name: impl Into<Arc<str>>) -> Self {
        Self { version, name: name.into() }
    }

    /// The version that is served.
    pub fn version(&self) -> &Version {
        &self.version
    }

    fn unreadable(&self, path: &[u8], error: Error) -> Error {
        unreadable(&self.name, path, error)
    }
}

/// Names the file that an error is about.
fn unreadable(name: &str, path: &[u8], error: Error) -> Error {
    let path = path.escape_ascii();
    Error::new(error.kind(), format!("{path} of {name} can't be read")).with_source(error)
}

#[async_trait]
impl Tree for SnapshotTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        Ok(attr_of(&self.version.entry(path).await?))
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        let named = self.version.list(dir);
        named
            .map(|named| named.map(|named| Entry { attr: attr_of(&named.entry), name: named.name }))
            .boxed()
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        let entry = self.version.entry(path).await?;
        match entry.content {
            Content::Directory => {
                Err(Error::new(ErrorKind::IsADirectory, format!("{path} is a directory")))
            }
            Content::Symlink(_) => {
                Err(Error::new(ErrorKind::FilesystemLoop, format!("{path} is a symbolic link")))
            }
            _ if mode.writes() => Err(read_only()),
            _ => {
                let (version, tree, path) = (self.version.clone(), self.name.clone(), path.clone());
                Ok(Arc::new(SnapshotFile { version, entry, tree, path }))
            }
        }
    }

    async fn read_link(&self, path: &TreePath) -> Result<Bytes> {
        if let Content::Symlink(target) = self.version.entry(path).await?.content {
            return Ok(target);
        }
        Err(Error::new(ErrorKind::InvalidInput, format!("{path} isn't a symbolic link")))
    }

    fn by_number(&self) -> Option<&SnapshotTree> {
        Some(self)
    }
}

/// A file of a version.
struct SnapshotFile {
    version: Version,
    entry: snapshot::Entry,
    /// What the version is called in messages.
    tree: Arc<str>,
    path: TreePath,
}

#[async_trait]
impl File for SnapshotFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let range = offset..offset.saturating_add(len as u64);
        let read = self.version.read_content(&self.entry.content, range).await;
        read.map_err(|error| unreadable(&self.tree, self.path.as_bytes(), error))
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(attr_of(&self.entry))
    }

    fn page_cache(&self) -> PageCache {
        PageCache::Keep
    }
}

/// What the kernel is told: the permissions as they were captured. Whoever mounts a version may read
/// all of it, and nothing in it lends anybody's identity.
fn attr_of(entry: &snapshot::Entry) -> Attr {
    let (size, mtime) = (entry.content.len(), entry.mtime.to_system());
    let permissions = entry.mode & 0o777;
    match entry.content {
        Content::Directory => Attr { mode: permissions | 0o500, ..Attr::dir(mtime, TTL) },
        Content::Symlink(_) => Attr::symlink(size, mtime, TTL),
        Content::Inline(_) | Content::Frame { .. } | Content::Runs { .. } => {
            Attr { mode: permissions | 0o400, ..Attr::file(size, mtime, TTL) }
        }
    }
}
