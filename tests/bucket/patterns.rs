//! Ways to read a large object: what each asks the store for.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atelier::cache::BlockCache;
use atelier::error::Result;
use atelier::metrics::Metrics;
use atelier::object::memory::MemoryStore;
use atelier::object::{Depth, ETag, ListPage, ObjectMeta, ObjectStore, PutMode};
use atelier::tree::File;
use atelier::tree::bucket::BucketTree;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use proptest::prelude::*;

use super::{MIB, noise, open, put};

const READ: u64 = 128 << 10;

/// A store that keeps account of what is read from it, and sends it in pieces.
#[derive(Debug)]
struct Recorded {
    inner: MemoryStore,
    /// How long an answer takes.
    far: Duration,
    gets: Arc<Mutex<Vec<Range<u64>>>>,
}

#[async_trait]
impl ObjectStore for Recorded {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        self.inner.get(key, range, if_match).await
    }

    async fn get_into(
        &self,
        key: &str,
        range: Range<u64>,
        if_match: Option<&ETag>,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<()> {
        self.gets.lock().unwrap().push(range.clone());
        if !self.far.is_zero() {
            tokio::time::sleep(self.far).await;
        }
        let mut at = range.start;
        while at < range.end {
            tokio::task::yield_now().await;
            let end = (at + 100_000).min(range.end);
            sink(self.inner.get(key, at..end, if_match).await?);
            at = end;
        }
        Ok(())
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.inner.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.inner.list(prefix, depth)
    }
}

/// An open object, its bytes, and what was read of it.
struct Subject {
    bytes: Bytes,
    file: Arc<dyn File>,
    gets: Arc<Mutex<Vec<Range<u64>>>>,
    metrics: Arc<Metrics>,
    cache: Arc<BlockCache>,
    _tree: BucketTree,
}

impl Subject {
    async fn new(name: &str, size: u64, memory: u64) -> Self {
        Self::with(name, noise(size), memory).await
    }

    async fn with(name: &str, bytes: Bytes, memory: u64) -> Self {
        Self::far(name, bytes, memory, Duration::ZERO).await
    }

    async fn far(name: &str, bytes: Bytes, memory: u64, far: Duration) -> Self {
        let metrics = Arc::<Metrics>::default();
        let gets = Arc::<Mutex<Vec<Range<u64>>>>::default();
        let store = Recorded { inner: MemoryStore::new(), far, gets: gets.clone() };
        put(&store, name, bytes.clone()).await;
        let cache = Arc::new(BlockCache::new(memory, metrics.clone()));
        let tree = BucketTree::new(Arc::new(store), cache.clone(), "tests", Duration::from_mins(1));
        let file = open(&tree, name).await;
        Self { bytes, file, gets, metrics, cache, _tree: tree }
    }

    /// Reads, and lets come what was asked for.
    async fn read(&self, offset: u64, len: u64) {
        let read = self.file.read_at(offset, usize::try_from(len).unwrap()).await.unwrap();
        let [start, end] = [offset, offset + len].map(|at| usize::try_from(at).unwrap());
        assert!(read == self.bytes[start..end.min(self.bytes.len())], "{offset}");
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
    }

    fn fetched(&self) -> u64 {
        self.gets.lock().unwrap().iter().map(|range| range.end - range.start).sum()
    }

    fn requests(&self) -> usize {
        self.gets.lock().unwrap().len()
    }
}

/// Numbers that look random.
fn random(number: u64) -> u64 {
    let word = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ (word >> 32)
}

#[tokio::test]
async fn in_order_each_byte_comes_once_in_few_requests() {
    let subject = Subject::new("large", 64 * MIB, 64 * MIB).await;
    for offset in (0..64 * MIB).step_by(1 << 20) {
        subject.read(offset, MIB).await;
    }
    assert_eq!(subject.fetched(), 64 * MIB);
    assert!(subject.requests() <= 64, "{}", subject.requests());
    assert!(subject.metrics.stalls.value() <= 2, "{}", subject.metrics.stalls.value());
}

