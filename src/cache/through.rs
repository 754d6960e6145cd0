//! A store some of whose objects never change, read through the cache.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use lru::LruCache;
use tokio::sync::{OnceCell, Semaphore};

use self::course::{Course, Plan};
use super::{BlockCache, LONGEST_RUN, ObjectVersion, Source};
use crate::error::Result;
use crate::object::{
    Brought, Depth, ETag, ListPage, Near, ObjectMeta, ObjectStore, Place, PutMode,
};

mod course;

/// How many objects' lengths are kept: those of 128 GiB of packs.
const KNOWN: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 isn't 0");

/// How much of an object is fetched at a time when all of it is, in bytes.
const PART: u64 = 4 << 20;

/// How many such parts are fetched at the same time: who waits for a read shares the line.
const FILLS: usize = 4;

/// A store that is far away, whose objects below some prefixes are named by their bytes: what was
/// read of them once is in memory or on disk.
#[derive(Debug)]
pub struct Through {
    store: Arc<dyn ObjectStore>,
    named: Arc<Named>,
    blocks: Arc<BlockCache>,
    /// What the addresses of objects begin with, whoever shares the cache.
    address: String,
    prefixes: &'static [&'static str],
    /// Guards a map of cells; never held while one is filled.
    objects: Mutex<LruCache<String, Arc<Object>>>,
    /// How many bytes those objects have that were ever read.
    touched: AtomicU64,
    /// Turns of those that fetch all of an object.
    fills: Arc<Semaphore>,
}

/// An object that is read.
#[derive(Debug, Default)]
struct Object {
    source: OnceCell<Arc<Source>>,
    /// Guards how it is read; held for a few comparisons.
    course: Mutex<Course>,
}

impl Through {
    /// Reads what is below `prefixes` in `store` through `blocks`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        blocks: Arc<BlockCache>,
        address: String,
        prefixes: &'static [&'static str],
    ) -> Self {
        let named = Arc::new(Named(store.clone()));
        let objects = Mutex::new(LruCache::new(KNOWN));
        let (touched, fills) = (AtomicU64::new(0), Arc::new(Semaphore::new(FILLS)));
        Self { store, named, blocks, address, prefixes, objects, touched, fills }
    }

    fn is_constant(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn object(&self, key: &str) -> Arc<Object> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.get_or_insert(key.to_owned(), Arc::default).clone()
    }

    /// Where an object's bytes come from. Its length is asked for once.
    async fn source(&self, object: &Object, key: &str) -> Result<Arc<Source>> {
        let found = object.source.get_or_try_init(|| async {
            let ObjectMeta { size, etag, .. } = self.store.head(key).await?;
            self.touched.fetch_add(size, Ordering::Relaxed);
            let object = format!("{}{key}", self.address).into();
            // The name is the version, whatever the service calls it; unless it was damaged and is
            // mended, which the service knows.
            let etag = ETag(format!("\"{key} {}\"", etag.0.trim_matches('"')));
            let version = ObjectVersion { object, etag, size };
            let (store, version) = (self.named.clone(), Arc::new(version));
            Ok(Arc::new(Source { store, key: key.into(), version }))
        });
        found.await.cloned()
    }

    /// Reads bytes, and asks for what is likely to follow: neighbours share a request.
    async fn read(
        &self,
        object: &Object,
        source: &Arc<Source>,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let (size, found) = (source.version.size, self.blocks.find(&source.version, &range));
        let Plan { ahead, all } = {
            let mut course = object.course.lock().unwrap_or_else(PoisonError::into_inner);
            course.note(&range, size, found.is_none())
        };
        // All of what was read from here and there fits, so that nothing is fetched in vain.
        if all && self.blocks.fits(self.touched.load(Ordering::Relaxed)) {
            tokio::spawn(fill(self.blocks.clone(), source.clone(), self.fills.clone()));
        }
        if let Some(found) = found {
            if !ahead.is_empty() {
                self.blocks.prefetch(source, &[ahead], LONGEST_RUN);
            }
            return Ok(found);
        }
        self.blocks.request(source, range, &[ahead], LONGEST_RUN).bytes().await
    }
}

