//! The `secrets/` directory: environment files as they are in the catalogue, in ciphertext.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::{Attr, Entry, File, OpenMode, Tree};
use crate::catalog::{Catalog, Environment, Kind, Project, Shown};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

/// What the name of each file ends in; `sops` chooses the format by it.
const SUFFIX: &str = ".env";

/// How long the kernel may keep an answer: a secret that is set elsewhere shows within a second.
const TTL: Duration = Duration::from_millis(500);

/// A project's environment files. No key and no plaintext ever comes here.
#[derive(Clone, Debug)]
pub struct SecretsTree {
    catalog: Catalog,
    project: Project,
}

impl SecretsTree {
    /// Serves the environment files of `project` as the user of `catalog` may see them.
    pub fn new(catalog: Catalog, project: Project) -> Self {
        Self { catalog, project }
    }

    async fn shown(&self) -> Result<Vec<Shown>> {
        let mut shown = self.catalog.resources(&self.project, Kind::Secret).await?;
        shown.retain(|shown| shown.active);
        Ok(shown)
    }

    /// The resource behind a path that isn't the root.
    async fn find(&self, path: &TreePath) -> Result<Shown> {
        let missing = || Error::new(ErrorKind::NotFound, format!("secrets holds no {path}"));
        let (name, below) = path.split_first().ok_or_else(missing)?;
        let name = name.strip_suffix(SUFFIX.as_bytes()).ok_or_else(missing)?;
        let mut shown = self.shown().await?.into_iter();
        let found = shown.find(|shown| shown.name.as_bytes() == name).ok_or_else(missing)?;
        if !below.is_root() {
            let message = format!("{}{SUFFIX} isn't a directory", found.name);
            return Err(Error::new(ErrorKind::NotADirectory, message));
        }
        Ok(found)
    }

    async fn environment(&self, shown: &Shown) -> Result<Environment> {
        self.catalog.environment(&self.project, &shown.name).await
    }

    /// The attributes of a file, also for a user who may know of it but not read it.
    async fn attr(&self, shown: &Shown) -> Result<Attr> {
        match self.environment(shown).await {
            Ok(environment) => Ok(attr_of(&environment)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let modified = system_time(shown.resource.modified);
                Ok(Attr { mode: 0, ..Attr::file(0, modified, TTL) })
            }
            Err(error) => Err(error),
        }
    }

    async fn entries(self, dir: TreePath) -> Result<Vec<Entry>> {
        if !dir.is_root() {
            self.find(&dir).await?;
            return Err(Error::new(ErrorKind::NotADirectory, format!("{dir} isn't a directory")));
        }
        let mut entries = Vec::new();
        for shown in self.shown().await? {
            match self.attr(&shown).await {
                Ok(attr) => {
                    entries.push(Entry { name: format!("{}{SUFFIX}", shown.name).into(), attr });
                }
                // It was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }
}

#[async_trait]
impl Tree for SecretsTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        if !path.is_root() {
            return self.attr(&self.find(path).await?).await;
        }
        let newest = self.shown().await?.iter().map(|shown| shown.resource.modified).max();
        Ok(Attr::dir(system_time(newest.unwrap_or(self.project.created)), TTL))
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        let entries = self.clone().entries(dir.clone());
        stream::once(entries)
            .map_ok(|entries| stream::iter(entries.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        if path.is_root() {
            return Err(Error::new(ErrorKind::IsADirectory, "secrets is a directory"));
        }
        let shown = self.find(path).await?;
        if mode.writes() {
            let message = format!("{path} can't be written through the mount");
            return Err(Error::new(ErrorKind::ReadOnlyFilesystem, message)
                .with_hint("`atelier secret set` changes it"));
        }
        let environment = self.environment(&shown).await?;
        Ok(Arc::new(Body { attr: attr_of(&environment), bytes: environment.body.into() }))
    }
}

/// An open environment file: the ciphertext as it was when it was opened.
struct Body {
    attr: Attr,
    bytes: Bytes,
}

#[async_trait]
impl File for Body {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = start.saturating_add(len).min(self.bytes.len());
        Ok(self.bytes.slice(start..end))
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(self.attr.clone())
    }
}

fn attr_of(environment: &Environment) -> Attr {
    let modified = system_time(environment.resource.modified);
    Attr::file(environment.body.len() as u64, modified, TTL)
}

/// A time of the catalogue for the kernel; the epoch where the system's clock can't tell it.
fn system_time(time: Timestamp) -> SystemTime {
    time.try_into().unwrap_or(SystemTime::UNIX_EPOCH)
}
