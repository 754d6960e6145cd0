//! A bucket against a model of it, while others change its objects.
//!
//! The model knows every state the bucket was in. What the tree answers has to be right for one of
//! the states that it may still believe in: the present one where nothing is believed for any time,
//! and else those of the last moments. An open file is one version for as long as it is open.
//!
//! `PROPTEST_CASES=20000 cargo nextest run -E 'test(/bucket_model/)'` looks longer.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier::cache::BlockCache;
use atelier::object::{ObjectStore as _, PutMode};
use atelier::tree::bucket::BucketTree;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Runtime;

use self::operation::{Key, Operation, Path, operation};
use self::subject::{Bare, Names, OnMount, Refusal, Seen, Subject};
use self::view::{Node, Objects, Version, View, below, entries, name, view};
use crate::support::mounted::Mounted;
use crate::support::paged::{Order, PagedStore};

mod operation;
mod subject;
pub(crate) mod view;

/// How many entries a page of a listing holds.
const PAGE_LEN: usize = 5;

/// Blocks so small that few bytes are several, and little room for them.
const BLOCK: NonZeroU64 = NonZeroU64::new(64).unwrap();
const CACHE: u64 = 16 * 64;

/// A state that the bucket was in, until the next began.
struct State {
    since: Instant,
    view: View,
}

/// An open file, and which versions it may be of.
struct Open<File> {
    file: File,
    path: String,
    versions: Vec<Arc<Version>>,
}

struct Model<S: Subject> {
    subject: S,
    store: Arc<PagedStore>,
    runtime: Arc<Runtime>,
    order: Order,
    /// How old an answer may be.
    ttl: Duration,
    objects: Objects,
    states: Vec<State>,
    /// When each operation so far began and ended.
    operations: Vec<(Instant, Instant)>,
    files: Vec<Open<S::File>>,
    /// How many objects were written.
    written: u64,
    /// Every path that ever was, for operations to choose from.
    paths: BTreeSet<String>,
    /// Directories that were listed: such a one stays for a while when its last key goes.
    in_use: BTreeSet<String>,
}

impl<S: Subject> Model<S> {
    fn new(
        subject: S,
        store: Arc<PagedStore>,
        runtime: Arc<Runtime>,
        order: Order,
        ttl: Duration,
    ) -> Self {
        let mut model = Self {
            subject,
            store,
            runtime,
            order,
            ttl,
            objects: Objects::new(),
            states: Vec::new(),
            operations: Vec::new(),
            files: Vec::new(),
            written: 0,
            paths: BTreeSet::new(),
            in_use: BTreeSet::new(),
        };
        model.enter_state();
        model
    }

    fn run(&mut self, operation: &Operation) {
        let began = Instant::now();
        match operation {
            Operation::Put(..) | Operation::Delete(_) => self.change(operation),
            Operation::Stat(path) => {
                let path = self.path(path);
                let found = self.subject.stat(&path);
                // Whoever is told for how long to believe it does so from now on.
                let asked = began + found.as_ref().map_or(NOTHING, |seen| seen.believed);
                self.agree(&path, asked, found, "stat", same);
            }
            Operation::Xattr(path) => {
                let path = self.path(path);
                let found = self.subject.etag(&path);
                self.agree(&path, began, found, "getxattr", |node, etag| match node {
                    Node::File { version, .. } => version.etag == *etag,
                    Node::Directory => false,
                });
            }
            Operation::List(path) => {
                let path = self.path(path);
                let listed = self.subject.list(&path, 0, &mut || {});
                self.agree_listing(&path, began, self.states.len() - 1, listed);
            }
            Operation::ListAround(path, piece, change) => {
                let (path, before) = (self.path(path), self.states.len() - 1);
                let (store, runtime) = (self.store.clone(), self.runtime.clone());
                let mut changed = self.planned(change);
                let listed = self.subject.list(&path, *piece, &mut || {
                    if let Some((key, bytes)) = changed.take() {
                        let etag = apply(&store, &runtime, &key, bytes.clone());
                        self.objects = with(&self.objects, key, etag.zip(bytes));
                    }
                });
                if let Some((key, bytes)) = changed {
                    // The directory couldn't be opened: the change comes after it.
                    self.agree_listing(&path, began, before, listed);
                    let etag = apply(&store, &runtime, &key, bytes.clone());
                    self.objects = with(&self.objects, key, etag.zip(bytes));
                    self.enter_state();
                } else {
                    self.enter_state();
                    self.agree_listing(&path, began, before, listed);
                }
            }
            Operation::Walk => self.walk("", began),
            Operation::Open(path) => self.open(path, began),
            Operation::Read(file, offset, len) => self.read(file, *offset, *len),
            Operation::Close(file) => {
                if !self.files.is_empty() {
                    self.files.remove(file.index(self.files.len()));
                }
            }
            Operation::Wait => {
                if self.ttl < Duration::from_secs(1) {
                    std::thread::sleep(self.ttl);
                }
            }
        }
        self.operations.push((began, Instant::now()));
    }

