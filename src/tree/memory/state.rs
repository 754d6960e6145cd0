//! All nodes of the tree in memory, and the operations on their names.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::node::{Content, Node};
use super::of;
use crate::error::{ErrorKind, Result};
use crate::path::TreePath;
use crate::tree::{Attr, Entry, Identity, NewNode, Owner, RenameMode, Space};

/// The inode of the root.
const ROOT: u64 = 1;

/// The longest name in bytes, as on most file systems (`NAME_MAX`).
const MAX_NAME_LEN: usize = 255;

/// The set-group-ID bit, which entries of a directory inherit.
const SET_GID: u32 = 0o2000;

/// Nodes by inode.
pub(super) struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl Default for State {
    fn default() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let new = NewNode { mode: 0o755, owner: Owner { uid, gid } };
        let root = Node { names: 1, ..Node::new(new, Content::Directory(BTreeMap::new())) };
        Self { nodes: HashMap::from([(ROOT, root)]), next: ROOT + 1 }
    }
}

impl State {
    /// The node of an inode that is named or open, and so is there.
    pub(super) fn node(&self, ino: u64) -> &Node {
        &self.nodes[&ino]
    }

    /// Like [`node`](Self::node), to change it.
    pub(super) fn node_mut(&mut self, ino: u64) -> &mut Node {
        self.nodes.get_mut(&ino).expect("a node that is named or open is kept")
    }

    pub(super) fn find(&self, path: &TreePath) -> Result<u64> {
        let mut ino = ROOT;
        for name in path.names() {
            ino = self.child(ino, name, path)?.ok_or_else(|| of(ErrorKind::NotFound, path))?;
        }
        Ok(ino)
    }

    pub(super) fn attr(&self, ino: u64) -> Attr {
        let node = self.node(ino);
        let (size, nlink) = match &node.content {
            Content::File(bytes) => (bytes.len(), node.names),
            Content::Symlink(target) => (target.len(), node.names),
            Content::Special(_) => (0, node.names),
            Content::Directory(children) => {
                let dirs = children.values().filter(|child| self.node(**child).is_dir()).count();
                (0, u32::try_from(dirs + 2).unwrap_or(u32::MAX))
            }
        };
        let size = size as u64;
        Attr {
            file_type: node.file_type(),
            size,
            blocks: size.div_ceil(512),
            mode: node.mode,
            nlink,
            owner: Some(node.owner),
            rdev: node.rdev,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
            identity: Some(Identity { device: 0, inode: ino }),
            version: None,
            ttl: Duration::from_secs(1),
        }
    }

    pub(super) fn entries(&self, dir: &TreePath) -> Result<Vec<Entry>> {
        let Content::Directory(children) = &self.node(self.find(dir)?).content else {
            return Err(of(ErrorKind::NotADirectory, dir));
        };
        let entry =
            |(name, ino): (&Bytes, &u64)| Entry { name: name.clone(), attr: self.attr(*ino) };
        Ok(children.iter().map(entry).collect())
    }

