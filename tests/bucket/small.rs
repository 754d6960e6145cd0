//! Small objects and the attributes of many: each thing is asked for once, or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atelier::cache::BlockCache;
use atelier::cache::disk::DiskCache;
use atelier::config::CacheSize;
use atelier::error::ErrorKind;
use atelier::metrics::Metrics;
use atelier::object::ObjectStore;
use atelier::path::TreePath;
use atelier::tree::bucket::BucketTree;
use atelier::tree::{OpenMode, Tree as _};
use futures_util::StreamExt as _;

use super::{Faulty, MIB, names, noise, path, put};

/// A server with objects `dir/000` and so on, of some KB each.
async fn dir_of(count: usize) -> Faulty {
    let faulty = Faulty::start().await;
    let store = faulty.server.store("").await;
    let puts = (0..count).map(|n| {
        let store = store.clone();
        async move { put(&store, &format!("dir/{n:04}"), content(n)).await }
    });
    futures_util::stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await;
    faulty
}

fn content(n: usize) -> bytes::Bytes {
    noise(3000 + n as u64 * 100)
}

async fn tree_for(faulty: &Faulty, memory: u64, ttl: Duration) -> Arc<BucketTree> {
    let cache = Arc::new(BlockCache::new(memory, Arc::<Metrics>::default()));
    Arc::new(BucketTree::new(Arc::new(faulty.store().await), cache, "tests", ttl))
}

/// Opens and reads one of the objects as the kernel does: whole, in parts.
async fn read(tree: &BucketTree, n: usize) {
    let file = tree.open(&path(&format!("dir/{n:04}")), OpenMode::READ).await.unwrap();
    let expected = content(n);
    let half = expected.len() / 2;
    let mut got = file.read_at(0, half).await.unwrap().to_vec();
    got.extend_from_slice(&file.read_at(half as u64, 1 << 20).await.unwrap());
    assert!(got == expected, "{n}");
}