    fn change(&mut self, change: &Operation) {
        if let Some((key, bytes)) = self.planned(change) {
            let etag = apply(&self.store, &self.runtime, &key, bytes.clone());
            self.objects = with(&self.objects, key, etag.zip(bytes));
            self.enter_state();
        }
    }

    /// The object that a change is about, and what it will hold.
    fn planned(&mut self, change: &Operation) -> Option<(String, Option<Vec<u8>>)> {
        let (key, len) = match change {
            Operation::Put(key, len) => (key, Some(*len)),
            Operation::Delete(key) => (key, None),
            _ => return None,
        };
        let key = match key {
            Key::Named(key) => key.clone(),
            Key::Present(index) if self.objects.is_empty() => format!("a{}", index.index(3)),
            Key::Present(index) => {
                let at = index.index(self.objects.len());
                self.objects.keys().nth(at).cloned()?
            }
        };
        if self.order == Order::Directories && len.is_some() && self.would_be_beside(&key) {
            return None;
        }
        self.written += 1;
        Some((key, len.map(|len| noise(self.written, len))))
    }

    /// Whether an object would have the name of a directory: a store that keeps directories, and
    /// lists them as such, refuses that.
    fn would_be_beside(&self, key: &str) -> bool {
        let below = |key: &str, other: &str| other.starts_with(&format!("{key}/"));
        self.objects.keys().any(|other| below(key, other) || below(other, key))
    }

    fn enter_state(&mut self) {
        let view = view(&self.objects);
        self.paths.extend(view.keys().cloned());
        self.states.push(State { since: Instant::now(), view });
    }

    /// The states that an answer may be of, to who asked at `asked` when state `current` began to
    /// be the last.
    fn believed(&self, asked: Instant, current: usize) -> &[State] {
        let horizon = asked.checked_sub(self.ttl);
        let mut started =
            self.operations.iter().filter(|(_, end)| horizon.is_none_or(|horizon| *end > horizon));
        let from = started.next().map_or(asked, |(start, _)| *start);
        let oldest = self.states.iter().rposition(|state| state.since <= from).unwrap_or(0);
        &self.states[oldest.min(current)..]
    }

    /// Checks an answer about one path.
    fn agree<T: std::fmt::Debug>(
        &self,
        path: &str,
        asked: Instant,
        found: Result<T, Refusal>,
        what: &str,
        fits: impl Fn(&Node, &T) -> bool,
    ) {
        let states = self.believed(asked, self.states.len() - 1);
        let right = states.iter().any(|state| match (state.view.get(path), &found) {
            (Some(node), Ok(answer)) => fits(node, answer),
            (Some(Node::Directory), Err(refusal)) => {
                what != "stat" && matches!(refusal, Refusal::NoAttribute | Refusal::IsADirectory)
            }
            (None, Err(Refusal::NotFound)) => true,
            (None, Err(Refusal::NotADirectory)) if is_below_file(&state.view, path) => true,
            (None, Ok(answer)) => self.in_use.contains(path) && fits(&Node::Directory, answer),
            (None, Err(Refusal::NoAttribute | Refusal::IsADirectory)) => self.in_use.contains(path),
            _ => false,
        });
        assert!(right, "{what} {path:?}: {found:?}, expected one of {:?}", nodes(states, path));
    }

