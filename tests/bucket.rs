//! Buckets as trees: on a real server, and on one that fails.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier::cache::BlockCache;
use atelier::error::{Error, ErrorKind};
use atelier::object::memory::MemoryStore;
use atelier::object::s3::{Connection, Credentials, Limits, S3Store};
use atelier::object::{Depth, ObjectStore, PutMode};
use atelier::path::TreePath;
use atelier::tree::bucket::BucketTree;
use atelier::tree::{Attr, Entry, File, OpenMode, Tree};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future};

use crate::support::proxy::{Fault, Proxy};
use crate::support::seaweed::{self, BUCKET, Seaweed};
use crate::tree_contract;

mod patterns;
mod small;
mod versions;
mod walks;

const MIB: u64 = 1 << 20;

fn tree(store: impl ObjectStore) -> BucketTree {
    BucketTree::new(
        Arc::new(store),
        Arc::new(BlockCache::new(64 * MIB, Arc::default())),
        "tests",
        Duration::from_secs(1),
    )
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

async fn put(store: &dyn ObjectStore, key: &str, bytes: impl Into<Bytes>) {
    store.put(key, bytes.into(), PutMode::Overwrite).await.unwrap();
}

async fn open(tree: &BucketTree, at: &str) -> Arc<dyn File> {
    tree.open(&path(at), OpenMode::READ).await.unwrap()
}

async fn names(tree: &BucketTree, dir: &str) -> Vec<String> {
    let entries: Vec<Entry> = tree.list(&path(dir)).try_collect().await.unwrap();
    let mut names: Vec<_> = entries
        .iter()
        .map(|entry| {
            let name = String::from_utf8_lossy(&entry.name);
            if entry.attr.is_dir() { format!("{name}/") } else { name.into_owned() }
        })
        .collect();
    names.sort();
    names
}

/// Bytes that differ everywhere.
fn noise(len: u64) -> Bytes {
    (0..=len / 8)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes())
        .take(usize::try_from(len).unwrap())
        .collect()
}

/// Puts all files below `dir` into the store.
async fn upload(dir: &Path, store: &dyn ObjectStore) {
    let files = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let puts = files.filter(|entry| entry.file_type().is_file()).map(|entry| async move {
        let key = entry.path().strip_prefix(dir).unwrap().to_str().unwrap();
        put(store, key, std::fs::read(entry.path()).unwrap()).await;
    });
    futures_util::stream::iter(puts).buffer_unordered(8).collect::<Vec<_>>().await;
}

/// A server with a proxy before it, and what is reached by way of the proxy.
struct Faulty {
    server: Seaweed,
    proxy: Proxy,
}

impl Faulty {
    async fn start() -> Self {
        let server = Seaweed::start().await;
        let proxy = Proxy::start(server.port());
        Self { server, proxy }
    }

    async fn store(&self) -> S3Store {
        seaweed::store_at(self.proxy.endpoint(), "", seaweed::limits()).await
    }

