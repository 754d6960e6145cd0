//! What a journal of changes promises: a checkpoint that looks at nothing else misses nothing.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atelier::chunk::Packs;
use atelier::object::memory::MemoryStore;
use atelier::path::TreePath;
use atelier::snapshot::{Capture, Changes, Depth, Named, Version};
use atelier::tree::local::LocalTree;
use atelier::tree::tracked::{Journal, Known, Since, TrackedTree};
use atelier::tree::{File, NewNode, OpenMode, Owner, RenameMode, SetAttr, Tree};
use futures_util::TryStreamExt as _;
use proptest::prelude::*;
use tempfile::TempDir;

const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false };

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn new(mode: u32) -> NewNode {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    NewNode { mode, owner: Owner { uid: uid.as_raw(), gid: gid.as_raw() } }
}

/// A project's files with their journals, and the checkpoints that are made of them.
struct Place {
    dir: TempDir,
    packs: Packs,
    newest: Option<(Version, Option<Known>)>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        Self { dir, packs: Packs::new(Arc::new(MemoryStore::new())), newest: None }
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    fn journals(&self) -> PathBuf {
        self.dir.path().join("journals")
    }

    fn tree(&self) -> TrackedTree {
        let local = Arc::new(LocalTree::open(&self.files()).unwrap());
        TrackedTree::over(local, Journal::begin(&self.journals()).unwrap())
    }

    /// What the next checkpoint will look at.
    fn since(&self) -> Since {
        let known = self.newest.as_ref().and_then(|(_, known)| known.as_ref());
        Since::read(&self.journals(), &self.files(), known).unwrap()
    }

    /// Makes a checkpoint; tells what was looked at, `None` for everything.
    async fn checkpoint(&mut self) -> Option<Changes> {
        let mut since = self.since();
        let changes = since.changes.take();
        let version = self.capture(changes.clone()).await;
        since.forget(&self.journals());
        self.newest = Some((version, since.known));
        changes
    }

    async fn capture(&self, changes: Option<Changes>) -> Version {
        let mut capture = Capture::new().directory(path("files"), self.files());
        if let Some((newest, _)) = &self.newest {
            capture = capture.since(newest.clone());
        }
        if let Some(changes) = changes {
            capture = capture.changed(path("files"), changes);
        }
        let made = capture.run(&self.packs).await.unwrap();
        Version::open(self.packs.clone(), made.root).await.unwrap()
    }

    /// The newest checkpoint has all that a look at everything finds.
    async fn check(&self) {
        let expected = self.capture(None).await;
        let (newest, _) = self.newest.as_ref().unwrap();
        assert_eq!(entries(newest).await, entries(&expected).await);
        assert_eq!(newest.totals(), expected.totals());
    }
}

async fn entries(version: &Version) -> Vec<Named> {
    version.entries().try_collect().await.unwrap()
}

fn paths(changes: Option<Changes>) -> Vec<String> {
    let changes = changes.expect("it is known what changed");
    changes.iter().map(|(path, _)| path.to_string()).collect()
}

