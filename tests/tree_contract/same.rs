//! A local tree and a tree in memory do the same, whatever is asked of them.

use std::sync::Arc;

use atelier::error::ErrorKind;
use atelier::path::TreePath;
use atelier::tree::local::LocalTree;
use atelier::tree::memory::MemoryTree;
use atelier::tree::{
    Attr, File, FileType, NewNode, OpenMode, RenameMode, SetAttr, SetTime, Tree, XattrMode,
};
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

use super::{contents, list, me};

/// One thing to ask of a tree. Open files are named by their place in the list of those.
#[derive(Clone, Debug)]
enum Op {
    Stat(TreePath),
    List(TreePath),
    Open(TreePath, OpenMode),
    Create(TreePath, u32, OpenMode),
    CreateDir(TreePath, u32),
    CreateNode(TreePath, FileType),
    Symlink(TreePath, &'static str),
    ReadLink(TreePath),
    Link(TreePath, TreePath),
    RemoveFile(TreePath),
    RemoveDir(TreePath),
    Rename(TreePath, TreePath, RenameMode),
    SetAttr(TreePath, SetAttr),
    SetXattr(TreePath, &'static str, Vec<u8>, XattrMode),
    RemoveXattr(TreePath, &'static str),
    Read(usize, u64, usize),
    Write(usize, u64, Vec<u8>),
    SetFileAttr(usize, SetAttr),
    StatFile(usize),
    Close(usize),
}

/// What came of it, as far as both must agree.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Attr(Seen),
    Names(Vec<(Vec<u8>, Seen)>),
    Bytes(Vec<u8>),
    Failed(ErrorKind),
}

/// Attributes that both keep alike: a directory's size and links are each file system's own.
type Seen = (FileType, u32, u64, u32, u64);

fn seen(attr: &Attr) -> Seen {
    let (size, nlink) = if attr.is_dir() { (0, 0) } else { (attr.size, attr.nlink) };
    (attr.file_type, attr.mode, size, nlink, attr.rdev)
}

/// A tree and what is open in it.
struct Subject {
    tree: Arc<dyn Tree>,
    files: Vec<Arc<dyn File>>,
}

impl Subject {
    async fn apply(&mut self, op: &Op) -> Outcome {
        self.try_apply(op).await.unwrap_or_else(|error| Outcome::Failed(error.kind()))
    }

    async fn try_apply(&mut self, op: &Op) -> atelier::error::Result<Outcome> {
        let tree = &self.tree;
        let new = |mode| NewNode { mode, owner: me() };
        let attr = |attr: Attr| Outcome::Attr(seen(&attr));
        Ok(match op {
            Op::Stat(path) => attr(tree.stat(path).await?),
            Op::List(path) => {
                let entries = list(&**tree, path).await?;
                let mut names: Vec<_> =
                    entries.iter().map(|entry| (entry.name.to_vec(), seen(&entry.attr))).collect();
                names.sort_by(|one, other| one.0.cmp(&other.0));
                Outcome::Names(names)
            }
            Op::Open(path, mode) => {
                let file = tree.open(path, *mode).await?;
                self.files.push(file);
                Outcome::Done
            }
            Op::Create(path, mode, open) => {
                let opened = tree.create(path, new(*mode), *open).await?;
                self.files.push(opened.file);
                attr(opened.attr)
            }
            Op::CreateDir(path, mode) => attr(tree.create_dir(path, new(*mode)).await?),
            Op::CreateNode(path, file_type) => {
                attr(tree.create_node(path, new(0o640), *file_type, 0).await?)
            }
            Op::Symlink(path, target) => {
                attr(tree.symlink(path, target.as_bytes(), new(0o777)).await?)
            }
            Op::ReadLink(path) => Outcome::Bytes(tree.read_link(path).await?.to_vec()),
            Op::Link(path, other) => attr(tree.link(path, other).await?),
            Op::RemoveFile(path) => done(tree.remove_file(path).await?),
            Op::RemoveDir(path) => done(tree.remove_dir(path).await?),
            Op::Rename(from, to, mode) => done(tree.rename(from, to, *mode).await?),
            Op::SetAttr(path, changes) => attr(tree.set_attr(path, *changes).await?),
            Op::SetXattr(path, name, value, mode) => {
                done(tree.set_xattr(path, name.as_bytes(), value, *mode).await?)
            }
            Op::RemoveXattr(path, name) => done(tree.remove_xattr(path, name.as_bytes()).await?),
            Op::Read(file, offset, len) => match self.file(*file) {
                Some(file) => Outcome::Bytes(file.read_at(*offset, *len).await?.to_vec()),
                None => Outcome::Done,
            },
            Op::Write(file, offset, bytes) => match self.file(*file) {
                Some(file) => done(file.write_at(*offset, bytes).await?),
                None => Outcome::Done,
            },
            Op::SetFileAttr(file, changes) => match self.file(*file) {
                Some(file) => attr(file.set_attr(*changes).await?),
                None => Outcome::Done,
            },
            Op::StatFile(file) => match self.file(*file) {
                Some(file) => attr(file.stat().await?),
                None => Outcome::Done,
            },
            Op::Close(file) => {
                if !self.files.is_empty() {
                    let place = *file % self.files.len();
                    drop(self.files.remove(place));
                }
                Outcome::Done
            }
        })
    }

    fn file(&self, place: usize) -> Option<&Arc<dyn File>> {
        self.files.get(place % self.files.len().max(1))
    }

    /// Everything below a directory, bytes, links and attributes included.
    async fn state(&self, dir: TreePath) -> Vec<(TreePath, Seen, Vec<u8>, Vec<Vec<u8>>)> {
        let mut state = Vec::new();
        let mut entries = list(&*self.tree, &dir).await.unwrap();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        for entry in entries {
            let path = dir.join(&entry.name).unwrap();
            let bytes = match entry.attr.file_type {
                FileType::File => contents(&*self.tree, &path).await.unwrap().to_vec(),
                FileType::Symlink => self.tree.read_link(&path).await.unwrap().to_vec(),
                _ => Vec::new(),
            };
            let mut xattrs = Vec::new();
            for name in ["user.a", "user.b"] {
                if let Ok(value) = self.tree.xattr(&path, name.as_bytes()).await {
                    xattrs.push([name.as_bytes(), &value].concat());
                }
            }
            state.push((path.clone(), seen(&entry.attr), bytes, xattrs));
            if entry.attr.is_dir() {
                state.extend(Box::pin(self.state(path)).await);
            }
        }
        state
    }
}

/// Nothing more to say of what went well.
fn done(_: ()) -> Outcome {
    Outcome::Done
}

/// Few names, so that operations meet.
fn a_path() -> impl Strategy<Value = TreePath> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(name, 0..4).prop_map(|names| super::path(names.join("/")))
}

fn an_open_mode() -> impl Strategy<Value = OpenMode> {
    prop::sample::select(vec![(true, false), (false, true), (true, true)]).prop_flat_map(
        |(read, write)| {
            (any::<bool>(), any::<bool>()).prop_map(move |(append, truncate)| OpenMode {
                read,
                write,
                append: append && write,
                truncate: truncate && write,
            })
        },
    )
}

/// Readable by the owner, so that the outcome can be compared without being root.
fn a_mode() -> impl Strategy<Value = u32> {
    (0..0o100_u32).prop_map(|low| 0o700 | low)
}

fn changes() -> impl Strategy<Value = SetAttr> {
    let time = prop::option::of((-9_i32..9).prop_map(|hours| {
        let away = Duration::from_secs(u64::from(hours.unsigned_abs()) * 3600);
        SetTime::At(if hours < 0 { UNIX_EPOCH - away } else { UNIX_EPOCH + away })
    }));
    (prop::option::of(a_mode()), prop::option::of(0..20_000_u64), any::<bool>(), time).prop_map(
        |(mode, size, chown, mtime)| SetAttr {
            mode,
            size,
            uid: chown.then(|| me().uid),
            gid: chown.then(|| me().gid),
            atime: None,
            mtime,
        },
    )
}

fn an_op() -> impl Strategy<Value = Op> {
    let rename = prop::sample::select(vec![
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    let xattr = prop::sample::select(vec!["user.a", "user.b"]);
    let xattr_mode =
        prop::sample::select(vec![XattrMode::Any, XattrMode::Create, XattrMode::Replace]);
    let node = prop::sample::select(vec![FileType::File, FileType::Fifo, FileType::Socket]);
    let target = prop::sample::select(vec!["a", "b/c", "/etc", "..", ""]);
    let few_bytes = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        2 => a_path().prop_map(Op::Stat),
        2 => a_path().prop_map(Op::List),
        4 => (a_path(), an_open_mode()).prop_map(|(path, mode)| Op::Open(path, mode)),
        6 => (a_path(), a_mode(), an_open_mode())
            .prop_map(|(path, mode, open)| Op::Create(path, mode, open)),
        6 => (a_path(), a_mode()).prop_map(|(path, mode)| Op::CreateDir(path, mode)),
        1 => (a_path(), node).prop_map(|(path, node)| Op::CreateNode(path, node)),
        2 => (a_path(), target).prop_map(|(path, target)| Op::Symlink(path, target)),
        1 => a_path().prop_map(Op::ReadLink),
        3 => (a_path(), a_path()).prop_map(|(path, other)| Op::Link(path, other)),
        3 => a_path().prop_map(Op::RemoveFile),
        3 => a_path().prop_map(Op::RemoveDir),
        6 => (a_path(), a_path(), rename)
            .prop_map(|(from, to, mode)| Op::Rename(from, to, mode)),
        3 => (a_path(), changes()).prop_map(|(path, changes)| Op::SetAttr(path, changes)),
        2 => (a_path(), xattr.clone(), few_bytes(), xattr_mode)
            .prop_map(|(path, name, value, mode)| Op::SetXattr(path, name, value, mode)),
        1 => (a_path(), xattr).prop_map(|(path, name)| Op::RemoveXattr(path, name)),
        3 => (0..8_usize, 0..20_000_u64, 0..20_000_usize)
            .prop_map(|(file, offset, len)| Op::Read(file, offset, len)),
        5 => (0..8_usize, 0..20_000_u64, few_bytes())
            .prop_map(|(file, offset, bytes)| Op::Write(file, offset, bytes)),
        2 => (0..8_usize, changes())
            .prop_map(|(file, changes)| Op::SetFileAttr(file, changes)),
        1 => (0..8_usize).prop_map(Op::StatFile),
        2 => (0..8_usize).prop_map(Op::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_local_tree_does_what_the_tree_in_memory_does(
        ops in prop::collection::vec(an_op(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let local = Arc::new(LocalTree::open(dir.path()).unwrap());
            let mut local = Subject { tree: local, files: Vec::new() };
            let mut memory = Subject { tree: Arc::new(MemoryTree::new()), files: Vec::new() };
            let root = SetAttr { mode: Some(0o755), ..SetAttr::default() };
            let root = Op::SetAttr(TreePath::root(), root);
            for op in std::iter::once(&root).chain(&ops) {
                let (one, other) = (local.apply(op).await, memory.apply(op).await);
                prop_assert_eq!(one, other, "local and memory differ in {:?}", op);
            }
            let root = TreePath::root();
            prop_assert_eq!(local.state(root.clone()).await, memory.state(root).await);
            Ok(())
        })?;
    }
}