    fn gets(&self) -> usize {
        let requests = self.proxy.requests();
        requests.iter().filter(|request| request.contains("x-id=GetObject")).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract_of_trees() {
    let server = Seaweed::start().await;
    let store = server.store("contract").await;
    let dir = tempfile::tempdir().unwrap();
    tree_contract::sample(dir.path(), tree_contract::Holds::OBJECTS);
    upload(dir.path(), &store).await;
    let tree = Arc::new(tree(store));
    tree_contract::reads(tree.clone(), tree_contract::Holds::OBJECTS).await;
    tree_contract::refuses(tree).await;
}

#[tokio::test]
async fn objects_in_memory_keep_the_contract_of_trees() {
    let store = MemoryStore::new();
    let dir = tempfile::tempdir().unwrap();
    tree_contract::sample(dir.path(), tree_contract::Holds::OBJECTS);
    upload(dir.path(), &store).await;
    let tree = Arc::new(tree(store));
    tree_contract::reads(tree.clone(), tree_contract::Holds::OBJECTS).await;
    tree_contract::refuses(tree).await;
}

/// Keys that are no paths: each object has one name, by which it is found and read.
#[tokio::test]
async fn every_object_can_be_reached() {
    let store = MemoryStore::new();
    let keys = [
        "a", "a/b", "a//b", "//", "/", "..", "../x", "./y", ".", "a/../b", "nul\0", "%2F", "a%2F",
        "dir/", "full/", "full/x", "e/%", "100%", "\u{1}\n", "a-", "a0",
    ];
    for key in keys {
        put(&store, key, if key == "dir/" { "" } else { key }).await;
    }
    let tree = tree(store);
    let mut found = Vec::new();
    let mut dirs = vec![TreePath::root()];
    while let Some(dir) = dirs.pop() {
        let entries: Vec<Entry> = tree.list(&dir).try_collect().await.unwrap();
        for entry in entries {
            let path = dir.join(&entry.name).unwrap();
            let attr = Attr { ttl: entry.attr.ttl, ..tree.stat(&path).await.unwrap() };
            assert_eq!(attr, entry.attr, "{path:?}");
            if entry.attr.is_dir() {
                dirs.push(path);
            } else {
                let file = tree.open(&path, OpenMode::READ).await.unwrap();
                let bytes = file.read_at(0, 100).await.unwrap();
                found.push(String::from_utf8(bytes.to_vec()).unwrap());
            }
        }
    }
    let mut expected: Vec<_> = keys.into_iter().filter(|key| *key != "dir/").collect();
    expected.sort_unstable();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(names(&tree, "dir").await, [""; 0]);
    for nothing in ["%2E", "a%2F/b", "a/%2E%2E/%2E%2E", "100%%2F", "dir/%"] {
        let missing = TreePath::parse(nothing).unwrap();
        let there = keys.contains(&".") && nothing == "%2E";
        assert_eq!(tree.stat(&missing).await.is_ok(), there, "{nothing}");
    }
}

/// The answers are the same, whether a listing is known or not.
#[tokio::test]
async fn a_name_is_found_without_a_listing() {
    let store = MemoryStore::new();
    for key in ["a", "a/b", "c", "d/", "e//f", "g/"] {
        put(&store, key, if key == "d/" { "" } else { "x" }).await;
    }
    let store = Arc::new(store);
    let forgetful = || {
        let cache = Arc::new(BlockCache::new(MIB, Arc::default()));
        BucketTree::new(store.clone(), cache, "tests", Duration::ZERO)
    };
    for (name, is_dir) in [
        ("a", true),
        ("a%2F", false),
        ("a/b", false),
        ("c", false),
        ("d", true),
        ("e", true),
        ("e/%", true),
        ("e/%/f", false),
        ("g", true),
        ("g/%", false),
    ] {
        let attr = forgetful().stat(&path(name)).await.unwrap();
        assert_eq!(attr.is_dir(), is_dir, "{name}");
    }
    for name in ["c%2F", "d/%", "d%2F", "b", "e%2F"] {
        let error = forgetful().stat(&path(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_under_a_fresh_listing_costs_no_request() {
    let faulty = Faulty::start().await;
    let store = faulty.server.store("").await;
    let puts = (0..1500).map(|n| {
        let store = store.clone();
        async move { put(&store, &format!("flat/{n:05}"), "x").await }
    });
    futures_util::stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await;
    put(&store, "flat/deep/x", "x").await;
    let cache = Arc::new(BlockCache::new(MIB, Arc::default()));
    let tree =
        BucketTree::new(Arc::new(faulty.store().await), cache, "tests", Duration::from_mins(1));
    assert_eq!(names(&tree, "flat").await.len(), 1501);
    let listing = faulty.proxy.requests().len();
    assert!(listing <= 3, "{listing} requests for two pages");
    for n in [0, 700, 1499] {
        tree.stat(&path(&format!("flat/{n:05}"))).await.unwrap();
    }
    assert!(tree.stat(&path("flat/deep")).await.unwrap().is_dir());
    let missing = tree.stat(&path("flat/nothing")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(faulty.proxy.requests(), [""; 0]);
    // Without a listing: one object, one directory; a second time none.
    for _ in 0..2 {
        tree.stat(&path("flat/deep/nothing")).await.unwrap_err();
    }
    assert!(faulty.proxy.requests().len() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_pass_are_not_seen() {
    let faulty = Faulty::start().await;
    let bytes = noise(3 * MIB);
    put(&faulty.server.store("").await, "large", bytes.clone()).await;
    let store = faulty.store().await;
    for fault in [
        Fault::Status(503),
        Fault::Status(500),
        Fault::Status(429),
        Fault::Truncate(1_000_000),
        Fault::Reset(2_000_000),
        Fault::Stall(500_000),
        Fault::Delay(Duration::from_millis(100)),
    ] {
        faulty.proxy.fail(if matches!(fault, Fault::Stall(_)) { 1 } else { 2 }, fault);
        let got = store.get("large", 0..u64::MAX, None).await.unwrap();
        assert!(got == bytes, "{fault:?}");
        faulty.proxy.resume();
    }
    // A broken download goes on where it ended.
    faulty.proxy.requests();
    faulty.proxy.fail(1, Fault::Truncate(1_000_000));
    store.get("large", 0..3 * MIB, None).await.unwrap();
    let requests = faulty.proxy.requests();
    assert_eq!(requests.len(), 2);
    assert!(!requests[1].contains("bytes=0-"), "{requests:?}");
    // An upload whose answer is lost counts once.
    faulty.proxy.fail(1, Fault::Status(500));
    store.put("new", Bytes::from("x"), PutMode::Create).await.unwrap();
    faulty.proxy.fail(1, Fault::Truncate(0));
    store.put("new", Bytes::from("y"), PutMode::Overwrite).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_stay_are_told_in_time() {
    let faulty = Faulty::start().await;
    put(&faulty.server.store("").await, "a", noise(1000)).await;
    let store = faulty.store().await;
    for (fault, kind) in [
        (Fault::Status(503), ErrorKind::TimedOut),
        (Fault::Status(500), ErrorKind::Io),
        (Fault::Status(403), ErrorKind::PermissionDenied),
        (Fault::Truncate(10), ErrorKind::Io),
        (Fault::Stall(10), ErrorKind::TimedOut),
    ] {
        faulty.proxy.fail(1000, fault);
        let start = Instant::now();
        let error = store.get("a", 0..1000, None).await.unwrap_err();
        // Bodies that break off go on until the deadline, which may find an attempt under way.
        let is_late = matches!(fault, Fault::Truncate(_)) && error.kind() == ErrorKind::TimedOut;
        assert!(is_late || error.kind() == kind, "{fault:?}: {error:?}");
        let head = store.head("a").await;
        if let (Fault::Status(_), Err(error)) = (fault, head) {
            // A service that has just failed is given little time.
            let told = [kind, ErrorKind::TimedOut].contains(&error.kind());
            assert!(told, "HEAD {fault:?}: {error:?}");
        }
        assert!(start.elapsed() < 3 * seaweed::limits().deadline, "{fault:?}");
        faulty.proxy.resume();
        store.head("a").await.unwrap();
    }
    let error = store.get("b", 0..1, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_is_an_error_and_works_again() {
    let faulty = Faulty::start().await;
    let bytes = noise(20 * MIB);
    put(&faulty.server.store("").await, "large", bytes.clone()).await;
    let tree = tree(faulty.store().await);
    let file = open(&tree, "large").await;
    assert_eq!(file.read_at(0, 1000).await.unwrap(), bytes[..1000]);
    faulty.proxy.stop();
    let start = Instant::now();
    let error = file.read_at(10 * MIB, 1000).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::TimedOut), "{error:?}");
    assert!(start.elapsed() < seaweed::limits().deadline + Duration::from_secs(1));
    faulty.proxy.resume();
    let read = file.read_at(10 * MIB, 1000).await.unwrap();
    assert_eq!(read, bytes[10 << 20..(10 << 20) + 1000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_one_block_make_one_request() {
    let faulty = Faulty::start().await;
    let bytes = noise(40 * MIB);
    put(&faulty.server.store("").await, "large", bytes.clone()).await;
    let tree = Arc::new(tree(faulty.store().await));
    let file = open(&tree, "large").await;
    faulty.gets();
    faulty.proxy.fail(1, Fault::Delay(Duration::from_millis(100)));
    let readers = (0..32).map(|_| {
        let file = file.clone();
        tokio::spawn(async move { file.read_at(5 * MIB, 4096).await.unwrap() })
    });
    for read in future::join_all(readers).await {
        assert_eq!(read.unwrap(), bytes[5 << 20..(5 << 20) + 4096]);
    }
    // A reader who reads in order at one place makes more than one, ahead of it.
    assert!(faulty.gets() <= 2);
    // All of it in order: few large requests, each byte once.
    let file = open(&tree, "large").await;
    let mut offset = 0;
    while offset < 40 * MIB {
        let read = file.read_at(offset, 128 << 10).await.unwrap();
        let start = usize::try_from(offset).unwrap();
        assert!(read == bytes[start..start + read.len()]);
        offset += read.len() as u64;
    }
    let requests = faulty.gets();
    assert!(requests < 20, "{requests} requests for 40 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_is_one_version() {
    let server = Seaweed::start().await;
    let store = server.store("").await;
    put(&store, "a", noise(12 * MIB)).await;
    let tree = tree(store.clone());
    let old = open(&tree, "a").await;
    old.read_at(0, 10).await.unwrap();
    put(&store, "a", vec![7; 12 << 20]).await;
    let error = old.read_at(10 * MIB, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleHandle, "{error:?}");
    // That was noticed: the next open is of the new version, and the old one stays what it was.
    let new = open(&tree, "a").await;
    assert_eq!(new.read_at(0, 10).await.unwrap(), [7; 10][..]);
    assert_eq!(old.read_at(0, 10).await.unwrap(), noise(3 * MIB)[..10]);
    let error = old.read_at(8 * MIB, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleHandle, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_connection_is_named() {
    let server = Seaweed::start().await;
    let at = |endpoint: String, bucket: &str| Connection {
        endpoint: Some(endpoint),
        region: Some("us-east-1".into()),
        ..Connection::new(bucket)
    };
    let key = |id: &str, secret: &str| Credentials::Static {
        key_id: id.into(),
        secret: secret.into(),
        token: None,
    };
    let probe = async |connection: Connection, credentials: Credentials| -> Error {
        let limits = Limits { attempts: 2, ..seaweed::limits() };
        let store =
            S3Store::connect(connection, credentials, limits, Arc::default()).await.unwrap();
        store.probe().await.unwrap_err()
    };
    let fine = seaweed::credentials;
    let here = server.endpoint();
    let https = here.replace("http:", "https:");
    for (connection, credentials, kind, words) in [
        (at(here.clone(), "dogs"), fine(), ErrorKind::NotFound, "there is no bucket dogs"),
        (
            at(here.clone(), BUCKET),
            key("NOBODY", "x"),
            ErrorKind::PermissionDenied,
            "the key id NOBODY isn't known",
        ),
        (
            at(here.clone(), BUCKET),
            key(seaweed::KEY_ID, "wrong"),
            ErrorKind::PermissionDenied,
            "the secret isn't that of the key id",
        ),
        (
            at(here.clone(), BUCKET),
            key(seaweed::STRANGER_ID, seaweed::STRANGER_SECRET),
            ErrorKind::PermissionDenied,
            "access is denied",
        ),
        (at("http://127.0.0.1:9".into(), BUCKET), fine(), ErrorKind::Io, "refuses connections"),
        (at("http://nowhere.invalid".into(), BUCKET), fine(), ErrorKind::Io, "can't be found"),
        (at(https, BUCKET), fine(), ErrorKind::Io, "no TLS connection"),
    ] {
        let error = probe(connection, credentials).await;
        assert_eq!(error.kind(), kind, "{words}: {error:?}");
        assert!(error.to_string().contains(words), "{words}: {error:?}");
        assert!(error.hint().is_some(), "{words}");
        assert!(!format!("{error:?}").contains(seaweed::SECRET), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_on_after_a_failure_in_the_middle() {
    let faulty = Faulty::start().await;
    let direct = faulty.server.store("").await;
    let puts = (0..1100).map(|n| {
        let store = direct.clone();
        async move { put(&store, &format!("many/{n:05}"), "").await }
    });
    futures_util::stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await;
    let store = faulty.store().await;
    let mut pages = store.list("many/", Depth::Children);
    let first = pages.next().await.unwrap().unwrap();
    faulty.proxy.fail(2, Fault::Status(503));
    let rest: Vec<_> = pages.try_collect().await.unwrap();
    let count = first.objects.len() + rest.iter().map(|page| page.objects.len()).sum::<usize>();
    assert_eq!(count, 1100);
}
