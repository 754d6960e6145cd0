//! Blocks of remote objects, kept in memory up to a bound and fetched once, whoever asks.
//!
//! What is missing enters as a piece before its bytes do; neighbours that are missing are one
//! run, which one request fills piece by piece as the bytes come. Where blocks are kept
//! besides memory, a run looks there before it fetches, and leaves there what it fetched.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use self::budget::Room;
use self::disk::DiskCache;
use self::fill::Runs;
use self::memory::{Found, Memory};
use self::piece::Piece;
use crate::error::Result;
use crate::metrics::Metrics;
use crate::object::buffers::Buffers;
use crate::object::{ETag, ObjectStore};

mod below;
mod budget;
pub mod disk;
mod fill;
mod memory;
mod order;
mod piece;
pub mod through;

pub use budget::affordable;

/// What is fetched begins and ends at multiples of it, and at the end of the object: small enough
/// that a random read of 64 KiB fetches at most 1.25 times what it asked for.
pub const BLOCK_SIZE: NonZeroU64 = NonZeroU64::new(16 << 10).expect("isn't zero");

/// The most bytes that share a buffer, and are freed at a time, by how long a request is: what the
/// kernel reads at a time, as a rule and where it is allowed more, so that its read is a slice.
const LONGEST_PIECE: (u64, u64) = (1 << 20, 4 << 20);

/// The longest run of missing blocks that one request fetches, where nobody knows better: shorter
/// ones cost a slow line round trips, longer ones keep the first reader waiting.
pub const LONGEST_RUN: u64 = 8 << 20;

/// The share of the capacity that may lie there as buffers to be used again, and the most of it.
const SPARE_SHARE: u64 = 16;
const MOST_SPARE: u64 = 32 << 20;

/// Bytes of remote objects, in blocks of one size.
///
/// A fetch runs as a task of its own, so that a reader who goes away takes nothing from those who
/// stay. A fetch that fails leaves nothing: who waited gets its error, who comes later starts anew.
pub struct BlockCache {
    shared: Arc<Shared>,
}

struct Shared {
    capacity: u64,
    block_size: NonZeroU64,
    metrics: Arc<Metrics>,
    /// Where blocks are kept besides memory.
    disk: Option<DiskCache>,
    /// For what is on its way.
    room: Room,
    buffers: Buffers,
    /// Held for a few map operations, never while waiting.
    memory: Mutex<Memory>,
}

/// A version of an object, unique among all objects that share a cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectVersion {
    /// The object, its store included.
    pub object: Arc<str>,
    /// The version of its bytes.
    pub etag: ETag,
    /// How many there are.
    pub size: u64,
}

impl ObjectVersion {
    /// A number that two versions hardly share.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }
}

/// Where the bytes of a version come from.
#[derive(Debug)]
pub struct Source {
    /// The store that has the object.
    pub store: Arc<dyn ObjectStore>,
    /// Its key there.
    pub key: Arc<str>,
    /// The version that is read, and no other.
    pub version: Arc<ObjectVersion>,
}

/// Bytes that were asked for.
pub struct Wanted {
    bytes: Range<u64>,
    pieces: Vec<Arc<Piece>>,
    new: bool,
}

impl Wanted {
    /// Whether nobody has to wait for them.
    pub fn is_there(&self) -> bool {
        self.pieces.iter().all(|piece| piece.is_settled())
    }

    /// Whether any of them had to be asked for, since they weren't there nor on their way.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Waits until they are there, or can't be had; whether all are there.
    pub async fn settled(&self) -> bool {
        let mut came = true;
        for piece in &self.pieces {
            came &= piece.settled().await;
        }
        came
    }

