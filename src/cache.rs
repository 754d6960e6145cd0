//! Blocks of remote objects, kept in memory up to a bound and fetched once, whoever asks.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use tokio::sync::SetOnce;

use crate::error::{Error, ErrorKind, Result};
use crate::object::ETag;

/// What the kernel reads at a time by default: a random read fetches little more than it asked
/// for, and an ordered one merges its blocks into larger requests.
pub const BLOCK_SIZE: NonZeroU64 = NonZeroU64::new(128 << 10).expect("isn't zero");

/// Bytes of remote objects, in blocks of one size.
///
/// A slot enters the cache before its bytes do, so that cache and single flight are one thing:
/// whoever asks for a block that is on its way waits for it. A fetch runs as a task of its own,
/// so that a reader who goes away takes nothing from those who stay. A fetch that fails leaves no
/// slot: who waited gets its error, who comes later starts anew.
pub struct BlockCache {
    shared: Arc<Shared>,
}

struct Shared {
    capacity: u64,
    block_size: NonZeroU64,
    /// Guards the slots and their count; held for a few map operations, never while waiting.
    state: Mutex<State>,
}

struct State {
    slots: LruCache<BlockKey, Arc<Slot>>,
    /// The bytes of all slots that are filled.
    filled: u64,
    /// How many slots are on their way.
    pending: u64,
}

type Slot = SetOnce<Result<Bytes, Shareable>>;

/// One block of one version of one object.
#[derive(Clone, PartialEq, Eq, Hash)]
struct BlockKey {
    version: Arc<ObjectVersion>,
    index: u64,
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

/// A block that was asked for.
pub struct Block(Arc<Slot>);

impl Block {
    /// Waits for the bytes.
    ///
    /// # Errors
    /// Those of the fetch, whoever asked for it.
    pub async fn bytes(&self) -> Result<Bytes> {
        self.0.wait().await.clone().map_err(Error::from)
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        write!(f, "BlockCache({} of {} bytes)", state.filled, self.shared.capacity)
    }
}

impl BlockCache {
    /// Makes a cache of at most `capacity` bytes, in blocks of [`BLOCK_SIZE`].
    pub fn new(capacity: u64) -> Self {
        Self::with_block_size(capacity, BLOCK_SIZE)
    }

    /// Makes a cache of at most `capacity` bytes, in blocks of `block_size` bytes.
    pub fn with_block_size(capacity: u64, block_size: NonZeroU64) -> Self {
        let state = State { slots: LruCache::unbounded(), filled: 0, pending: 0 };
        Self { shared: Arc::new(Shared { capacity, block_size, state: Mutex::new(state) }) }
    }

    /// The size of a block in bytes; only the last block of an object is shorter.
    pub fn block_size(&self) -> NonZeroU64 {
        self.shared.block_size
    }

    /// The bytes that are kept.
    pub fn filled(&self) -> u64 {
        self.shared.lock().filled
    }

    /// Whether blocks can be fetched ahead without crowding out those that are waited for: half
    /// of the cache is for what was read.
    pub fn has_room_ahead(&self) -> bool {
        let Shared { capacity, block_size, .. } = *self.shared;
        self.shared.lock().pending.saturating_mul(block_size.get()) < capacity / 2
    }

    /// Asks for the block `index` of a version; `fetch` gets it if it isn't there.
    ///
    /// # Errors
    /// Those of the fetch, whoever asked for it.
    pub async fn get_or_fetch<Fetched>(
        &self,
        version: &Arc<ObjectVersion>,
        index: u64,
        fetch: impl FnOnce() -> Fetched,
    ) -> Result<Bytes>
    where
        Fetched: Future<Output = Result<Bytes>> + Send + 'static,
    {
        let mut fetch = Some(fetch);
        let blocks = self.request(version, index..index + 1, |_| fetch.take().map(|fetch| fetch()));
        match blocks.first() {
            Some(block) => block.bytes().await,
            None => Ok(Bytes::new()),
        }
    }

