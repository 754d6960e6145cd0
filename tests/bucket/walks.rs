//! Walks over buckets of many keys: few requests, little memory, nothing left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use atelier::cache::BlockCache;
use atelier::error::{Error, ErrorKind, Result};
use atelier::metrics::Metrics;
use atelier::object::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use atelier::path::TreePath;
use atelier::tree::bucket::BucketTree;
use atelier::tree::{Entry, Tree as _};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use proptest::prelude::*;

use super::path;

/// In which order a store lists.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// As S3 does.
    Bytes,
    /// Directory by directory, as SeaweedFS does.
    Directories,
}

/// Keys without content, listed in pages on demand.
#[derive(Debug)]
struct Keys {
    order: Order,
    page: usize,
    /// By what they are sorted by.
    sorted: BTreeMap<String, String>,
    requests: AtomicUsize,
    /// How many requests are answered before one fails.
    fails_after: AtomicUsize,
}

impl Keys {
    fn new(order: Order, page: usize, keys: impl IntoIterator<Item = String>) -> Arc<Self> {
        let keys = keys.into_iter().map(|key| (sorted_by(order, &key), key)).collect();
        Arc::new(Self {
            order,
            page,
            sorted: keys,
            requests: AtomicUsize::new(0),
            fails_after: AtomicUsize::new(usize::MAX),
        })
    }

    fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }

    /// A page behind `after`, and where the next begins.
    fn page(
        &self,
        prefix: &str,
        depth: Depth,
        after: Option<String>,
    ) -> (ListPage, Option<String>) {
        let mut page = ListPage::default();
        let mut from = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(sorted_by(self.order, prefix)),
        };
        loop {
            let next = self.sorted.range((from.clone(), Bound::Unbounded)).next();
            let Some((sorted, key)) = next.filter(|(_, key)| key.starts_with(prefix)) else {
                return (page, None);
            };
            if page.objects.len() + page.prefixes.len() == self.page {
                let Bound::Excluded(after) = from else { return (page, None) };
                return (page, Some(after));
            }
            let slash = key[prefix.len()..].find('/').filter(|_| depth == Depth::Children);
            from = Bound::Excluded(sorted.clone());
            match slash {
                Some(slash) => {
                    let common = &key[..=prefix.len() + slash];
                    page.prefixes.push(common.to_owned());
                    from = Bound::Excluded(sorted_by(self.order, common) + "\u{10ffff}");
                }
                None => page.objects.push(ObjectMeta {
                    key: key.clone(),
                    size: 1,
                    modified: SystemTime::UNIX_EPOCH,
                    etag: ETag("\"d41d8cd98f00b204e9800998ecf8427e\"".into()),
                }),
            }
        }
    }
}

fn sorted_by(order: Order, key: &str) -> String {
    match order {
        Order::Bytes => key.to_owned(),
        Order::Directories => key.replace('/', "\0"),
    }
}

/// The store that a tree has, by which the test sees what is asked of it.
#[derive(Debug)]
struct Counted(Arc<Keys>);

#[async_trait]
impl ObjectStore for Counted {
    async fn get(&self, key: &str, _: Range<u64>, _: Option<&ETag>) -> Result<Bytes> {
        Err(Error::new(ErrorKind::NotFound, format!("{key} has no content")))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(ErrorKind::NotFound, format!("{key} isn't asked for")))
    }

    async fn put(&self, _: &str, _: Bytes, _: PutMode) -> Result<ETag> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    async fn delete(&self, _: &str) -> Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        let start = Some((self.0.clone(), prefix.to_owned(), None));
        stream::try_unfold(start, move |state| async move {
            let Some((keys, prefix, after)) = state else { return Ok(None) };
            tokio::task::yield_now().await;
            let asked = keys.requests.fetch_add(1, Ordering::SeqCst);
            if asked >= keys.fails_after.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Io, "the listing broke"));
            }
            let (page, next) = keys.page(&prefix, depth, after);
            Ok(Some((page, next.map(|after| (keys, prefix, Some(after))))))
        })
        .boxed()
    }
}

fn tree(keys: &Arc<Keys>, ttl: Duration) -> BucketTree {
    let cache = Arc::new(BlockCache::new(1 << 20, Arc::<Metrics>::default()));
    BucketTree::new(Arc::new(Counted(keys.clone())), cache, "tests", ttl)
}

