//! A directory becomes a version, and the version holds what the directory held.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use atelier::chunk::Packs;
use atelier::object::local::LocalStore;
use atelier::object::memory::MemoryStore;
use atelier::path::TreePath;
use atelier::snapshot::{Capture, Captured, Content, Version};
use futures_util::TryStreamExt;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::support::directory::{noise, zoo};

#[tokio::test]
async fn every_file_reads_back_as_it_was() {
    let (home, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    zoo(from.path());
    let packs = Packs::new(Arc::new(LocalStore::open(home.path()).unwrap()));
    let (captured, version) = capture(&packs, from.path(), None).await;
    assert_eq!(captured.skipped, []);
    assert_same(&version, from.path()).await;
    let files = walk(from.path()).into_values().filter(fs::Metadata::is_file);
    assert_eq!(captured.totals.bytes, files.map(|metadata| metadata.len()).sum::<u64>());
}

#[tokio::test]
async fn capturing_the_same_again_stores_nothing() {
    let (home, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    zoo(from.path());
    let store = || Packs::new(Arc::new(LocalStore::open(home.path()).unwrap()));
    let (first, version) = capture(&store(), from.path(), None).await;
    let objects = walk(home.path()).len();
    let (again, _) = capture(&store(), from.path(), Some(version)).await;
    assert_eq!(again.root, first.root);
    assert_eq!(walk(home.path()).len(), objects);
    // Also without the previous version: the frames are found by their hashes.
    let (anew, version) = capture(&store(), from.path(), None).await;
    assert_eq!(anew.totals, first.totals);
    assert_same(&version, from.path()).await;
}

#[tokio::test]
async fn a_version_stays_as_it_is_when_the_next_one_is_made() {
    let from = tempfile::tempdir().unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    fs::write(from.path().join("stays"), noise(100_000, 1)).unwrap();
    fs::write(from.path().join("changes"), noise(3_000_000, 2)).unwrap();
    fs::write(from.path().join("goes"), noise(1000, 3)).unwrap();
    let (first, old) = capture(&packs, from.path(), None).await;

    let mut changed = noise(3_000_000, 2);
    changed.splice(1_500_000..1_500_000, *b"something new in the middle");
    fs::write(from.path().join("changes"), &changed).unwrap();
    fs::remove_file(from.path().join("goes")).unwrap();
    let (second, new) = capture(&packs, from.path(), Some(old.clone())).await;

    assert_same(&new, from.path()).await;
    assert_eq!(read(&old, "changes").await, noise(3_000_000, 2));
    assert_eq!(read(&old, "goes").await, noise(1000, 3));
    assert!(second.stored < first.stored / 4, "{} of {}", second.stored, first.stored);
}

#[tokio::test]
async fn equal_content_is_stored_once() {
    let from = tempfile::tempdir().unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    fs::write(from.path().join("a"), noise(300_000, 1)).unwrap();
    fs::write(from.path().join("large"), noise(4_000_000, 2)).unwrap();
    let (alone, _) = capture(&packs, from.path(), None).await;

    for copy in 0..5 {
        fs::copy(from.path().join("a"), from.path().join(format!("copy-{copy}"))).unwrap();
        fs::copy(from.path().join("large"), from.path().join(format!("large-{copy}"))).unwrap();
    }
    fs::hard_link(from.path().join("a"), from.path().join("link")).unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let (together, version) = capture(&packs, from.path(), None).await;
    assert_same(&version, from.path()).await;
    assert!(together.stored < alone.stored + 10_000);
    assert_eq!(together.reused, 6 * 300_000 + 5 * 4_000_000);
}

#[tokio::test]
async fn what_can_not_be_kept_is_named() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("fine"), "fine").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        from.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let (captured, version) = capture(&packs, from.path(), None).await;
    let skipped: Vec<_> = captured.skipped.iter().map(|skipped| skipped.path.clone()).collect();
    assert_eq!(skipped, ["fifo", "socket"]);
    assert_eq!(captured.totals.files, 1);
    assert_eq!(read(&version, "fine").await, b"fine");
}

#[tokio::test]
async fn several_sources_meet_in_one_version() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("sub")).unwrap();
    fs::write(from.path().join("sub/a"), "a").unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let notebook = noise(2_000_000, 5);
    let captured = Capture::new()
        .directory(path("files"), from.path())
        .bytes(path("notebook.ipynb"), notebook.clone())
        .bytes(path("deep/er/checkpoint.json"), "{}")
        .run(&packs)
        .await
        .unwrap();
    let version = Version::open(packs, captured.root).await.unwrap();
    let names: Vec<_> = version.entries().try_collect::<Vec<_>>().await.unwrap();
    let names: Vec<_> = names
        .iter()
        .map(|named| format!("{}|{}", text(&named.directory), text(&named.name)))
        .collect();
    assert_eq!(
        names,
        [
            "|deep",
            "|files",
            "|notebook.ipynb",
            "deep|er",
            "deep/er|checkpoint.json",
            "files|sub",
            "files/sub|a"
        ]
    );
    assert_eq!(read(&version, "notebook.ipynb").await, notebook);
    assert_eq!(read(&version, "files/sub/a").await, b"a");
    let names: Vec<_> = version.list(&path("files")).try_collect().await.unwrap();
    assert_eq!(names.len(), 1);
}