    /// Waits for the bytes; they are copied only where they lie in several pieces.
    ///
    /// # Errors
    /// Those of the fetch, whoever asked for it.
    pub async fn bytes(&self) -> Result<Bytes> {
        if let [piece] = &self.pieces[..] {
            return piece.wait(&self.bytes).await;
        }
        // All of them first: many who wait for a piece are not to hold copies of the others.
        self.settled().await;
        let len = usize::try_from(self.bytes.end - self.bytes.start).unwrap_or_default();
        let mut joined = BytesMut::with_capacity(len);
        for piece in &self.pieces {
            joined.extend_from_slice(&piece.wait(&self.bytes).await?);
        }
        Ok(joined.freeze())
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockCache({} of {} bytes)", self.filled(), self.shared.capacity)
    }
}

impl BlockCache {
    /// Makes a cache of at most `capacity` bytes, in blocks of [`BLOCK_SIZE`].
    pub fn new(capacity: u64, metrics: Arc<Metrics>) -> Self {
        Self::with_block_size(capacity, BLOCK_SIZE, metrics)
    }

    /// Makes a cache of at most `capacity` bytes, in blocks of `block_size` bytes.
    pub fn with_block_size(capacity: u64, block_size: NonZeroU64, metrics: Arc<Metrics>) -> Self {
        Self::made(capacity, block_size, None, metrics)
    }

    /// Makes a cache of at most `capacity` bytes in memory, over what is kept on disk.
    pub fn over(disk: Option<DiskCache>, capacity: u64, metrics: Arc<Metrics>) -> Self {
        Self::made(capacity, BLOCK_SIZE, disk, metrics)
    }

    fn made(
        capacity: u64,
        block_size: NonZeroU64,
        disk: Option<DiskCache>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let memory = Mutex::new(Memory::new(capacity));
        let spare = (capacity / SPARE_SHARE).min(MOST_SPARE);
        let buffers = Buffers::new(usize::try_from(spare).unwrap_or(0));
        let room = Room::new(capacity);
        let shared = Shared { capacity, block_size, metrics, disk, room, buffers, memory };
        Self { shared: Arc::new(shared) }
    }

    /// The bytes that are there.
    pub fn filled(&self) -> u64 {
        self.shared.lock().filled()
    }

    /// What is counted of all who read through it.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// How many bytes can be fetched ahead without crowding out what is waited for: half of the
    /// room is never taken by what nobody has asked for.
    pub fn room_ahead(&self) -> u64 {
        self.shared.lock().room_ahead()
    }

    /// Whether all of an object of `size` bytes may stay, in memory or on disk, and leaves room for
    /// others.
    pub fn fits(&self, size: u64) -> bool {
        self.fits_in_memory(size) || self.shared.disk.as_ref().is_some_and(|disk| disk.fits(size))
    }

    /// Whether all of an object of `size` bytes may stay in memory, and leaves room for others.
    pub fn fits_in_memory(&self, size: u64) -> bool {
        size <= self.shared.capacity / 2
    }

    /// The bytes of a version, if they are there or on disk; in memory they are copied only where
    /// they lie in several buffers.
    pub fn find(&self, version: &Arc<ObjectVersion>, bytes: &Range<u64>) -> Option<Bytes> {
        let found = self.shared.lock().find(version, bytes);
        let Some((first, more)) = found else { return self.shared.find_below(version, bytes) };
        self.shared.metrics.memory_hits.add(self.shared.blocks(bytes));
        Some(if more.is_empty() { first } else { join(bytes, first, more) })
    }

