//! A tree that holds no more than it may, and counts right whatever is done to its files.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atelier::error::ErrorKind;
use atelier::path::TreePath;
use atelier::tree::local::LocalTree;
use atelier::tree::memory::MemoryTree;
use atelier::tree::quota::QuotaTree;
use atelier::tree::{File, NewNode, OpenMode, Owner, RenameMode, SetAttr, Tree};
use futures_util::TryStreamExt as _;
use proptest::prelude::*;

use crate::tree_contract::writes;

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };
const APPEND: OpenMode = OpenMode { read: true, write: true, append: true, truncate: false };
const TRUNCATE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: true };

fn path(name: &str) -> TreePath {
    TreePath::parse(name).unwrap()
}

fn new() -> NewNode {
    let uid = rustix::process::geteuid().as_raw();
    NewNode { mode: 0o644, owner: Owner { uid, gid: rustix::process::getegid().as_raw() } }
}

fn len(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..SetAttr::default() }
}

async fn make(tree: &QuotaTree, name: &str) -> Arc<dyn File> {
    tree.create(&path(name), new(), READ_WRITE).await.unwrap().file
}

async fn full(tree: &QuotaTree) -> bool {
    tree.space(&TreePath::root()).await.unwrap().free == 0
}

#[tokio::test]
async fn it_promises_to_writers_what_every_tree_does() {
    let dir = tempfile::tempdir().unwrap();
    let local = Arc::new(LocalTree::open(dir.path()).unwrap());
    writes(Arc::new(QuotaTree::over(local, u64::MAX / 2).await.unwrap())).await;
    writes(Arc::new(QuotaTree::over(Arc::new(MemoryTree::new()), u64::MAX / 2).await.unwrap()))
        .await;
}

#[tokio::test]
async fn the_last_byte_fits_and_the_next_does_not() {
    let tree = QuotaTree::over(Arc::new(MemoryTree::new()), 10_000).await.unwrap();
    let file = make(&tree, "file").await;
    file.write_at(0, &[1; 9999]).await.unwrap();
    file.write_at(9999, &[1]).await.unwrap();
    assert!(full(&tree).await);
    let refused = |result: atelier::error::Result<()>| result.unwrap_err().kind();
    assert_eq!(refused(file.write_at(10_000, &[1]).await), ErrorKind::StorageFull);
    assert_eq!(refused(file.write_at(9000, &[2; 1001]).await), ErrorKind::StorageFull);
    assert_eq!(file.read_at(9000, 2000).await.unwrap(), vec![1; 1000], "nothing is half written");
    file.write_at(9000, &[2; 1000]).await.unwrap();
    let other = make(&tree, "other").await;
    assert_eq!(refused(other.set_attr(len(1)).await.map(drop)), ErrorKind::StorageFull);
    assert_eq!(refused(other.allocate(0, 1, 0).await), ErrorKind::StorageFull);
    let longer = tree.set_attr(&path("other"), len(1)).await;
    assert_eq!(refused(longer.map(drop)), ErrorKind::StorageFull);
    file.set_attr(len(4000)).await.unwrap();
    // A sparse file counts for its length, so that its pages always have their room.
    other.set_attr(len(6000)).await.unwrap();
    other.write_at(3000, b"in the hole").await.unwrap();
    assert!(full(&tree).await);
    let space = tree.space(&TreePath::root()).await.unwrap();
    assert_eq!((space.total, space.available), (10_000, 0));
}

#[tokio::test]
async fn what_was_there_before_counts_once_for_all_its_names() {
    let inner = MemoryTree::new();
    let made = inner.create(&path("file"), new(), READ_WRITE).await.unwrap();
    made.file.write_at(0, &[1; 100]).await.unwrap();
    inner.create_dir(&path("dir"), new()).await.unwrap();
    inner.link(&path("file"), &path("dir/second")).await.unwrap();
    inner.symlink(&path("dir/link"), b"second", new()).await.unwrap();
    let tree = QuotaTree::over(Arc::new(inner), 1000).await.unwrap();
    assert_eq!(tree.used(), 100);
    tree.remove_file(&path("file")).await.unwrap();
    assert_eq!(tree.used(), 100);
    tree.remove_file(&path("dir/second")).await.unwrap();
    assert_eq!(tree.used(), 0);
}

/// As the kernel does it: what a program removed is closed a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_a_moment_for_what_is_about_to_be_closed() {
    let tree = QuotaTree::over(Arc::new(MemoryTree::new()), 1000).await.unwrap();
    let file = make(&tree, "file").await;
    file.write_at(0, &[1; 1000]).await.unwrap();
    tree.remove_file(&path("file")).await.unwrap();
    assert_eq!(tree.used(), 1000, "an open file keeps its room");
    let other = make(&tree, "other").await;
    let closing = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(file);
    });
    other.write_at(0, &[2; 1000]).await.unwrap();
    closing.await.unwrap();
    tree.remove_file(&path("other")).await.unwrap();
    let third = make(&tree, "third").await;
    assert_eq!(third.write_at(0, &[3]).await.unwrap_err().kind(), ErrorKind::StorageFull);
}

#[tokio::test]
async fn what_is_sealed_is_read_and_not_changed() {
    let tree = QuotaTree::over(Arc::new(MemoryTree::new()), 1000).await.unwrap();
    let file = make(&tree, "file").await;
    file.write_at(0, b"as it was").await.unwrap();
    tree.seal();
    let kind = |result: atelier::error::Result<()>| result.unwrap_err().kind();
    let sealed = ErrorKind::ReadOnlyFilesystem;
    assert_eq!(kind(file.write_at(0, b"x").await), sealed);
    assert_eq!(kind(file.set_attr(len(0)).await.map(drop)), sealed);
    assert_eq!(kind(tree.open(&path("file"), TRUNCATE).await.map(drop)), sealed);
    assert_eq!(kind(tree.create(&path("new"), new(), READ_WRITE).await.map(drop)), sealed);
    assert_eq!(kind(tree.remove_file(&path("file")).await), sealed);
    assert_eq!(kind(tree.rename(&path("file"), &path("b"), RenameMode::Replace).await), sealed);
    let read = tree.open(&path("file"), OpenMode::READ).await.unwrap();
    assert_eq!(read.read_at(0, 100).await.unwrap(), "as it was");
}