#[tokio::test]
async fn any_range_of_a_large_file_reads() {
    let from = tempfile::tempdir().unwrap();
    let mut bytes = noise(2_000_000, 1);
    bytes.extend(b"compresses well ".repeat(60_000));
    bytes.extend(noise(1_000_000, 2));
    fs::write(from.path().join("large"), &bytes).unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let (_, version) = capture(&packs, from.path(), None).await;
    let entry = version.entry(&path("large")).await.unwrap();
    assert!(matches!(entry.content, Content::Runs { .. }));
    let len = bytes.len() as u64;
    for start in (0..len + 50_000).step_by(77_777) {
        for wanted in [1, 4096, 131_072, 1_048_576, 10_000_000] {
            let got = version.read_content(&entry.content, start..start + wanted).await.unwrap();
            let end = (start + wanted).min(len) as usize;
            assert!(got == bytes[(start as usize).min(end)..end], "{wanted} at {start}");
        }
    }
}

#[tokio::test]
async fn an_empty_directory_is_a_version() {
    let from = tempfile::tempdir().unwrap();
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let (captured, version) = capture(&packs, from.path(), None).await;
    assert_eq!(captured.totals.files, 0);
    assert!(version.list(&TreePath::root()).try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert_same(&version, from.path()).await;
}

#[tokio::test]
async fn many_entries_span_many_pages_and_versions_share_them() {
    let from = tempfile::tempdir().unwrap();
    for n in 0..4000 {
        let dir = from.path().join(format!("d{}", n % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file-{n}.txt")), format!("{n} {}", "x".repeat(n % 300)))
            .unwrap();
    }
    let packs = Packs::new(Arc::new(MemoryStore::new()));
    let (first, version) = capture(&packs, from.path(), None).await;
    assert_same(&version, from.path()).await;
    fs::write(from.path().join("d3/file-0-new.txt"), "new").unwrap();
    let (second, newer) = capture(&packs, from.path(), Some(version)).await;
    assert_same(&newer, from.path()).await;
    assert!(second.stored < first.stored / 2, "{} of {}", second.stored, first.stored);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_random_tree_reads_back(tree in prop::collection::btree_map(names(), files(), 0..40)) {
        let from = tempfile::tempdir().unwrap();
        for (names, (len, seed)) in tree {
            let path = names.iter().fold(from.path().to_owned(), |path, name| path.join(OsStr::from_bytes(name)));
            // A name that is a file already can't be a directory too.
            if path.parent().is_some_and(|dir| fs::create_dir_all(dir).is_ok()) && !path.exists() {
                fs::write(path, noise(len, seed)).unwrap();
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let packs = Packs::new(Arc::new(MemoryStore::new()));
            let (_, version) = capture(&packs, from.path(), None).await;
            assert_same(&version, from.path()).await;
        });
    }
}

fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let byte = prop_oneof![Just(b'a'), Just(b'-'), Just(b'0'), 1_u8..=255];
    let name = prop::collection::vec(byte, 1..5)
        .prop_filter("a name", |name| !name.contains(&b'/') && name != b"." && name != b"..");
    prop::collection::vec(name, 1..5)
}

fn files() -> impl Strategy<Value = (usize, u64)> {
    let len = prop_oneof![
        0_usize..2000,
        500_usize..530,
        Just(524_288),
        Just(524_289),
        600_000_usize..900_000
    ];
    (len, 0_u64..3)
}

async fn capture(packs: &Packs, from: &Path, previous: Option<Version>) -> (Captured, Version) {
    let mut capture = Capture::new().directory(TreePath::root(), from);
    if let Some(previous) = previous {
        capture = capture.since(previous);
    }
    let captured = capture.run(packs).await.unwrap();
    let version = Version::open(packs.clone(), captured.root).await.unwrap();
    (captured, version)
}

/// The version holds exactly what the directory holds.
async fn assert_same(version: &Version, dir: &Path) {
    let mut found = walk(dir);
    let mut totals = (0, 0, 0);
    for named in version.entries().try_collect::<Vec<_>>().await.unwrap() {
        let path = TreePath::parse(&named.directory).unwrap().join(&named.name).unwrap();
        let metadata =
            found.remove(path.as_bytes()).unwrap_or_else(|| panic!("{path:?} isn't there"));
        assert_eq!(version.entry(&path).await.unwrap(), named.entry);
        assert_eq!(named.entry.mode, metadata.mode() & 0o7777, "{path:?}");
        let mtime = (named.entry.mtime.seconds, i64::from(named.entry.mtime.nanos));
        assert_eq!(mtime, (metadata.mtime(), metadata.mtime_nsec()), "{path:?}");
        let local = dir.join(path.as_path());
        match &named.entry.content {
            Content::Directory => {
                assert!(metadata.is_dir());
                totals.1 += 1;
            }
            Content::Symlink(target) => {
                assert_eq!(target[..], fs::read_link(local).unwrap().into_os_string().into_vec());
                totals.2 += 1;
            }
            _ => {
                assert!(metadata.is_file());
                let bytes = version.read(&path, 0..u64::MAX).await.unwrap();
                assert_eq!(
                    Sha256::digest(&bytes),
                    Sha256::digest(fs::read(local).unwrap()),
                    "{path:?}"
                );
                totals.0 += 1;
            }
        }
    }
    assert!(found.is_empty(), "{:?} are missing", found.keys());
    let stated = version.totals();
    assert_eq!((stated.files, stated.directories, stated.symlinks), totals);
}

/// Everything below a directory, by path.
fn walk(root: &Path) -> BTreeMap<Vec<u8>, fs::Metadata> {
    walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            (path, entry.metadata().unwrap())
        })
        .collect()
}

async fn read(version: &Version, name: &str) -> Vec<u8> {
    version.read(&path(name), 0..u64::MAX).await.unwrap().to_vec()
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
