//! A tree in memory: a real file system for tests, and the model that other trees are held to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use self::node::{Content, Node};
use self::state::State;
use super::{
    Attr, Entry, File, FileType, NewNode, OpenMode, Opened, RenameMode, SetAttr, Space, Tree,
    XattrMode,
};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;

mod node;
mod state;

/// A read-write tree in memory, as POSIX has it, without permission checks.
///
/// It keeps hard links, devices and extended attributes, and open files outlive their names.
/// Clones share one tree.
#[derive(Clone, Default)]
pub struct MemoryTree {
    /// Guards everything; held for the length of one operation, never across an await.
    state: Arc<Mutex<State>>,
}

impl MemoryTree {
    /// Makes a tree with an empty root.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn opened(&self, state: &mut State, ino: u64, mode: OpenMode) -> Arc<dyn File> {
        state.node_mut(ino).opened += 1;
        Arc::new(MemoryFile { state: Arc::clone(&self.state), ino, mode })
    }
}

#[async_trait]
impl Tree for MemoryTree {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        let state = self.state();
        Ok(state.attr(state.find(path)?))
    }

    fn list(&self, dir: &TreePath) -> BoxStream<'static, Result<Entry>> {
        let listed = self.state().entries(dir);
        match listed {
            Ok(entries) => stream::iter(entries.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn File>> {
        let mut state = self.state();
        let ino = state.find(path)?;
        let node = state.node_mut(ino);
        match &node.content {
            Content::File(_) => {}
            Content::Directory(_) => return Err(of(ErrorKind::IsADirectory, path)),
            Content::Symlink(_) => return Err(of(ErrorKind::FilesystemLoop, path)),
            Content::Special(_) => return Err(of(ErrorKind::InvalidInput, path)),
        }
        if mode.truncate {
            node.resize(0)?;
        }
        Ok(self.opened(&mut state, ino, mode))
    }

    async fn create(&self, path: &TreePath, new: NewNode, mode: OpenMode) -> Result<Opened> {
        let mut state = self.state();
        let ino = state.insert(path, Node::new(new, Content::File(Vec::new())))?;
        Ok(Opened { attr: state.attr(ino), file: self.opened(&mut state, ino, mode) })
    }

    async fn create_dir(&self, path: &TreePath, new: NewNode) -> Result<Attr> {
        let mut state = self.state();
        let ino = state.insert(path, Node::new(new, Content::Directory(BTreeMap::new())))?;
        Ok(state.attr(ino))
    }

    async fn create_node(
        &self,
        path: &TreePath,
        new: NewNode,
        file_type: FileType,
        rdev: u64,
    ) -> Result<Attr> {
        let content = match file_type {
            FileType::File => Content::File(Vec::new()),
            FileType::Directory | FileType::Symlink => {
                return Err(of(ErrorKind::InvalidInput, path));
            }
            other => Content::Special(other),
        };
        let rdev = match file_type {
            FileType::CharDevice | FileType::BlockDevice => rdev,
            _ => 0,
        };
        let mut state = self.state();
        let ino = state.insert(path, Node { rdev, ..Node::new(new, content) })?;
        Ok(state.attr(ino))
    }

    async fn symlink(&self, path: &TreePath, target: &[u8], new: NewNode) -> Result<Attr> {
        let new = NewNode { mode: 0o777, ..new };
        let mut state = self.state();
        state.new_place(path)?;
        match target.len() {
            0 => return Err(of(ErrorKind::NotFound, path)),
            4096.. => return Err(of(ErrorKind::NameTooLong, path)),
            _ => {}
        }
        let content = Content::Symlink(Bytes::copy_from_slice(target));
        let ino = state.insert(path, Node::new(new, content))?;
        Ok(state.attr(ino))
    }

    async fn link(&self, path: &TreePath, new_path: &TreePath) -> Result<Attr> {
        self.state().link(path, new_path)
    }

    async fn remove_file(&self, path: &TreePath) -> Result<()> {
        self.state().remove_file(path)
    }

    async fn remove_dir(&self, path: &TreePath) -> Result<()> {
        self.state().remove_dir(path)
    }

    async fn rename(&self, from: &TreePath, to: &TreePath, mode: RenameMode) -> Result<()> {
        self.state().rename(from, to, mode)
    }

    async fn set_attr(&self, path: &TreePath, changes: SetAttr) -> Result<Attr> {
        let mut state = self.state();
        let ino = state.find(path)?;
        state.node_mut(ino).change(changes)?;
        Ok(state.attr(ino))
    }

    async fn read_link(&self, path: &TreePath) -> Result<Bytes> {
        let state = self.state();
        match &state.node(state.find(path)?).content {
            Content::Symlink(target) => Ok(target.clone()),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("{path} isn't a symbolic link"))),
        }
    }

    async fn xattr(&self, path: &TreePath, name: &[u8]) -> Result<Bytes> {
        let state = self.state();
        state.node(state.find(path)?).xattr(name)
    }

    async fn xattrs(&self, path: &TreePath) -> Result<Vec<Bytes>> {
        let state = self.state();
        Ok(state.node(state.find(path)?).xattrs.keys().cloned().collect())
    }

    async fn set_xattr(
        &self,
        path: &TreePath,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        let mut state = self.state();
        let ino = state.find(path)?;
        state.node_mut(ino).set_xattr(name, value, mode)
    }

    async fn remove_xattr(&self, path: &TreePath, name: &[u8]) -> Result<()> {
        let mut state = self.state();
        let ino = state.find(path)?;
        state.node_mut(ino).remove_xattr(name)
    }

    async fn space(&self, path: &TreePath) -> Result<Space> {
        let state = self.state();
        state.find(path)?;
        Ok(state.space())
    }
}