async fn write(tree: &TrackedTree, at: &str, bytes: &[u8]) {
    let file = match tree.open(&path(at), WRITE).await {
        Ok(file) => file,
        Err(_) => tree.create(&path(at), new(0o644), WRITE).await.unwrap().file,
    };
    file.write_at(0, bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_changed_is_not_looked_at() {
    let mut place = Place::new();
    let tree = place.tree();
    tree.create_dir(&path("src"), new(0o755)).await.unwrap();
    for number in 0..200 {
        write(&tree, &format!("src/{number}"), b"x").await;
    }
    assert_eq!(place.checkpoint().await, None, "nothing was known yet");
    write(&tree, "src/7", b"changed").await;
    let looked_at = paths(place.checkpoint().await);
    assert!(looked_at.contains(&"src/7".to_owned()), "{looked_at:?}");
    assert!(looked_at.len() < 80, "few marks wait to be ended: {}", looked_at.len());
    place.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stays_open_is_looked_at_each_time() {
    let mut place = Place::new();
    let tree = place.tree();
    let log = tree.create(&path("log"), new(0o644), WRITE).await.unwrap().file;
    place.checkpoint().await;
    for round in 1..4 {
        log.write_at(0, &vec![b'x'; round * 1000]).await.unwrap();
        assert_eq!(paths(place.checkpoint().await), ["log"]);
        place.check().await;
    }
    // Also under the name that it has now, and that of the directory it is in.
    tree.create_dir(&path("old"), new(0o755)).await.unwrap();
    tree.rename(&path("log"), &path("old/log"), RenameMode::Replace).await.unwrap();
    tree.rename(&path("old"), &path("new"), RenameMode::Replace).await.unwrap();
    place.checkpoint().await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    place.checkpoint().await;
    log.write_at(0, b"moved and written").await.unwrap();
    let looked_at = paths(place.checkpoint().await);
    assert!(looked_at.contains(&"new/log".to_owned()), "{looked_at:?}");
    place.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_two_names_changes_under_both() {
    let mut place = Place::new();
    let tree = place.tree();
    write(&tree, "one", b"first").await;
    tree.link(&path("one"), &path("two")).await.unwrap();
    place.checkpoint().await;
    write(&tree, "two", b"second").await;
    assert_eq!(place.checkpoint().await, None, "who has the other names isn't known");
    place.check().await;
    // One that is open when it gets its second name.
    write(&tree, "three", b"third").await;
    let open = tree.open(&path("three"), WRITE).await.unwrap();
    tree.link(&path("three"), &path("four")).await.unwrap();
    place.checkpoint().await;
    open.write_at(0, b"fifth").await.unwrap();
    place.checkpoint().await;
    place.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_writer_did_who_is_gone_is_looked_at_once() {
    let mut place = Place::new();
    let tree = place.tree();
    write(&tree, "kept", b"x").await;
    place.checkpoint().await;
    write(&tree, "late", b"x").await;
    drop(tree);
    let looked_at = paths(place.checkpoint().await);
    assert!(looked_at.contains(&"late".to_owned()), "{looked_at:?}");
    place.check().await;
    assert_eq!(paths(place.checkpoint().await), Vec::<String>::new());
    assert_eq!(journals(&place), 0, "its journal is gone");
    // The next writer's changes are known from the beginning.
    let tree = place.tree();
    write(&tree, "later", b"x").await;
    assert_eq!(paths(place.checkpoint().await), ["later"]);
    place.check().await;
}

fn journals(place: &Place) -> usize {
    let names = fs::read_dir(place.journals()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".journal")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tells_less_than_everything_is_not_believed() {
    let mut place = Place::new();
    let tree = place.tree();
    write(&tree, "file", b"x").await;
    place.checkpoint().await;
    assert!(place.since().changes.is_some());
    let epoch = place.journals().join("epoch");
    let kept = fs::read_to_string(&epoch).unwrap();
    // Another boot: journals aren't forced to the disk.
    let (name, _) = kept.split_once(' ').unwrap();
    fs::write(&epoch, format!("{name} another-boot 1:2")).unwrap();
    assert!(place.since().changes.is_none());
    fs::write(&epoch, &kept).unwrap();
    assert!(place.since().changes.is_some());
    // A journal that was there is missing, or has other bytes in it.
    let journal = fs::read_dir(place.journals()).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|end| end == "journal").then_some(path)
    });
    let (journal, away) = (journal.unwrap(), place.dir.path().join("away"));
    fs::rename(&journal, &away).unwrap();
    assert!(place.since().changes.is_none());
    fs::rename(&away, &journal).unwrap();
    assert!(place.since().changes.is_some());
    let file = fs::File::options().append(true).open(&journal).unwrap();
    std::io::Write::write_all(&mut &file, &[0xff; 100]).unwrap();
    let damaged = place.since();
    assert!(damaged.changes.is_none() && damaged.known.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_checkpoint_could_not_take_is_looked_at_again() {
    let place = Place::new();
    let tree = place.tree();
    write(&tree, "file", b"x").await;
    let mut known = place.since().known.unwrap();
    known.look_again_at(&[path("pipe"), path("dir/torn")], false);
    let since = Since::read(&place.journals(), &place.files(), Some(&known)).unwrap();
    let looked_at = paths(since.changes);
    assert!(looked_at.contains(&"pipe".to_owned()) && looked_at.contains(&"dir/torn".to_owned()));
    known.look_again_at(&[path("pipe")], true);
    let since = Since::read(&place.journals(), &place.files(), Some(&known)).unwrap();
    assert_eq!(since.changes, None, "more than is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_grows_too_large_begins_anew() {
    let mut place = Place::new();
    let journal = Journal::begin(&place.journals()).unwrap();
    let _open = journal.mark(&path("open"), Depth::Entry).unwrap();
    place.checkpoint().await;
    assert!(place.since().changes.is_some());
    for number in 0..1500 {
        // Nobody can make such a file, who may try.
        let long = format!("{number}/{}", "x".repeat(60_000));
        drop(journal.mark(&path(&long), Depth::Entry).unwrap());
    }
    assert_eq!(place.since().changes, None, "more changed than was written down");
    assert_eq!(journals(&place), 1, "the old one is gone");
    place.checkpoint().await;
    let looked_at = paths(place.checkpoint().await);
    assert!(looked_at.contains(&"open".to_owned()), "{}", looked_at.len());
    place.check().await;
}

#[derive(Clone, Debug)]
enum Operation {
    Open(usize),
    Write(usize, u16),
    Close(usize),
    Create(usize),
    MakeDirectory(usize),
    Remove(usize),
    Rename(usize, usize, bool),
    Link(usize, usize),
    Chmod(usize, u8),
    Truncate(usize),
    Restart,
    Checkpoint,
}

const PATHS: &[&str] =
    &["a", "a/b", "a/b/c", "a-b", "a-b/x", "b", "b/deep", "b/deep/z", "log", "z"];

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let at = 0..PATHS.len();
    let two = (at.clone(), at.clone());
    let operation = prop_oneof![
        3 => at.clone().prop_map(Operation::Open),
        4 => (at.clone(), any::<u16>()).prop_map(|(at, seed)| Operation::Write(at, seed)),
        2 => at.clone().prop_map(Operation::Close),
        4 => at.clone().prop_map(Operation::Create),
        4 => at.clone().prop_map(Operation::MakeDirectory),
        2 => at.clone().prop_map(Operation::Remove),
        4 => (two.clone(), any::<bool>())
            .prop_map(|((from, to), swap)| Operation::Rename(from, to, swap)),
        1 => two.prop_map(|(from, to)| Operation::Link(from, to)),
        1 => (at.clone(), any::<u8>()).prop_map(|(at, mode)| Operation::Chmod(at, mode)),
        1 => at.prop_map(Operation::Truncate),
        1 => Just(Operation::Restart),
        5 => Just(Operation::Checkpoint),
    ];
    prop::collection::vec(operation, 1..60)
}

/// Does it where it can be done; what is refused is no change.
async fn apply(
    place: &mut Place,
    tree: &mut TrackedTree,
    open: &mut HashMap<usize, Arc<dyn File>>,
    operation: Operation,
) {
    let at = |number: usize| path(PATHS[number]);
    match operation {
        Operation::Open(number) => {
            if let Ok(file) = tree.open(&at(number), WRITE).await {
                open.insert(number, file);
            }
        }
        Operation::Write(number, seed) => {
            if let Some(file) = open.get(&number) {
                let bytes = vec![seed as u8; usize::from(seed) % 2000];
                file.write_at(0, &bytes).await.unwrap();
            }
        }
        Operation::Close(number) => drop(open.remove(&number)),
        Operation::Create(number) => {
            if let Ok(made) = tree.create(&at(number), new(0o644), WRITE).await {
                open.insert(number, made.file);
            }
        }
        Operation::MakeDirectory(number) => {
            let _ = tree.create_dir(&at(number), new(0o755)).await;
        }
        Operation::Remove(number) => {
            if tree.remove_file(&at(number)).await.is_err() {
                let _ = tree.remove_dir(&at(number)).await;
            }
        }
        Operation::Rename(from, to, swap) => {
            let mode = if swap { RenameMode::Exchange } else { RenameMode::Replace };
            let _ = tree.rename(&at(from), &at(to), mode).await;
        }
        Operation::Link(from, to) => {
            let _ = tree.link(&at(from), &at(to)).await;
        }
        Operation::Chmod(number, mode) => {
            let mode = Some(0o600 | (u32::from(mode) % 0o100));
            let changes = SetAttr { mode, ..SetAttr::default() };
            let _ = tree.set_attr(&at(number), changes).await;
        }
        Operation::Truncate(number) => {
            let changes = SetAttr { size: Some(0), ..SetAttr::default() };
            let _ = tree.set_attr(&at(number), changes).await;
        }
        Operation::Restart => {
            open.clear();
            // The old one's journal is closed without a word, as by `kill -9`.
            *tree = place.tree();
        }
        Operation::Checkpoint => {
            place.checkpoint().await;
            place.check().await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn checkpoints_have_what_the_files_are(operations in operations()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut place = Place::new();
            let (mut tree, mut open) = (place.tree(), HashMap::new());
            for operation in operations {
                apply(&mut place, &mut tree, &mut open, operation).await;
            }
            place.checkpoint().await;
            place.check().await;
        });
    }
}

/// Whoever wants to look at a journal's directory finds nothing of the files in it.
#[test]
fn journals_are_not_among_the_files() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    let place = Place::new();
    let _tree = place.tree();
    assert_eq!(fs::read_dir(place.files()).unwrap().count(), 0);
    assert!(Path::new(&place.journals()).is_dir());
}