/// Walks as `find` does; the paths of all files, or how many there are.
async fn walk(tree: &BucketTree, pause: Duration, mut file: impl FnMut(TreePath)) -> Result<()> {
    let mut dirs = vec![TreePath::root()];
    while let Some(dir) = dirs.pop() {
        let entries: Vec<Entry> = tree.list(&dir).try_collect().await?;
        let mut below = Vec::new();
        for entry in entries {
            let path = dir.join(&entry.name).unwrap();
            if entry.attr.is_dir() { below.push(path) } else { file(path) }
        }
        below.reverse();
        dirs.append(&mut below);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

async fn count(tree: &BucketTree) -> usize {
    let mut count = 0;
    walk(tree, Duration::ZERO, |_| count += 1).await.unwrap();
    count
}

/// Keys `000/000/000` and so on: so many on each level.
fn nested<const LEVELS: usize>(levels: [usize; LEVELS]) -> impl Iterator<Item = String> {
    let all: usize = levels.iter().product();
    (0..all).map(move |mut n| {
        let mut parts = Vec::new();
        for count in levels.iter().rev() {
            parts.push(format!("{:04}", n % count));
            n /= count;
        }
        parts.reverse();
        parts.join("/")
    })
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_keys_in_one_directory_are_a_hundred_requests() {
    let keys = Keys::new(Order::Bytes, 1000, (0..100_000).map(|n| format!("flat/{n:06}")));
    let tree = tree(&keys, Duration::from_secs(1));
    let count = tree.list(&path("flat")).try_fold(0, |count, _| async move { Ok(count + 1) });
    assert_eq!(count.await.unwrap(), 100_000);
    let requests = keys.requests();
    assert!(requests <= 110, "{requests}");
    // They are known now: what `ls -l` asks is answered.
    for n in [0, 50_000, 99_999] {
        tree.stat(&path(&format!("flat/{n:06}"))).await.unwrap();
    }
    assert_eq!(keys.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_many_small_directories_is_few_requests() {
    for (levels, most) in [([1, 100, 100], 25), ([10, 100, 5], 25), ([1, 1, 2000], 10)] {
        let keys = Keys::new(Order::Bytes, 1000, nested(levels));
        let tree = tree(&keys, LONG);
        assert_eq!(count(&tree).await, levels.iter().product::<usize>());
        let requests = keys.requests();
        assert!(requests <= most, "{requests} requests for {levels:?}");
        // A second time all of it is known, when what was listed ahead has come.
        tokio::time::sleep(Duration::from_millis(100)).await;
        keys.requests();
        count(&tree).await;
        assert_eq!(keys.requests(), 0, "{levels:?}");
    }
    let keys = Keys::new(Order::Directories, 1000, nested([1000, 5, 10]));
    assert_eq!(count(&tree(&keys, LONG)).await, 50_000);
    let requests = keys.requests();
    assert!(requests <= 150, "{requests} requests for 50,000 keys in 6,000 directories");
}

/// The bytes of this process that are in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_over_a_million_keys_takes_flat_memory() {
    let keys = Keys::new(Order::Bytes, 1000, nested([10, 100, 1000]));
    let tree = tree(&keys, Duration::from_secs(1));
    let before = resident();
    assert_eq!(count(&tree).await, 1_000_000);
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown < 128, "{grown} MiB");
    let requests = keys.requests();
    assert!(requests <= 2100, "{requests} requests for 1,000,000 keys");
}

/// What is listed far ahead takes no room from what a walk comes to next.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_through_more_than_there_is_room_for_ahead_is_few_requests() {
    let keys = Keys::new(Order::Bytes, 1000, nested([100, 100, 100]));
    let tree = tree(&keys, Duration::from_secs(2));
    let mut files = 0;
    let walk = walk(&tree, Duration::from_millis(2), |_| files += 1);
    // Several times as long as what is listed ahead is believed.
    let _ = tokio::time::timeout(Duration::from_secs(7), walk).await;
    let (requests, directories) = (keys.requests(), files / 100);
    assert!(directories > 100, "{directories}");
    assert!(requests * 2 < directories, "{requests} requests for {directories} directories");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_lasts_longer_than_answers_are_believed_does_not_ask_twice() {
    let keys = Keys::new(Order::Bytes, 1000, nested([1, 100, 20]));
    let (ttl, start, mut files) = (Duration::from_millis(400), Instant::now(), 0);
    let tree = tree(&keys, ttl);
    walk(&tree, Duration::from_millis(5), |_| files += 1).await.unwrap();
    assert_eq!(files, 2000);
    let requests = keys.requests();
    // What is too old is listed anew by a few requests. On a machine that is so slow that a walk
    // comes to few directories in that time, each is listed by itself.
    let times = usize::try_from(start.elapsed().as_millis() / ttl.as_millis()).unwrap();
    let most = (20 + 10 * times).min(105);
    assert!(requests <= most, "{requests} requests for 101 directories");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_breaks_is_an_error_and_no_part_of_a_directory() {
    let keys = Keys::new(Order::Bytes, 10, nested([5, 5, 25]));
    for answered in 0..60 {
        let tree = tree(&keys, LONG);
        keys.requests();
        keys.fails_after.store(answered, Ordering::SeqCst);
        let mut files = 0;
        let broke = walk(&tree, Duration::ZERO, |_| files += 1).await;
        assert!(broke.is_err(), "{answered}: {files} files");
        keys.fails_after.store(usize::MAX, Ordering::SeqCst);
        assert_eq!(count(&tree).await, 625, "{answered}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is listed ahead, a walk finds each object, in a store of either order.
    #[test]
    fn a_walk_finds_every_key(
        names in proptest::collection::btree_set("[a-]{1,2}(/[a!-]{1,2}){0,4}", 1..60),
        page in 1_usize..12,
        directories: bool,
        start in 0_usize..4,
    ) {
        // An object and a directory of one name are another test.
        let keys: BTreeSet<String> = names
            .iter()
            .filter(|key| !names.iter().any(|other| other.starts_with(&format!("{key}/"))))
            .cloned()
            .collect();
        let order = if directories { Order::Directories } else { Order::Bytes };
        let store = Keys::new(order, page, keys.iter().cloned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let tree = tree(&store, LONG);
            // Somebody looks around first.
            for key in keys.iter().step_by(start + 1).take(start) {
                if let Some(dir) = path(key).parent() {
                    tree.list(&dir).try_collect::<Vec<_>>().await.unwrap();
                }
            }
            let mut found = BTreeSet::new();
            walk(&tree, Duration::ZERO, |path| {
                found.insert(path.to_string());
            }).await.unwrap();
            assert_eq!(found, keys);
        });
    }
}