#[derive(Clone, Debug)]
enum Operation {
    Create(u8),
    Open(u8, OpenMode),
    Close(usize),
    Write(usize, u16, u16),
    Cut(usize, u16),
    CutByName(u8, u16),
    Allocate(usize, u16, u16, u32),
    Link(u8, u8),
    Remove(u8),
    Rename(u8, u8, RenameMode),
}

fn operation() -> impl Strategy<Value = Operation> {
    let (name, handle) = (0..4_u8, 0..4_usize);
    let (offset, len) = (0..3000_u16, 0..2000_u16);
    let modes = prop_oneof![Just(READ_WRITE), Just(APPEND), Just(TRUNCATE), Just(OpenMode::READ)];
    let renames = prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        1 => Just(RenameMode::Exchange)
    ];
    // Plain, keeping the length, punching a hole.
    let allocations = prop_oneof![Just(0_u32), Just(1), Just(3)];
    prop_oneof![
        2 => name.clone().prop_map(Operation::Create),
        2 => (name.clone(), modes).prop_map(|(name, mode)| Operation::Open(name, mode)),
        1 => handle.clone().prop_map(Operation::Close),
        4 => (handle.clone(), offset.clone(), len.clone())
            .prop_map(|(handle, offset, len)| Operation::Write(handle, offset, len)),
        1 => (handle.clone(), len.clone()).prop_map(|(handle, len)| Operation::Cut(handle, len)),
        1 => (name.clone(), len.clone()).prop_map(|(name, len)| Operation::CutByName(name, len)),
        1 => (handle, offset, len, allocations)
            .prop_map(|(handle, offset, len, mode)| Operation::Allocate(handle, offset, len, mode)),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Operation::Link(from, to)),
        1 => name.clone().prop_map(Operation::Remove),
        2 => (name.clone(), name, renames)
            .prop_map(|(from, to, mode)| Operation::Rename(from, to, mode)),
    ]
}

/// What there is, by looking: each file that has a name or is open, once.
async fn counted(inner: &dyn Tree, open: &[Arc<dyn File>]) -> u64 {
    let mut files = HashMap::new();
    let listed: Vec<_> = inner.list(&TreePath::root()).try_collect().await.unwrap();
    for entry in listed {
        files.insert(entry.attr.identity, entry.attr.size);
    }
    for file in open {
        let attr = file.stat().await.unwrap();
        files.insert(attr.identity, attr.size);
    }
    files.into_values().sum()
}

async fn apply(tree: &QuotaTree, open: &mut Vec<Arc<dyn File>>, operation: Operation) {
    let name = |n: u8| path(["a", "b", "c", "d"][usize::from(n)]);
    // Whether it succeeds doesn't matter: what is there afterwards is what counts.
    match operation {
        Operation::Create(n) => {
            open.extend(tree.create(&name(n), new(), READ_WRITE).await.map(|made| made.file));
        }
        Operation::Open(n, mode) => open.extend(tree.open(&name(n), mode).await),
        Operation::Close(handle) => {
            if handle < open.len() {
                open.swap_remove(handle);
            }
        }
        Operation::Write(handle, offset, len) => {
            if let Some(file) = open.get(handle) {
                let _ = file.write_at(offset.into(), &vec![1; len.into()]).await;
            }
        }
        Operation::Cut(handle, to) => {
            if let Some(file) = open.get(handle) {
                let _ = file.set_attr(len(to.into())).await;
            }
        }
        Operation::CutByName(n, to) => drop(tree.set_attr(&name(n), len(to.into())).await),
        Operation::Allocate(handle, offset, len, mode) => {
            if let Some(file) = open.get(handle) {
                let _ = file.allocate(offset.into(), len.into(), mode).await;
            }
        }
        Operation::Link(from, to) => drop(tree.link(&name(from), &name(to)).await),
        Operation::Remove(n) => drop(tree.remove_file(&name(n)).await),
        Operation::Rename(from, to, mode) => {
            drop(tree.rename(&name(from), &name(to), mode).await);
        }
    }
}

fn counts_right(
    inner: impl Fn() -> (Option<tempfile::TempDir>, Arc<dyn Tree>),
    operations: Vec<Operation>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_dir, inner) = inner();
        let tree = QuotaTree::over(inner.clone(), 1 << 20).await.unwrap();
        let mut open = Vec::new();
        for operation in operations {
            apply(&tree, &mut open, operation.clone()).await;
            assert_eq!(tree.used(), counted(&*inner, &open).await, "after {operation:?}");
        }
        open.clear();
        assert_eq!(tree.used(), counted(&*inner, &[]).await);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_done_in_memory_counts_right(operations in prop::collection::vec(operation(), 1..60)) {
        counts_right(|| (None, Arc::new(MemoryTree::new())), operations);
    }

    #[test]
    fn whatever_is_done_on_a_disk_counts_right(operations in prop::collection::vec(operation(), 1..60)) {
        let local = || {
            let dir = tempfile::tempdir().unwrap();
            let tree = LocalTree::open(dir.path()).unwrap();
            (Some(dir), Arc::new(tree) as Arc<dyn Tree>)
        };
        counts_right(local, operations);
    }
}
