//! The `secrets/` directory: environment files as they are in the catalogue, in ciphertext.
//!
//! They can be written as `sops` does it: a file is kept back until it is whole, checked as far as
//! it can be without a key, and published by compare-and-set when it is whole. Whatever isn't a
//! whole encrypted file is refused.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use self::served::Served;
use self::writing::{Writers, Writing};
use super::{
    Attr, Entry, File, FileType, NewNode, OpenMode, Opened, PageCache, RenameMode, SetAttr, Tree,
    XattrMode,
};
use crate::catalog::{self, Catalog, Environment, Kind, Project, Role, Shown};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

mod served;
mod writing;

/// What the name of each file ends in; `sops` chooses the format by it.
const SUFFIX: &str = ".env";

/// How long the kernel may keep an answer: a secret that is set elsewhere shows within a second.
const TTL: Duration = Duration::from_millis(500);

/// A project's environment files. No key and no plaintext ever comes here.
#[derive(Clone, Debug)]
pub struct SecretsTree {
    catalog: Catalog,
    project: Project,
    /// How many files may still be opened to be written.
    room: Arc<Semaphore>,
    served: Arc<Served>,
    writers: Arc<Writers>,
}

impl SecretsTree {
    /// Serves the environment files of `project` as the user of `catalog` may see them.
    pub fn new(catalog: Catalog, project: Project) -> Self {
        let (room, served, writers) = (writing::room(), Arc::default(), Arc::default());
        Self { catalog, project, room, served, writers }
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
        let environment = self.environment(&shown).await?;
        if !mode.writes() {
            return Ok(self.served.note(environment));
        }
        if shown.added {
            let message = format!("{path} belongs to {}", shown.resource.owner);
            return Err(Error::new(ErrorKind::NotPermitted, message)
                .with_hint("it can't be edited, only copied: `atelier secret copy`"));
        }
        let present = Some(&environment);
        Ok(Writing::begin(self, &shown.name, present, mode.truncate, mode.append)?)
    }

    /// Begins a new environment file, which is there once it is written and closed.
    async fn create(&self, path: &TreePath, _new: NewNode, mode: OpenMode) -> Result<Opened> {
        match self.find(path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => {
                let message = format!("{path} is there already");
                return other.and(Err(Error::new(ErrorKind::AlreadyExists, message)));
            }
        }
        let name = new_name(path)?;
        if self.catalog.role_on(&self.project).await? < Some(Role::Developer) {
            let message = format!("{path} can't be made: it takes the role developer");
            return Err(Error::new(ErrorKind::PermissionDenied, message));
        }
        let file = Writing::begin(self, name, None, false, mode.append)?;
        Ok(Opened { attr: file.attr(), file })
    }

    async fn create_dir(&self, path: &TreePath, _new: NewNode) -> Result<Attr> {
        Err(refused(path, "be no directory"))
    }

    async fn create_node(
        &self,
        path: &TreePath,
        _new: NewNode,
        _file_type: FileType,
        _rdev: u64,
    ) -> Result<Attr> {
        Err(refused(path, "only be a regular file"))
    }

    async fn symlink(&self, path: &TreePath, _target: &[u8], _new: NewNode) -> Result<Attr> {
        Err(refused(path, "be no symbolic link"))
    }

    async fn link(&self, path: &TreePath, _new_path: &TreePath) -> Result<Attr> {
        Err(refused(path, "have no second name"))
    }

    async fn remove_file(&self, path: &TreePath) -> Result<()> {
        self.find(path).await?;
        Err(refused(path, "only be deleted by `atelier secret delete`"))
    }

    async fn remove_dir(&self, path: &TreePath) -> Result<()> {
        self.find(path).await?;
        Err(Error::new(ErrorKind::NotADirectory, format!("{path} isn't a directory")))
    }

    async fn rename(&self, from: &TreePath, _to: &TreePath, _mode: RenameMode) -> Result<()> {
        self.find(from).await?;
        Err(refused(from, "not be renamed"))
    }

    /// Empties what was just opened to be written, and nothing else: `open(2)` with `O_TRUNC` comes
    /// as two requests, and the second doesn't say which open file is meant. So all of them are
    /// emptied, as they were on any disk: one that isn't would publish at its close only.
    async fn set_attr(&self, path: &TreePath, changes: SetAttr) -> Result<Attr> {
        let empties =
            matches!(changes, SetAttr { size: Some(0), mode: None, uid: None, gid: None, .. });
        let just_opened = match new_name(path) {
            Ok(name) if empties => self.writers.just_opened(name),
            _ => Vec::new(),
        };
        let mut emptied = None;
        for writing in just_opened {
            emptied = Some(writing.empty());
        }
        emptied.ok_or_else(|| refused(path, "only be written as a whole"))
    }

    async fn set_xattr(
        &self,
        path: &TreePath,
        _name: &[u8],
        _value: &[u8],
        _mode: XattrMode,
    ) -> Result<()> {
        Err(refused(path, "have no attributes"))
    }

    async fn remove_xattr(&self, path: &TreePath, _name: &[u8]) -> Result<()> {
        Err(refused(path, "have no attributes"))
    }
}

/// The name of the environment file that a path would make.
fn new_name(path: &TreePath) -> Result<&str> {
    let mut names = path.names();
    let name = names.next().filter(|_| names.next().is_none());
    name.and_then(|name| str::from_utf8(name).ok()?.strip_suffix(SUFFIX))
        .filter(|name| catalog::name::check_resource(Kind::Secret, name).is_ok())
        .ok_or_else(|| refused(path, "not be the name of an environment file"))
}

/// What is said to whoever does with an environment file as with any other.
fn refused(path: impl std::fmt::Display, what: &str) -> Error {
    Error::new(ErrorKind::NotPermitted, format!("{path} can {what}"))
        .with_hint("secrets/ holds encrypted files named NAME.env, and nothing else")
}

/// The part of `bytes` that a read of `len` at `offset` is given.
fn clip(bytes: &[u8], offset: u64, len: usize) -> Range<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    start..start.saturating_add(len).min(bytes.len())
}

/// An open environment file: the ciphertext as it was when it was opened. All who have a version
/// open share it.
#[derive(Debug)]
struct Body {
    attr: Attr,
    bytes: Bytes,
}

#[async_trait]
impl File for Body {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        Ok(self.bytes.slice(clip(&self.bytes, offset, len)))
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(self.attr.clone())
    }

    /// Each open file is the version that was opened, so none may show the pages of another.
    fn page_cache(&self) -> PageCache {
        PageCache::Never
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