    /// Gives a new node its first name.
    pub(super) fn insert(&mut self, path: &TreePath, mut node: Node) -> Result<u64> {
        let (dir, name) = self.free_place(path)?;
        let parent = self.node(dir);
        if parent.mode & SET_GID != 0 {
            node.owner.gid = parent.owner.gid;
            if node.is_dir() {
                node.mode |= SET_GID;
            }
        }
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, node);
        self.name(dir, name, ino);
        Ok(ino)
    }

    pub(super) fn link(&mut self, path: &TreePath, new_path: &TreePath) -> Result<Attr> {
        if path.is_root() {
            return Err(of(ErrorKind::NotPermitted, path));
        }
        self.place(path)?;
        self.new_place(new_path)?;
        let ino = self.find(path)?;
        let (dir, name) = self.free_place(new_path)?;
        if self.node(ino).is_dir() {
            return Err(of(ErrorKind::NotPermitted, path));
        }
        self.name(dir, name, ino);
        self.node_mut(ino).ctime = std::time::SystemTime::now();
        Ok(self.attr(ino))
    }

    pub(super) fn remove_file(&mut self, path: &TreePath) -> Result<()> {
        let ino = self.find(path)?;
        if self.node(ino).is_dir() {
            return Err(of(ErrorKind::IsADirectory, path));
        }
        let (dir, name) = self.place(path)?;
        self.unname(dir, &name);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &TreePath) -> Result<()> {
        let (dir, name) = self.place(path)?;
        let ino = self.find(path)?;
        self.check_empty_dir(ino, path)?;
        self.unname(dir, &name);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: &TreePath,
        to: &TreePath,
        mode: RenameMode,
    ) -> Result<()> {
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        let source = self.find(from)?;
        let target = self.child(to_dir, &to_name, to)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(of(ErrorKind::AlreadyExists, to)),
            (RenameMode::Exchange, None) => return Err(of(ErrorKind::NotFound, to)),
            _ => {}
        }
        if from != to && is_above(from, to) {
            return Err(of(ErrorKind::InvalidInput, to));
        }
        if from != to && is_above(to, from) {
            return Err(match mode {
                RenameMode::Exchange => of(ErrorKind::InvalidInput, to),
                _ => of(ErrorKind::DirectoryNotEmpty, to),
            });
        }
        if target == Some(source) {
            // Two names of one file: rename(2) leaves both.
            return Ok(());
        }
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            self.unname_keeping(from_dir, &from_name);
            self.unname_keeping(to_dir, &to_name);
            self.name(from_dir, from_name, target);
            self.name(to_dir, to_name, source);
            return Ok(());
        }
        if let Some(target) = target {
            match (self.node(source).is_dir(), self.node(target).is_dir()) {
                (true, _) => self.check_empty_dir(target, to)?,
                (false, true) => return Err(of(ErrorKind::IsADirectory, to)),
                (false, false) => {}
            }
            self.unname(to_dir, &to_name);
        }
        self.unname_keeping(from_dir, &from_name);
        self.name(to_dir, to_name, source);
        Ok(())
    }

    /// Drops a node that has neither a name nor an open file.
    pub(super) fn forget_if_unused(&mut self, ino: u64) {
        let node = self.node(ino);
        if node.names == 0 && node.opened == 0 {
            self.nodes.remove(&ino);
        }
    }

    /// A place of 1 GiB and a million files.
    pub(super) fn space(&self) -> Space {
        let used: u64 = self.nodes.values().map(|node| node.bytes().len() as u64).sum();
        let (total, files) = (1 << 30, 1_000_000);
        let free = total - used.min(total);
        let files_free = files - (self.nodes.len() as u64).min(files);
        Space { total, free, available: free, files, files_free }
    }

    fn child(&self, dir: u64, name: &[u8], path: &TreePath) -> Result<Option<u64>> {
        let Content::Directory(children) = &self.node(dir).content else {
            return Err(of(ErrorKind::NotADirectory, path));
        };
        if name.len() > MAX_NAME_LEN {
            return Err(of(ErrorKind::NameTooLong, path));
        }
        Ok(children.get(name).copied())
    }

    /// The directory that `path` is in, which is there, and its name, which need not be.
    fn place(&self, path: &TreePath) -> Result<(u64, Bytes)> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(of(ErrorKind::ResourceBusy, path));
        };
        let dir = self.find(&parent)?;
        if !self.node(dir).is_dir() {
            return Err(of(ErrorKind::NotADirectory, path));
        }
        Ok((dir, Bytes::copy_from_slice(name)))
    }

    /// Like [`place`](Self::place), of something new, which the root can't be.
    pub(super) fn new_place(&self, path: &TreePath) -> Result<(u64, Bytes)> {
        if path.is_root() {
            return Err(of(ErrorKind::AlreadyExists, path));
        }
        self.place(path)
    }

    /// Like [`new_place`](Self::new_place), of a name that isn't taken.
    fn free_place(&self, path: &TreePath) -> Result<(u64, Bytes)> {
        let (dir, name) = self.new_place(path)?;
        match self.child(dir, &name, path)? {
            Some(_) => Err(of(ErrorKind::AlreadyExists, path)),
            None => Ok((dir, name)),
        }
    }

    fn check_empty_dir(&self, ino: u64, path: &TreePath) -> Result<()> {
        match &self.node(ino).content {
            Content::Directory(children) if children.is_empty() => Ok(()),
            Content::Directory(_) => Err(of(ErrorKind::DirectoryNotEmpty, path)),
            _ => Err(of(ErrorKind::NotADirectory, path)),
        }
    }

    fn name(&mut self, dir: u64, name: Bytes, ino: u64) {
        self.node_mut(ino).names += 1;
        let parent = self.node_mut(dir);
        if let Content::Directory(children) = &mut parent.content {
            children.insert(name, ino);
        }
        parent.touch();
    }

    /// Takes a name away and drops the node if it was the last.
    fn unname(&mut self, dir: u64, name: &[u8]) {
        if let Some(ino) = self.unname_keeping(dir, name) {
            self.forget_if_unused(ino);
        }
    }

    /// Takes a name away from a node that is about to get another.
    fn unname_keeping(&mut self, dir: u64, name: &[u8]) -> Option<u64> {
        let parent = self.node_mut(dir);
        let Content::Directory(children) = &mut parent.content else { return None };
        let ino = children.remove(name)?;
        parent.touch();
        let node = self.node_mut(ino);
        node.names -= 1;
        node.ctime = std::time::SystemTime::now();
        Some(ino)
    }
}

/// Whether `below` lies in the directory `path`, at any depth.
fn is_above(path: &TreePath, below: &TreePath) -> bool {
    below.as_bytes().strip_prefix(path.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
}