    /// Asks for the blocks `wanted` of a version, without waiting for them.
    ///
    /// `fetch` is called once for each run of neighbours that aren't there, and gets the bytes of
    /// the whole run; `None` stands for nothing to read. Runs within a tokio runtime.
    pub fn request<Fetched>(
        &self,
        version: &Arc<ObjectVersion>,
        wanted: Range<u64>,
        mut fetch: impl FnMut(Range<u64>) -> Option<Fetched>,
    ) -> Vec<Block>
    where
        Fetched: Future<Output = Result<Bytes>> + Send + 'static,
    {
        let mut blocks = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut state = self.shared.lock();
        for index in wanted {
            let key = BlockKey { version: version.clone(), index };
            if let Some(slot) = state.slots.get(&key) {
                blocks.push(Block(slot.clone()));
                continue;
            }
            let slot = Arc::new(Slot::new());
            state.slots.put(key, slot.clone());
            state.pending += 1;
            match runs.last_mut() {
                Some(run) if run.first + run.slots.len() as u64 == index => {
                    run.slots.push(slot.clone());
                }
                _ => runs.push(Run {
                    shared: self.shared.clone(),
                    version: version.clone(),
                    first: index,
                    slots: vec![slot.clone()],
                }),
            }
            blocks.push(Block(slot));
        }
        drop(state);
        for run in runs {
            let range = run.first..run.first + run.slots.len() as u64;
            match fetch(range) {
                Some(fetched) => drop(tokio::spawn(run.fill(fetched))),
                None => run.settle(Ok(Bytes::new())),
            }
        }
        blocks
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn evict(&mut self, capacity: u64) {
        while self.filled > capacity {
            let Some((_, slot)) = self.slots.pop_lru() else { return };
            if let Some(Ok(bytes)) = slot.get() {
                self.filled -= bytes.len() as u64;
            }
        }
    }
}

/// Neighbouring slots that one fetch fills. Dropped unfilled, it fails them: nobody waits for ever.
struct Run {
    shared: Arc<Shared>,
    version: Arc<ObjectVersion>,
    first: u64,
    slots: Vec<Arc<Slot>>,
}

impl Run {
    async fn fill(self, fetched: impl Future<Output = Result<Bytes>>) {
        let outcome = fetched.await;
        self.settle(outcome);
    }

    fn settle(mut self, outcome: Result<Bytes>) {
        self.settle_slots(&outcome.map_err(Shareable::from));
    }