    /// Asks for `read` without waiting for it, and for the ranges `ahead`, which nobody waits for
    /// yet and which are left out as far as there is no room for them.
    ///
    /// All are widened to whole blocks. Neighbours of one range that aren't there are one request
    /// as far as they aren't more than `longest` bytes, and a range `ahead` that begins where
    /// `read` ends is one with it. Runs within a tokio runtime.
    pub fn request(
        &self,
        source: &Arc<Source>,
        read: Range<u64>,
        ahead: &[Range<u64>],
        longest: u64,
    ) -> Wanted {
        let size = source.version.size;
        let read = read.start.min(size)..read.end.min(size);
        let wide = self.shared.widen(&read, size);
        let ahead = self.shared.missing_below(&source.version, ahead);
        let mut reached = Vec::new();
        let found = {
            let mut memory = self.shared.lock();
            // Who waits for some of it waits for all of it.
            let found = memory.enter(&source.version, wide.clone(), LONGEST_PIECE.1, true);
            let piece = (longest / 4).clamp(LONGEST_PIECE.0, LONGEST_PIECE.1);
            for range in &ahead {
                let end = range.end.min(range.start.saturating_add(memory.room_ahead()));
                let range = self.shared.widen(&(range.start..end), size);
                reached.push(memory.enter(&source.version, range, piece, false));
            }
            // What was promised takes room now, so that it is there when the bytes come.
            memory.evict();
            self.shared.metrics.memory_bytes.set(memory.held());
            found
        };
        self.count(&found);
        let mut runs = Runs {
            shared: &self.shared,
            source,
            longest,
            all: Vec::new(),
            parted: false,
            ahead: false,
        };
        let mut wanted = Wanted { bytes: read.clone(), pieces: Vec::new(), new: false };
        for found in found {
            wanted.new |= found.is_missing();
            wanted.pieces.push(runs.add(found));
        }
        let only_ahead = read.is_empty();
        runs.ahead = true;
        for (range, found) in ahead.iter().zip(reached) {
            runs.parted = range.start != read.end;
            for found in found {
                wanted.new |= only_ahead && found.is_missing();
                let piece = runs.add(found);
                if only_ahead {
                    wanted.pieces.push(piece);
                }
            }
        }
        for run in runs.all {
            tokio::spawn(run.fetch());
        }
        wanted
    }

    /// Asks for bytes that nobody waits for yet, as far as there is room for them: those that can
    /// be waited for, be it only to know that they came.
    pub fn prefetch(&self, source: &Arc<Source>, ahead: &[Range<u64>], longest: u64) -> Wanted {
        self.request(source, 0..0, ahead, longest)
    }

    /// A reader in order has left `bytes` behind and won't come back.
    pub fn leave(&self, version: &Arc<ObjectVersion>, bytes: &Range<u64>) {
        if !bytes.is_empty() {
            self.shared.change(|memory| memory.leave(version, bytes));
        }
    }