/// Fetches all of an object, while few others are.
async fn fill(blocks: Arc<BlockCache>, source: Arc<Source>, fills: Arc<Semaphore>) {
    let size = source.version.size;
    for start in (0..size).step_by(usize::try_from(PART).unwrap_or(usize::MAX)) {
        let part = start..(start + PART).min(size);
        if blocks.is_below(&source.version, part.clone()) {
            continue;
        }
        let _turn = fills.acquire().await;
        blocks.request(&source, part.clone(), &[], PART).settled().await;
        if blocks.room_below().is_some() {
            // It is to be on disk, which drops what comes faster than it writes.
            blocks.leave(&source.version, &part);
            let blocks = blocks.clone();
            let _ = tokio::task::spawn_blocking(move || blocks.settle()).await;
        }
    }
}

#[async_trait]
impl ObjectStore for Through {
    async fn get(&self, key: &str, range: Range<u64>, if_match: Option<&ETag>) -> Result<Bytes> {
        if if_match.is_some() || !self.is_constant(key) {
            return self.store.get(key, range, if_match).await;
        }
        let object = self.object(key);
        let source = self.source(&object, key).await?;
        let size = source.version.size;
        let range = range.start.min(size)..range.end.min(size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.read(&object, &source, range).await
    }

    fn read_ahead(&self) -> Option<Arc<dyn ObjectStore>> {
        self.store.read_ahead()
    }

    fn doubt(&self, key: &str) {
        let doubted = self.objects.lock().unwrap_or_else(PoisonError::into_inner).pop(key);
        if let Some(source) = doubted.as_ref().and_then(|object| object.source.get()) {
            self.touched.fetch_sub(source.version.size, Ordering::Relaxed);
        }
    }

    fn near(&self) -> Option<&dyn Near> {
        self.blocks.room_below().map(|_| self as &dyn Near)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.store.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.store.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.store.list(prefix, depth)
    }
}

#[async_trait]
impl Near for Through {
    fn place(&self) -> Place {
        Place::Disk
    }

    fn room(&self) -> u64 {
        self.blocks.room_below().unwrap_or(0)
    }

    async fn bring(&self, key: &str, range: Range<u64>) -> Result<Brought> {
        let source = self.source(&self.object(key), key).await?;
        self.blocks.bring_below(&source, range).await
    }
}

/// A store as the cache reads it: it names the version it wants, which here is the key.
#[derive(Debug)]
struct Named(Arc<dyn ObjectStore>);

#[async_trait]
impl ObjectStore for Named {
    async fn get(&self, key: &str, range: Range<u64>, _: Option<&ETag>) -> Result<Bytes> {
        self.0.get(key, range, None).await
    }

    async fn get_into(
        &self,
        key: &str,
        range: Range<u64>,
        _: Option<&ETag>,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<()> {
        self.0.get_into(key, range, None, sink).await
    }

    fn read_ahead(&self) -> Option<Arc<dyn ObjectStore>> {
        self.0.read_ahead().map(|store| Arc::new(Self(store)) as Arc<dyn ObjectStore>)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.0.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<ETag> {
        self.0.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }

    fn list(&self, prefix: &str, depth: Depth) -> BoxStream<'static, Result<ListPage>> {
        self.0.list(prefix, depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::metrics::Metrics;
    use crate::object::memory::MemoryStore;

    #[tokio::test]
    async fn what_never_changes_is_read_once() {
        let store = Arc::new(MemoryStore::new());
        let blocks = Arc::new(BlockCache::new(1 << 20, Arc::<Metrics>::default()));
        let through = Through::new(store.clone(), blocks, "memory/".into(), &["packs/"]);
        let put = |key: &'static str, bytes: &'static [u8]| {
            store.put(key, Bytes::from_static(bytes), PutMode::Overwrite)
        };
        let get = |key: &'static str| through.get(key, 2..u64::MAX, None);
        put("packs/a", b"0123456789").await.unwrap();
        put("other", b"0123456789").await.unwrap();
        assert_eq!(get("packs/a").await.unwrap(), "23456789");
        assert_eq!(get("other").await.unwrap(), "23456789");
        store.delete("packs/a").await.unwrap();
        store.delete("other").await.unwrap();
        assert_eq!(get("packs/a").await.unwrap(), "23456789");
        assert_eq!(get("other").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(get("packs/b").await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
