//! What every tree promises, and the suites that hold each one to it.
//!
//! [`reads`] wants a tree that holds the [`sample`], [`refuses`] the same of one that can't be
//! written, [`writes`] an empty tree that can.

use std::sync::Arc;

use atelier::chunk::Packs;
use atelier::error::{ErrorKind, Result};
use atelier::object::memory::MemoryStore;
use atelier::path::TreePath;
use atelier::snapshot::{Capture, Version};
use atelier::tree::local::LocalTree;
use atelier::tree::memory::MemoryTree;
use atelier::tree::snapshot::SnapshotTree;
use atelier::tree::{Attr, Entry, NewNode, OpenMode, Owner, Tree};
use futures_util::TryStreamExt as _;

mod reads;
mod refuses;
mod same;
mod sample;
mod writes;

pub(crate) use reads::reads;
pub(crate) use refuses::refuses;
pub(crate) use sample::{Holds, sample};
pub(crate) use writes::writes;

/// Opened to be read and written.
const READ_WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_tree_reads() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path(), Holds::EVERYTHING);
    reads(Arc::new(LocalTree::open(dir.path()).unwrap()), Holds::EVERYTHING).await;
}

#[tokio::test]
async fn a_local_tree_writes() {
    let dir = tempfile::tempdir().unwrap();
    writes(Arc::new(LocalTree::open(dir.path()).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_in_memory_reads() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path(), Holds::EVERYTHING);
    let tree = MemoryTree::new();
    copy(&LocalTree::open(dir.path()).unwrap(), &tree, TreePath::root()).await;
    reads(Arc::new(tree), Holds::EVERYTHING).await;
}

#[tokio::test]
async fn a_tree_in_memory_writes() {
    writes(Arc::new(MemoryTree::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_reads_and_refuses() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path(), Holds::EVERYTHING);
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let captured =
        Capture::new().directory(TreePath::root(), dir.path()).run(&packs).await.unwrap();
    let version = Version::open(packs, captured.root).await.unwrap();
    let tree = Arc::new(SnapshotTree::new(version));
    reads(tree.clone(), Holds::EVERYTHING).await;
    refuses(tree).await;
}

/// The smallest read-only tree: three operations, and the defaults for the rest.
struct Frozen(MemoryTree);

#[async_trait::async_trait]
impl Tree for Frozen {
    async fn stat(&self, path: &TreePath) -> Result<Attr> {
        self.0.stat(path).await
    }

    fn list(&self, dir: &TreePath) -> futures_util::stream::BoxStream<'static, Result<Entry>> {
        self.0.list(dir)
    }

    async fn open(&self, path: &TreePath, mode: OpenMode) -> Result<Arc<dyn atelier::tree::File>> {
        if mode.writes() {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(Arc::new(FrozenFile(self.0.open(path, mode).await?)))
    }
}

struct FrozenFile(Arc<dyn atelier::tree::File>);

#[async_trait::async_trait]
impl atelier::tree::File for FrozenFile {
    async fn read_at(&self, offset: u64, len: usize) -> Result<bytes::Bytes> {
        self.0.read_at(offset, len).await
    }

    async fn stat(&self) -> Result<Attr> {
        self.0.stat().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_implements_three_operations_refuses_the_others() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path(), Holds::OBJECTS);
    let tree = MemoryTree::new();
    copy(&LocalTree::open(dir.path()).unwrap(), &tree, TreePath::root()).await;
    let tree = Arc::new(Frozen(tree));
    reads(tree.clone(), Holds::OBJECTS).await;
    refuses(tree).await;
}

/// Copies a directory from one tree to another.
async fn copy(from: &dyn Tree, to: &dyn Tree, dir: TreePath) {
    for entry in list(from, &dir).await.unwrap() {
        let path = dir.join(&entry.name).unwrap();
        let new = NewNode { mode: entry.attr.mode, owner: me() };
        match entry.attr.file_type {
            atelier::tree::FileType::Directory => {
                to.create_dir(&path, new).await.unwrap();
                Box::pin(copy(from, to, path)).await;
            }
            atelier::tree::FileType::Symlink => {
                let target = from.read_link(&path).await.unwrap();
                to.symlink(&path, &target, new).await.unwrap();
            }
            _ => {
                let bytes = contents(from, &path).await.unwrap();
                let made = to.create(&path, new, READ_WRITE).await.unwrap();
                made.file.write_at(0, &bytes).await.unwrap();
            }
        }
    }
}

/// Who runs the tests.
fn me() -> Owner {
    let uid = rustix::process::geteuid().as_raw();
    Owner { uid, gid: rustix::process::getegid().as_raw() }
}

fn path(text: impl AsRef<[u8]>) -> TreePath {
    TreePath::parse(text).unwrap()
}

async fn list(tree: &dyn Tree, dir: &TreePath) -> Result<Vec<Entry>> {
    tree.list(dir).try_collect().await
}

async fn contents(tree: &dyn Tree, path: &TreePath) -> Result<bytes::Bytes> {
    tree.open(path, OpenMode::READ).await?.read_at(0, usize::MAX).await
}

/// The kind of a failure.
#[track_caller]
fn failure<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("this should have failed"),
        Err(error) => error.kind(),
    }
}