    fn count(&self, found: &[Found]) {
        for found in found {
            match found {
                Found::There(piece) => {
                    self.shared.metrics.memory_hits.add(self.shared.blocks(&piece.bytes));
                }
                Found::Missing(piece) => {
                    self.shared.metrics.misses.add(self.shared.blocks(&piece.bytes));
                }
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, work: impl FnOnce(&mut Memory)) {
        let mut memory = self.lock();
        work(&mut memory);
        self.metrics.memory_bytes.set(memory.held());
    }

    /// The whole blocks that hold `bytes` of an object of `size` bytes.
    fn widen(&self, bytes: &Range<u64>, size: u64) -> Range<u64> {
        if bytes.is_empty() {
            return bytes.start..bytes.start;
        }
        let block = self.block_size.get();
        let end = bytes.end.min(size).div_ceil(block).saturating_mul(block);
        bytes.start / block * block..end.min(size)
    }

    /// How many blocks hold `bytes`.
    fn blocks(&self, bytes: &Range<u64>) -> u64 {
        bytes.end.div_ceil(self.block_size.get()) - bytes.start / self.block_size.get()
    }
}

fn join(bytes: &Range<u64>, first: Bytes, more: Vec<Bytes>) -> Bytes {
    let len = usize::try_from(bytes.end - bytes.start).unwrap_or_default();
    let mut joined = BytesMut::with_capacity(len);
    for part in std::iter::once(first).chain(more) {
        joined.extend_from_slice(&part);
    }
    joined.freeze()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use futures_util::stream::BoxStream;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::object::{Depth, ListPage, ObjectMeta, PutMode};

    const BLOCK: u64 = 4;

    impl BlockCache {
        /// Reads bytes of an object, wherever they are.
        async fn read(&self, source: &Arc<Source>, bytes: Range<u64>) -> Result<Bytes> {
            match self.find(&source.version, &bytes) {
                Some(found) => Ok(found),
                None => self.request(source, bytes, &[], LONGEST_RUN).bytes().await,
            }
        }
    }

    /// A store that keeps account of what is read from it, and sends it in drips.
    #[derive(Debug)]
    struct Spring {
        gets: Mutex<Vec<Range<u64>>>,
        /// How many drips may come.
        drips: Semaphore,
        fails: AtomicBool,
        panics: AtomicBool,
    }

    fn spring() -> Arc<Spring> {
        Arc::new(Spring {
            gets: Mutex::default(),
            drips: Semaphore::new(1 << 20),
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        })
    }

    impl Spring {
        fn gets(&self) -> Vec<Range<u64>> {
            std::mem::take(&mut self.gets.lock().unwrap())
        }

        fn stop(&self) {
            self.drips.forget_permits(usize::MAX);
        }
    }

    /// What is at `bytes` of every object.
    fn content(bytes: Range<u64>) -> Bytes {
        bytes.map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[async_trait]
    impl ObjectStore for Spring {
        async fn get(&self, _: &str, bytes: Range<u64>, _: Option<&ETag>) -> Result<Bytes> {
            Ok(content(bytes))
        }

        async fn get_into(
            &self,
            _: &str,
            bytes: Range<u64>,
            _: Option<&ETag>,
            sink: &mut (dyn FnMut(Bytes) + Send),
        ) -> Result<()> {
            self.gets.lock().unwrap().push(bytes.clone());
            assert!(!self.panics.load(Ordering::SeqCst), "a bug");
            let mut at = bytes.start;
            while at < bytes.end {
                self.drips.acquire().await.unwrap().forget();
                if self.fails.load(Ordering::SeqCst) {
                    return Err(Error::new(ErrorKind::TimedOut, "too late").with_hint("hurry"));
                }
                let end = (at + 3).min(bytes.end);
                sink(content(at..end));
                at = end;
            }
            Ok(())
        }

        async fn head(&self, _: &str) -> Result<ObjectMeta> {
            Err(ErrorKind::NotFound.into())
        }

        async fn put(&self, _: &str, _: Bytes, _: PutMode) -> Result<ETag> {
            Err(ErrorKind::ReadOnlyFilesystem.into())
        }

        async fn delete(&self, _: &str) -> Result<()> {
            Err(ErrorKind::ReadOnlyFilesystem.into())
        }

        fn list(&self, _: &str, _: Depth) -> BoxStream<'static, Result<ListPage>> {
            Box::pin(futures_util::stream::empty())
        }
    }

    fn cache(capacity: u64) -> BlockCache {
        BlockCache::with_block_size(capacity, NonZeroU64::new(BLOCK).unwrap(), Arc::default())
    }

    fn source(store: &Arc<Spring>, name: &str, size: u64) -> Arc<Source> {
        let version = ObjectVersion { object: name.into(), etag: ETag("\"1\"".into()), size };
        Arc::new(Source { store: store.clone(), key: name.into(), version: Arc::new(version) })
    }

    #[tokio::test]
    async fn whole_blocks_are_fetched_once() {
        let (cache, store) = (cache(100), spring());
        let (a, b) = (source(&store, "a", 1000), source(&store, "b", 1000));
        for _ in 0..2 {
            assert_eq!(cache.read(&a, 29..31).await.unwrap(), content(29..31));
        }
        cache.read(&b, 28..33).await.unwrap();
        assert_eq!(store.gets(), [28..32, 28..36]);
        assert_eq!(cache.filled(), 12);
        let metrics = cache.metrics();
        assert_eq!((metrics.memory_hits.value(), metrics.misses.value()), (1, 3));
        assert_eq!(metrics.memory_bytes.value(), 12);
    }

    #[tokio::test]
    async fn the_last_block_ends_with_the_object() {
        let (cache, store) = (cache(100), spring());
        let a = source(&store, "a", 30);
        assert_eq!(cache.read(&a, 29..40).await.unwrap(), content(29..30));
        assert_eq!(store.gets(), [28..30]);
        assert_eq!(cache.read(&a, 40..50).await.unwrap().len(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_readers_make_one_request() {
        let (cache, store) = (Arc::new(cache(100)), spring());
        let a = source(&store, "a", 1000);
        store.stop();
        let readers: Vec<_> = (0..64)
            .map(|_| {
                let (cache, a) = (cache.clone(), a.clone());
                tokio::spawn(async move { cache.read(&a, 0..4).await.unwrap() })
            })
            .collect();
        store.drips.add_permits(100);
        for reader in readers {
            assert_eq!(reader.await.unwrap(), content(0..4));
        }
        assert_eq!(store.gets().len(), 1);
    }

    #[tokio::test]
    async fn neighbours_that_are_missing_are_one_request() {
        let (cache, store) = (cache(100), spring());
        let a = source(&store, "a", 1000);
        cache.read(&a, 8..12).await.unwrap();
        store.gets();
        let wanted = cache.request(&a, 0..20, &[20..40], 16);
        assert!(!wanted.is_there());
        assert_eq!(wanted.bytes().await.unwrap(), content(0..20));
        assert!(wanted.is_there());
        tokio::task::yield_now().await;
        assert_eq!(store.gets(), [0..8, 12..20, 20..40]);
    }

    #[tokio::test]
    async fn who_waits_for_the_first_piece_does_not_wait_for_the_last() {
        let (cache, store) = (cache(100), spring());
        let a = source(&store, "a", 1000);
        store.stop();
        let wanted = cache.request(&a, 0..4, &[4..40], 40);
        store.drips.add_permits(2);
        assert_eq!(wanted.bytes().await.unwrap(), content(0..4));
        assert_eq!(cache.filled(), 4);
        let next = cache.request(&a, 4..8, &[], 40);
        assert!(!next.is_there());
        store.drips.add_permits(100);
        assert_eq!(next.bytes().await.unwrap(), content(4..8));
        assert_eq!(store.gets(), [0..40]);
    }

    #[tokio::test]
    async fn a_failure_reaches_all_who_wait_and_stays_with_none() {
        let (cache, store) = (cache(100), spring());
        let a = source(&store, "a", 1000);
        store.fails.store(true, Ordering::SeqCst);
        let first = cache.request(&a, 0..4, &[], 8);
        let second = cache.request(&a, 0..4, &[], 8);
        for wanted in [first, second] {
            let error = wanted.bytes().await.unwrap_err();
            assert_eq!((error.kind(), error.hint()), (ErrorKind::TimedOut, Some("hurry")));
        }
        store.fails.store(false, Ordering::SeqCst);
        assert_eq!(cache.read(&a, 0..4).await.unwrap(), content(0..4));
        assert_eq!(cache.filled(), 4);
        assert_eq!(store.gets().len(), 2);
    }

    #[tokio::test]
    async fn what_came_before_a_failure_stays() {
        let (cache, store) = (cache(100), spring());
        let a = source(&store, "a", 1000);
        store.stop();
        let first = cache.request(&a, 0..8, &[8..20], 40);
        let last = cache.request(&a, 16..20, &[], 40);
        store.drips.add_permits(3);
        assert_eq!(first.bytes().await.unwrap(), content(0..8));
        store.fails.store(true, Ordering::SeqCst);
        store.drips.add_permits(1);
        assert_eq!(last.bytes().await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(cache.find(&a.version, &(0..8)), Some(content(0..8)));
        assert_eq!(cache.filled(), 8);
    }

    #[tokio::test]
    async fn a_reader_who_leaves_takes_nothing_from_the_others() {
        let (cache, store) = (Arc::new(cache(100)), spring());
        let a = source(&store, "a", 1000);
        store.stop();
        let leaving = tokio::spawn({
            let (cache, a) = (cache.clone(), a.clone());
            async move { cache.read(&a, 0..4).await }
        });
        tokio::task::yield_now().await;
        leaving.abort();
        store.drips.add_permits(100);
        assert_eq!(cache.read(&a, 0..4).await.unwrap(), content(0..4));
        assert_eq!(store.gets().len(), 1);
    }

    #[tokio::test]
    async fn a_fetch_that_panics_fails_those_who_wait() {
        let (cache, store) = (cache(100), spring());
        let a = source(&store, "a", 1000);
        store.panics.store(true, Ordering::SeqCst);
        let error = cache.read(&a, 0..4).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        store.panics.store(false, Ordering::SeqCst);
        assert!(cache.read(&a, 0..4).await.is_ok());
    }

    #[tokio::test]
    async fn the_least_recently_read_goes_first() {
        let (cache, store) = (cache(8), spring());
        let a = source(&store, "a", 1000);
        for block in [0, 1, 0, 2] {
            cache.read(&a, block * 4..block * 4 + 4).await.unwrap();
        }
        let there: Vec<_> =
            (0..3).filter(|n| cache.find(&a.version, &(n * 4..n * 4 + 4)).is_some()).collect();
        assert_eq!(there, [0, 2]);
    }

    #[tokio::test]
    async fn what_was_left_behind_goes_before_all_else() {
        let (cache, store) = (cache(16 * 8), spring());
        let a = source(&store, "a", 1000);
        for block in 0..8 {
            cache.read(&a, block * 4..block * 4 + 4).await.unwrap();
        }
        cache.leave(&a.version, &(4..21));
        // A sixteenth of the room is for such bytes; what lies within only in part isn't left.
        assert_eq!(cache.filled(), 32 - 8);
        let there = |block: u64| cache.find(&a.version, &(block * 4..block * 4 + 4)).is_some();
        let there: Vec<_> = (0..8).filter(|block| there(*block)).collect();
        assert_eq!(there, [0, 3, 4, 5, 6, 7]);
    }

    #[tokio::test]
    async fn what_nobody_asked_for_takes_half_of_the_room() {
        let (cache, store) = (cache(80), spring());
        let a = source(&store, "a", 1000);
        cache.prefetch(&a, &[100..300], 100);
        assert_eq!(cache.room_ahead(), 0);
        assert_eq!(cache.metrics().memory_bytes.value(), 40);
        // Read, it is what was asked for, and there is room again.
        cache.read(&a, 100..120).await.unwrap();
        assert_eq!(cache.room_ahead(), 40);
        assert_eq!(store.gets(), [100..140]);
    }

    proptest! {
        #[test]
        fn right_bytes_come_in_any_order_within_the_room(
            capacity in 0_u64..200,
            reads in proptest::collection::vec(
                (0_u8..3, 0_u64..200, 0_u64..60, 0_u64..80, 1_u64..50, any::<bool>()),
                0..60,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (cache, store) = (cache(capacity), spring());
                let mut waiting = Vec::new();
                for (object, start, len, ahead, longest, fails) in reads {
                    store.fails.store(fails && start % 3 == 0, Ordering::SeqCst);
                    let source = source(&store, &object.to_string(), 190);
                    let (end, size) = (start + len, 190);
                    let wanted = cache.request(&source, start..end, &[end..end + ahead], longest);
                    waiting.push((start.min(size)..end.min(size), wanted));
                    if fails {
                        for (range, wanted) in waiting.drain(..) {
                            if let Ok(bytes) = wanted.bytes().await {
                                assert_eq!(bytes, content(range));
                            }
                        }
                    }
                }
                store.fails.store(false, Ordering::SeqCst);
                for (range, wanted) in waiting.drain(..) {
                    if let Ok(bytes) = wanted.bytes().await {
                        assert_eq!(bytes, content(range));
                    }
                }
                while cache.metrics().memory_bytes.value() > cache.filled() {
                    tokio::task::yield_now().await;
                }
                assert!(cache.filled() <= capacity);
            });
        }
    }
}