/// An open file of a [`MemoryTree`]; its node lives until the last of these is dropped.
struct MemoryFile {
    state: Arc<Mutex<State>>,
    ino: u64,
    mode: OpenMode,
}

impl MemoryFile {
    fn writable(&self) -> Result<()> {
        if self.mode.write || self.mode.append {
            return Ok(());
        }
        Err(Error::new(ErrorKind::BadDescriptor, "the file isn't open for writing"))
    }
}

#[async_trait]
impl File for MemoryFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if !self.mode.read {
            return Err(Error::new(ErrorKind::BadDescriptor, "the file isn't open for reading"));
        }
        let state = lock(&self.state);
        let bytes = state.node(self.ino).bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(len).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[start..end]))
    }

    async fn stat(&self) -> Result<Attr> {
        Ok(lock(&self.state).attr(self.ino))
    }

    async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.writable()?;
        let mut state = lock(&self.state);
        let node = state.node_mut(self.ino);
        let offset = if self.mode.append { node.bytes().len() as u64 } else { offset };
        node.write(offset, bytes)
    }

    async fn set_attr(&self, changes: SetAttr) -> Result<Attr> {
        if changes.size.is_some() && self.writable().is_err() {
            return Err(Error::new(ErrorKind::InvalidInput, "the file isn't open for writing"));
        }
        let mut state = lock(&self.state);
        state.node_mut(self.ino).change(changes)?;
        Ok(state.attr(self.ino))
    }

    async fn allocate(&self, offset: u64, len: u64, mode: u32) -> Result<()> {
        self.writable()?;
        lock(&self.state).node_mut(self.ino).allocate(offset, len, mode)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.node_mut(self.ino).opened -= 1;
        state.forget_if_unused(self.ino);
    }
}

/// A panic in another operation leaves the tree usable: each changes it in one go.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error about an entry, in the words of its kind.
fn of(kind: ErrorKind, path: &TreePath) -> Error {
    let words = match kind {
        ErrorKind::NotFound => "isn't there",
        ErrorKind::AlreadyExists => "is there already",
        ErrorKind::NotADirectory => "isn't a directory",
        ErrorKind::IsADirectory => "is a directory",
        ErrorKind::DirectoryNotEmpty => "isn't empty",
        ErrorKind::FilesystemLoop => "is a symbolic link",
        ErrorKind::NameTooLong => "is too long a name",
        ErrorKind::ResourceBusy => "is in use",
        ErrorKind::NotPermitted => "can't have this done to it",
        _ => "isn't fit for this",
    };
    Error::new(kind, format!("{path} {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Owner;

    const NEW: NewNode = NewNode { mode: 0o755, owner: Owner { uid: 1000, gid: 1000 } };
    const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    #[tokio::test]
    async fn an_open_file_outlives_its_name() {
        let tree = MemoryTree::new();
        let opened = tree.create(&path("a"), NEW, WRITE).await.unwrap();
        tree.remove_file(&path("a")).await.unwrap();
        opened.file.write_at(0, b"still here").await.unwrap();
        assert_eq!(&opened.file.read_at(0, 99).await.unwrap()[..], b"still here");
        assert_eq!(opened.file.stat().await.unwrap().nlink, 0);
        drop(opened);
        assert_eq!(tree.space(&TreePath::root()).await.unwrap().files_free, 999_999);
    }

    #[tokio::test]
    async fn a_directory_that_moves_carries_what_is_in_it() {
        let tree = MemoryTree::new();
        tree.create_dir(&path("a"), NEW).await.unwrap();
        tree.create(&path("a/x"), NEW, WRITE).await.unwrap();
        tree.rename(&path("a"), &path("b"), RenameMode::Replace).await.unwrap();
        assert!(tree.stat(&path("b/x")).await.is_ok());
        let inside = tree.rename(&path("b"), &path("b/c"), RenameMode::Replace).await.unwrap_err();
        assert_eq!(inside.kind(), ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn entries_of_a_set_group_id_directory_inherit_its_group() {
        let tree = MemoryTree::new();
        let group = NewNode { mode: 0o2775, owner: Owner { uid: 1, gid: 7 } };
        tree.create_dir(&path("shared"), group).await.unwrap();
        let below = tree.create_dir(&path("shared/below"), NEW).await.unwrap();
        assert_eq!((below.owner, below.mode), (Some(Owner { uid: 1000, gid: 7 }), 0o2755));
    }
}