    /// Checks a listing that began when state `before` was the last.
    fn agree_listing(
        &mut self,
        path: &str,
        asked: Instant,
        before: usize,
        listed: Result<Names, Refusal>,
    ) {
        if listed.is_ok() {
            self.in_use.insert(path.to_owned());
        }
        let states = self.believed(asked, before);
        let listed = match listed {
            Ok(listed) => listed,
            Err(refusal) => {
                let right = states.iter().any(|state| match state.view.get(path) {
                    Some(Node::Directory) => false,
                    Some(Node::File { .. }) => refusal == Refusal::NotADirectory,
                    None => {
                        refusal == Refusal::NotFound
                            || refusal == Refusal::NotADirectory && is_below_file(&state.view, path)
                    }
                });
                let nodes = nodes(states, path);
                assert!(right, "list {path:?}: {refusal:?}, expected one of {nodes:?}");
                return;
            }
        };
        // A directory that lost its last key stays as long as somebody remembers it.
        let was = |state: &State| state.view.get(path) == Some(&Node::Directory);
        assert!(self.states.iter().any(was), "list {path:?}: {listed:?}, but it never was");
        let mut found = BTreeMap::new();
        for (name, seen) in listed {
            let twice = found.insert(name.clone(), seen);
            assert!(twice.is_none(), "list {path:?}: {name:?} twice");
        }
        let all: Vec<_> = states.iter().map(|state| entries(&state.view, path)).collect();
        for (name, seen) in &found {
            let right = all.iter().filter_map(|entries| entries.get(name));
            let nodes: Vec<_> = right.collect();
            let fits = nodes.iter().any(|node| same(node, seen));
            assert!(fits, "list {path:?}: {name:?} is {seen:?}, expected one of {nodes:?}");
        }
        for name in all[0].keys().filter(|name| all.iter().all(|e| e.contains_key(*name))) {
            assert!(found.contains_key(name), "list {path:?}: {name:?} isn't in {found:?}");
        }
    }

    /// What `find` does: everything is shown, and each object once.
    fn walk(&mut self, path: &str, asked: Instant) {
        let listed = self.subject.list(path, 0, &mut || {});
        let dirs: Vec<_> =
            listed.iter().flatten().filter(|(_, seen)| seen.is_dir).cloned().collect();
        self.agree_listing(path, asked, self.states.len() - 1, listed);
        for (name, _) in dirs {
            assert!(path.len() < 5000, "a walk that doesn't end: {path}");
            self.walk(&below(path, &name), asked);
        }
    }

    fn open(&mut self, path: &Path, asked: Instant) {
        let path = self.path(path);
        let opened = self.subject.open(&path);
        let states = self.believed(asked, self.states.len() - 1);
        let versions: Vec<_> = states
            .iter()
            .filter_map(|state| match state.view.get(&path) {
                Some(Node::File { version, .. }) => Some(version.clone()),
                _ => None,
            })
            .collect();
        match opened {
            Ok(file) => {
                assert!(!versions.is_empty(), "open {path:?}: {:?}", nodes(states, &path));
                self.files.push(Open { file, path, versions });
            }
            Err(refusal) => self.agree::<()>(&path, asked, Err(refusal), "open", |_, ()| false),
        }
    }

    fn read(&mut self, file: &Index, offset: u64, len: usize) {
        if self.files.is_empty() {
            return;
        }
        let at = file.index(self.files.len());
        let open = &mut self.files[at];
        let present = self.states.last().and_then(|state| state.view.get(&open.path));
        let is_present = |version: &Arc<Version>| matches!(present, Some(Node::File { version: now, .. }) if now == version);
        if let Ok(size) = self.subject.len(&open.file) {
            open.versions.retain(|version| version.bytes.len() as u64 == size);
            assert!(!open.versions.is_empty(), "{:?}: no version has {size} bytes", open.path);
        }
        match self.subject.read(&open.file, offset, len) {
            Ok(read) => {
                let part = |version: &Version| {
                    let start = version.bytes.len().min(offset as usize);
                    version.bytes[start..version.bytes.len().min(start + len)].to_vec()
                };
                let before = open.versions.clone();
                open.versions.retain(|version| part(version) == read);
                let path = &open.path;
                assert!(
                    !open.versions.is_empty(),
                    "read {path:?} {offset}+{len}: {read:?} is of none of {before:?}"
                );
            }
            Err(Refusal::Stale) => {
                let only = open.versions.iter().all(is_present);
                assert!(!only, "read {:?}: stale, but it is there: {present:?}", open.path);
            }
            Err(other) => panic!("read {:?}: {other:?}", open.path),
        }
    }