fn count(requests: &[String], what: &str) -> usize {
    requests.iter().filter(|request| request.contains(what)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_is_one_request_and_its_attributes_are_none() {
    let faulty = dir_of(40).await;
    let tree = tree_for(&faulty, 64 * MIB, Duration::from_mins(1)).await;
    names(&tree, "dir").await;
    faulty.proxy.requests();
    for n in [30, 3, 17] {
        read(&tree, n).await;
    }
    let requests = faulty.proxy.requests();
    assert_eq!((count(&requests, "GET /cats/dir/"), requests.len()), (3, 3), "{requests:?}");
    // A second time there is nothing to ask for.
    for n in [17, 3, 30] {
        read(&tree, n).await;
    }
    assert_eq!(faulty.proxy.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_small_object_is_asked_for_before_it_is_read() {
    let faulty = dir_of(1).await;
    let tree = tree_for(&faulty, 64 * MIB, Duration::from_mins(1)).await;
    names(&tree, "dir").await;
    faulty.proxy.requests();
    let _file = tree.open(&path("dir/0000"), OpenMode::READ).await.unwrap();
    while faulty.gets() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_are_fetched_ahead_of_who_reads_in_order() {
    let faulty = dir_of(120).await;
    let tree = tree_for(&faulty, 64 * MIB, Duration::from_mins(1)).await;
    names(&tree, "dir").await;
    faulty.proxy.requests();
    for n in 0..20 {
        read(&tree, n).await;
    }
    let mut requests = Vec::new();
    while requests.len() <= 21 {
        requests.extend(faulty.proxy.requests());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 20..120 {
        read(&tree, n).await;
    }
    requests.extend(faulty.proxy.requests());
    assert_eq!((count(&requests, "GET /cats/dir/"), requests.len()), (120, 120));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shuffled_epoch_fetches_each_object_once() {
    let faulty = dir_of(200).await;
    let tree = tree_for(&faulty, 64 * MIB, Duration::from_mins(1)).await;
    names(&tree, "dir").await;
    faulty.proxy.requests();
    let readers = (0..8).map(|reader| {
        let tree = tree.clone();
        tokio::spawn(async move {
            for n in (reader..200).step_by(8) {
                read(&tree, n * 77 % 200).await;
            }
        })
    });
    for reader in futures_util::future::join_all(readers).await {
        reader.unwrap();
    }
    let requests = faulty.proxy.requests();
    assert_eq!((count(&requests, "GET /cats/dir/"), requests.len()), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_not_fetched_ahead_again_and_again() {
    let faulty = dir_of(200).await;
    let tree = tree_for(&faulty, 128 << 10, Duration::from_mins(1)).await;
    names(&tree, "dir").await;
    faulty.proxy.requests();
    for n in 0..200 {
        read(&tree, n).await;
    }
    let gets = faulty.gets();
    assert!(gets <= 240, "{gets} requests for 200 objects");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_many_lookups_is_listed() {
    let faulty = dir_of(200).await;
    let tree = tree_for(&faulty, MIB, Duration::from_mins(1)).await;
    faulty.proxy.requests();
    for n in 0..200 {
        tree.stat(&path(&format!("dir/{n:04}"))).await.unwrap();
        let missing = tree.stat(&path(&format!("dir/{n:04}.txt"))).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
    let requests = faulty.proxy.requests();
    assert!(requests.len() < 60, "{} requests for 400 lookups", requests.len());
}

/// A scan that lasts longer than its listing is believed: what is fetched ahead is confirmed by
/// that, and the listing is made anew, once in a while.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_renewed_with_few_requests() {
    let faulty = dir_of(100).await;
    let ttl = Duration::from_millis(300);
    let tree = tree_for(&faulty, 64 * MIB, ttl).await;
    names(&tree, "dir").await;
    faulty.proxy.requests();
    for n in 0..100 {
        let at = path(&format!("dir/{n:04}"));
        tree.stat(&at).await.unwrap();
        read(&tree, n).await;
        tokio::time::sleep(ttl / 20).await;
    }
    let requests = faulty.proxy.requests();
    let is_get = |request: &&String| request.starts_with("GET /cats/dir/");
    let fetched: BTreeSet<_> = requests.iter().filter(is_get).collect();
    assert_eq!(fetched.len(), 100);
    // A second time only beside an answer that is late, which few are.
    assert!(count(&requests, "GET /cats/dir/") <= 105, "{requests:?}");
    assert_eq!(count(&requests, "HEAD "), 0, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_when_the_time_is_over() {
    let faulty = dir_of(10).await;
    let direct = faulty.server.store("").await;
    let ttl = Duration::from_millis(200);
    let tree = tree_for(&faulty, 64 * MIB, ttl).await;
    for round in 0..3 {
        assert_eq!(names(&tree, "dir").await.len(), 10);
        for n in 0..10 {
            read(&tree, n).await;
        }
        put(&direct, "dir/0003", vec![round; 5000]).await;
        put(&direct, "dir/new", "new").await;
        direct.delete("dir/0004").await.unwrap();
        tokio::time::sleep(ttl).await;
        let changed = tree.open(&path("dir/0003"), OpenMode::READ).await.unwrap();
        assert_eq!(changed.read_at(0, 9999).await.unwrap(), vec![round; 5000]);
        assert_eq!(tree.stat(&path("dir/new")).await.unwrap().size, 3);
        let gone = tree.stat(&path("dir/0004")).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        put(&direct, "dir/0003", content(3)).await;
        put(&direct, "dir/0004", content(4)).await;
        direct.delete("dir/new").await.unwrap();
        tokio::time::sleep(ttl).await;
    }
}

/// What is on disk is of a version that was there once; only the bucket tells whether it is the
/// newest still.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_by_who_reads_what_an_earlier_mount_left_on_disk() {
    let faulty = dir_of(30).await;
    let direct = faulty.server.store("").await;
    let dir = tempfile::tempdir().unwrap();
    let ttl = Duration::from_millis(200);
    let mount = async || {
        let disk = DiskCache::open(dir.path(), CacheSize::Bytes(64 * MIB), Arc::default()).unwrap();
        let cache = Arc::new(BlockCache::over(Some(disk), 64 * MIB, Arc::default()));
        let store = Arc::new(faulty.store().await);
        (BucketTree::new(store, cache.clone(), "tests", ttl), cache)
    };
    let (tree, cache) = mount().await;
    assert_eq!(names(&tree, "dir").await.len(), 30);
    for n in 0..30 {
        read(&tree, n).await;
    }
    tokio::task::spawn_blocking(move || cache.settle()).await.unwrap();
    drop(tree);
    let (tree, _cache) = mount().await;
    assert_eq!(names(&tree, "dir").await.len(), 30);
    for n in 0..10 {
        read(&tree, n).await;
    }
    put(&direct, "dir/0010", "changed").await;
    direct.delete("dir/0011").await.unwrap();
    tokio::time::sleep(ttl).await;
    let changed = tree.open(&path("dir/0010"), OpenMode::READ).await.unwrap();
    assert_eq!(changed.read_at(0, 9999).await.unwrap(), "changed");
    let gone = tree.open(&path("dir/0011"), OpenMode::READ).await;
    assert_eq!(gone.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    let gone = tree.stat(&path("dir/0011")).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_does_not_vanish_under_who_lists_it() {
    let faulty = dir_of(2).await;
    let direct = faulty.server.store("").await;
    let tree = tree_for(&faulty, MIB, Duration::from_millis(1)).await;
    assert_eq!(names(&tree, "dir").await.len(), 2);
    for n in 0..2 {
        direct.delete(&format!("dir/{n:04}")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(names(&tree, "dir").await, [""; 0]);
    assert!(tree.stat(&path("dir")).await.unwrap().is_dir());
    assert_eq!(names(&tree, "dir").await, [""; 0]);
    let never = tree.stat(&path("other")).await.unwrap_err();
    assert_eq!(never.kind(), ErrorKind::NotFound);
    assert!(tree.stat(&TreePath::root()).await.unwrap().is_dir());
}