#[tokio::test]
async fn backwards_each_byte_comes_once_in_few_requests() {
    let subject = Subject::new("large", 16 * MIB, 64 * MIB).await;
    for offset in (0..128).rev().map(|read| read * READ) {
        subject.read(offset, READ).await;
    }
    assert!(subject.fetched() <= 16 * MIB + MIB / 2, "{}", subject.fetched());
    assert!(subject.requests() <= 128, "{}", subject.requests());
    assert!(subject.metrics.stalls.value() <= 8, "{}", subject.metrics.stalls.value());
}

#[tokio::test]
async fn in_steps_only_what_is_read_comes_and_comes_before() {
    let subject = Subject::new("large", 64 * MIB, 64 * MIB).await;
    let steps: Vec<_> = (MIB..60 * MIB).step_by(1 << 20).collect();
    for offset in &steps {
        subject.read(*offset, READ).await;
    }
    let asked = steps.len() as u64 * READ;
    assert!(subject.fetched() <= asked * 13 / 10, "{} for {asked}", subject.fetched());
    assert!(subject.metrics.stalls.value() <= 8, "{}", subject.metrics.stalls.value());
}

#[tokio::test]
async fn here_and_there_hardly_more_comes_than_is_asked_for() {
    let size = 48 * MIB;
    let bytes = noise(size);
    for (len, unit) in [(READ, 1), (READ, 4096), (64 << 10, 4096), (MIB, MIB)] {
        let subject = Subject::with("large", bytes.clone(), 32 * MIB).await;
        let reads = 8 * MIB / len;
        for read in 0..reads {
            // Not at the start, where reading in order begins.
            let offset = (1 + random(read) % ((size - len) / unit - 1)) * unit;
            subject.read(offset, len).await;
        }
        let asked = reads * len;
        assert!(subject.fetched() * 10 <= asked * 13, "{} for {asked}", subject.fetched());
    }
}

#[tokio::test]
async fn an_object_whose_parts_were_waited_for_so_long_comes_to_be_there() {
    let (size, far) = (24 * MIB, Duration::from_millis(5));
    let subject = Subject::far("large", noise(size), 64 * MIB, far).await;
    for read in 0..7 {
        subject.read(random(read) % (23 * MIB), READ).await;
    }
    assert!(subject.fetched() < 2 * MIB, "{}", subject.fetched());
    for read in 7..160 {
        subject.read(random(read) % (23 * MIB), READ).await;
    }
    while subject.cache.filled() < size {
        tokio::time::sleep(far).await;
    }
    let (requests, stalls) = (subject.requests(), subject.metrics.stalls.value());
    for read in 160..400 {
        subject.read(random(read) % (23 * MIB), READ).await;
    }
    assert_eq!((subject.requests(), subject.metrics.stalls.value()), (requests, stalls));
    assert!(subject.fetched() <= 25 * MIB, "{}", subject.fetched());
}

#[tokio::test]
async fn an_index_at_the_end_is_there_before_it_is_read() {
    let subject = Subject::new("table.parquet", 32 * MIB, 64 * MIB).await;
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
    subject.read(32 * MIB - (64 << 10), 64 << 10).await;
    subject.read(0, 4).await;
    assert_eq!((subject.requests(), subject.metrics.stalls.value()), (2, 0));
    assert!(subject.fetched() <= 300 << 10);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn right_bytes_come_whoever_reads_what_when(
        memory in 0_u64..8,
        readers in proptest::collection::vec(
            proptest::collection::vec((0_u64..6 << 20, 1_u64..2 << 20, 0_usize..20), 1..12),
            1..6,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let subject = Subject::new("large", 5 * MIB, memory * MIB).await;
            let tasks: Vec<_> = readers
                .into_iter()
                .map(|reads| {
                    let (file, bytes) = (subject.file.clone(), subject.bytes.clone());
                    tokio::spawn(async move {
                        for (offset, len, pause) in reads {
                            let len = usize::try_from(len).unwrap();
                            let read = file.read_at(offset, len).await.unwrap();
                            let start = usize::try_from(offset).unwrap().min(bytes.len());
                            assert!(read == bytes[start..(start + len).min(bytes.len())]);
                            for _ in 0..pause {
                                tokio::task::yield_now().await;
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
}