    fn path(&self, path: &Path) -> String {
        match path {
            Path::Root => String::new(),
            Path::Of(key) => {
                let key = key.strip_suffix('/').unwrap_or(key);
                key.split('/').map(name).collect::<Vec<_>>().join("/")
            }
            Path::Known(index) => {
                self.paths.iter().nth(index.index(self.paths.len())).cloned().unwrap_or_default()
            }
            Path::Named(path) => path.clone(),
        }
    }
}

fn apply(
    store: &PagedStore,
    runtime: &Runtime,
    key: &str,
    bytes: Option<Vec<u8>>,
) -> Option<String> {
    runtime.block_on(async {
        match bytes {
            Some(bytes) => Some(store.put(key, bytes.into(), PutMode::Overwrite).await.unwrap().0),
            None => {
                store.delete(key).await.unwrap();
                None
            }
        }
    })
}

fn with(objects: &Objects, key: String, version: Option<(String, Vec<u8>)>) -> Objects {
    let mut objects = objects.clone();
    match version {
        Some((etag, bytes)) => objects.insert(key, Arc::new(Version { etag, bytes })),
        None => objects.remove(&key),
    };
    objects
}

fn same(node: &Node, seen: &Seen) -> bool {
    match node {
        Node::Directory => seen.is_dir,
        Node::File { version, .. } => !seen.is_dir && version.bytes.len() as u64 == seen.size,
    }
}

fn nodes<'a>(states: &'a [State], path: &str) -> Vec<Option<&'a Node>> {
    states.iter().map(|state| state.view.get(path)).collect()
}

/// Whether a name on the way to `path` is a file's.
fn is_below_file(view: &View, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| &path[..at]);
    ends.into_iter().any(|above| matches!(view.get(above), Some(Node::File { .. })))
}

/// Bytes that no other version has, wherever it is read.
fn noise(number: u64, len: usize) -> Vec<u8> {
    let word = |at: u64| (number << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    (0..).flat_map(word).take(len).collect()
}

fn tree(store: &Arc<PagedStore>, ttl: Duration) -> BucketTree {
    let cache = Arc::new(BlockCache::with_block_size(CACHE, BLOCK, Arc::default()));
    BucketTree::new(store.clone(), cache, "tests", ttl)
}

fn check<S: Subject>(mut model: Model<S>, operations: &[Operation]) {
    for operation in operations {
        model.run(operation);
    }
    model.walk("", Instant::now());
}

fn check_bare(operations: &[Operation], order: Order, ttl: Duration) {
    let runtime =
        Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let store = PagedStore::new(PAGE_LEN, order);
    let subject = Bare { tree: tree(&store, ttl), runtime: &runtime };
    check(Model::new(subject, store, runtime.clone(), order, ttl), operations);
}

fn check_mounted(operations: &[Operation], order: Order, ttl: Duration) {
    let runtime =
        Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let store = PagedStore::new(PAGE_LEN, order);
    let subject = OnMount(Mounted::new(async { tree(&store, ttl) }));
    check(Model::new(subject, store, runtime, order, ttl), operations);
}

fn order() -> impl Strategy<Value = Order> {
    prop::sample::select(vec![Order::Bytes, Order::Directories])
}

fn cases(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

const NOTHING: Duration = Duration::ZERO;
const A_MOMENT: Duration = Duration::from_millis(3);
const FOR_EVER: Duration = Duration::from_hours(1);

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_bucket_that_believes_nothing_is_exact(
        operations in prop::collection::vec(operation(), 1..60), order in order()
    ) {
        check_bare(&operations, order, NOTHING);
    }

    #[test]
    fn a_bucket_that_believes_what_it_saw_tells_what_was_there(
        operations in prop::collection::vec(operation(), 1..60), order in order()
    ) {
        check_bare(&operations, order, FOR_EVER);
    }

    #[test]
    fn a_bucket_forgets_in_time(
        operations in prop::collection::vec(operation(), 1..60), order in order()
    ) {
        check_bare(&operations, order, A_MOMENT);
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_mounted_bucket_is_exact(
        operations in prop::collection::vec(operation(), 1..60), order in order()
    ) {
        check_mounted(&operations, order, NOTHING);
    }

    #[test]
    fn a_mounted_bucket_tells_what_was_there(
        operations in prop::collection::vec(operation(), 1..60), order in order()
    ) {
        check_mounted(&operations, order, FOR_EVER);
    }
}