    fn settle_slots(&mut self, outcome: &Result<Bytes, Shareable>) {
        let size = usize::try_from(self.shared.block_size.get()).unwrap_or(usize::MAX);
        let mut state = self.shared.lock();
        for (position, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            let index = self.first + position as u64;
            let key = BlockKey { version: self.version.clone(), index };
            state.pending -= 1;
            // Evicted in the meantime, and maybe asked for again: not this run's any more.
            let listed = state.slots.peek(&key).is_some_and(|found| Arc::ptr_eq(found, &slot));
            let block = match outcome {
                Ok(bytes) => Ok(cut(bytes, position, size)),
                Err(error) => Err(error.clone()),
            };
            if listed {
                match &block {
                    Ok(bytes) => state.filled += bytes.len() as u64,
                    Err(_) => drop(state.slots.pop(&key)),
                }
            }
            // A run owns its slots, so each is set once.
            let _ = slot.set(block);
        }
        state.evict(self.shared.capacity);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.slots.is_empty() {
            let error = Error::new(ErrorKind::Interrupted, "a read ahead was given up");
            self.settle_slots(&Err(Shareable::from(error)));
        }
    }
}

/// A copy of the block at `position`: a slice would keep all of its run alive.
fn cut(run: &Bytes, position: usize, size: usize) -> Bytes {
    if run.len() <= size && position == 0 {
        return run.clone();
    }
    let start = position.saturating_mul(size).min(run.len());
    let end = start.saturating_add(size).min(run.len());
    Bytes::copy_from_slice(&run[start..end])
}

/// An error that several readers get.
#[derive(Clone)]
struct Shareable {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    cause: Option<String>,
}

impl From<Error> for Shareable {
    fn from(error: Error) -> Self {
        let source = std::error::Error::source(&error);
        Self {
            kind: error.kind(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
            cause: source.map(ToString::to_string),
        }
    }
}

impl From<Shareable> for Error {
    fn from(shared: Shareable) -> Self {
        let mut error = Error::new(shared.kind, shared.message);
        if let Some(hint) = shared.hint {
            error = error.with_hint(hint);
        }
        match shared.cause {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 4;

    fn cache(capacity: u64) -> BlockCache {
        BlockCache::with_block_size(capacity, NonZeroU64::new(SIZE).unwrap())
    }

    fn version(name: &str) -> Arc<ObjectVersion> {
        Arc::new(ObjectVersion { object: name.into(), etag: ETag("\"1\"".into()), size: 1 << 20 })
    }

    fn four(byte: u8) -> std::future::Ready<Result<Bytes>> {
        std::future::ready(Ok(vec![byte; 4].into()))
    }

    #[tokio::test]
    async fn a_block_is_fetched_once() {
        let cache = cache(100);
        for _ in 0..2 {
            let bytes = cache.get_or_fetch(&version("a"), 7, || four(1)).await.unwrap();
            assert_eq!(&bytes[..], [1; 4]);
        }
        let other = cache.get_or_fetch(&version("b"), 7, || four(2)).await.unwrap();
        assert_eq!(&other[..], [2; 4]);
        assert_eq!(cache.filled(), 8);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_readers_make_one_fetch() {
        let cache = Arc::new(cache(100));
        let fetches = Arc::new(AtomicUsize::new(0));
        let readers: Vec<_> = (0..64)
            .map(|_| {
                let (cache, fetches) = (cache.clone(), fetches.clone());
                tokio::spawn(async move {
                    let fetch = || async move {
                        fetches.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        four(3).await
                    };
                    cache.get_or_fetch(&version("a"), 0, fetch).await.unwrap()
                })
            })
            .collect();
        for reader in readers {
            assert_eq!(&reader.await.unwrap()[..], [3; 4]);
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn neighbours_that_are_missing_are_one_fetch() {
        let cache = cache(100);
        cache.get_or_fetch(&version("a"), 2, || four(2)).await.unwrap();
        let mut runs = Vec::new();
        let blocks = cache.request(&version("a"), 0..5, |run| {
            runs.push(run.clone());
            Some(async move {
                Ok((run.start..run.end).flat_map(|i| [u8::try_from(i).unwrap(); 4]).collect())
            })
        });
        assert_eq!(runs, [0..2, 3..5]);
        for (index, block) in (0..).zip(&blocks) {
            assert_eq!(&block.bytes().await.unwrap()[..], [index; 4]);
        }
    }

    #[tokio::test]
    async fn a_failure_reaches_all_who_wait_and_stays_with_none() {
        let cache = cache(100);
        let fail = |_| {
            let error = Error::new(ErrorKind::TimedOut, "too late").with_hint("hurry");
            Some(async move { Err(error) })
        };
        let first = cache.request(&version("a"), 0..1, fail);
        let second = cache.request(&version("a"), 0..1, fail);
        for block in first.iter().chain(&second) {
            let error = block.bytes().await.unwrap_err();
            assert_eq!((error.kind(), error.hint()), (ErrorKind::TimedOut, Some("hurry")));
        }
        assert_eq!(cache.get_or_fetch(&version("a"), 0, || four(1)).await.unwrap().len(), 4);
        assert_eq!(cache.filled(), 4);
    }

    #[tokio::test]
    async fn a_reader_who_leaves_takes_nothing_from_the_others() {
        let cache = Arc::new(cache(100));
        let slow = || async {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            four(5).await
        };
        let leaving = tokio::spawn({
            let cache = cache.clone();
            async move { cache.get_or_fetch(&version("a"), 0, slow).await }
        });
        tokio::task::yield_now().await;
        leaving.abort();
        let bytes = cache.get_or_fetch(&version("a"), 0, || four(6)).await.unwrap();
        assert!(!bytes.is_empty());
    }

    #[tokio::test]
    async fn a_fetch_that_panics_fails_those_who_wait() {
        let cache = cache(100);
        let panics = || async { panic!("a bug") };
        let error = cache.get_or_fetch(&version("a"), 0, panics).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(cache.get_or_fetch(&version("a"), 0, || four(1)).await.is_ok());
    }

    #[tokio::test]
    async fn the_least_recently_read_block_goes_first() {
        let cache = cache(8);
        for index in [0, 1, 0, 2] {
            cache.get_or_fetch(&version("a"), index, || four(0)).await.unwrap();
        }
        let mut missing = Vec::new();
        cache.request(&version("a"), 0..3, |run| {
            missing.push((run.start, run.end));
            None::<std::future::Ready<Result<Bytes>>>
        });
        assert_eq!(missing, [(1, 2)]);
    }

    proptest! {
        #[test]
        fn no_more_is_kept_than_there_is_room(
            capacity in 0_u64..40,
            reads in proptest::collection::vec((0_u8..3, 0_u64..8, 1_u64..5, 0_usize..20), 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let cache = cache(capacity);
                for (object, first, count, len) in reads {
                    let version = version(&object.to_string());
                    let blocks = cache.request(&version, first..first + count, |_| {
                        let outcome = if len == 19 { Err(ErrorKind::Io.into()) } else {
                            Ok(Bytes::from(vec![0; len]))
                        };
                        Some(async move { outcome })
                    });
                    for block in blocks {
                        let _ = block.bytes().await;
                    }
                    let kept: u64 = {
                        let state = cache.shared.lock();
                        assert_eq!(state.pending, 0);
                        let blocks = state.slots.iter().filter_map(|(_, slot)| slot.get());
                        blocks.flatten().map(|bytes| bytes.len() as u64).sum()
                    };
                    assert_eq!(kept, cache.filled());
                    assert!(kept <= capacity);
                }
            });
        }
    }
}
