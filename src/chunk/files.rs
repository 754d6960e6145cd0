//! Packs that are local files: kept open for a while, so that a read is one call of the system.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::{Area, Id};
use crate::error::Result;
use crate::object::ObjectStore;

/// How many packs are open at most: far fewer than a process may have open files.
const MOST_OPEN: NonZeroUsize = NonZeroUsize::new(256).expect("256 isn't 0");

/// How long a pack stays open that nobody reads: one that was deleted takes its room until then.
const IDLE: Duration = Duration::from_secs(30);

/// A pack in the store.
type Key = (Area, Id);

/// The packs that are open. Clones are the same.
#[derive(Clone)]
pub(super) struct Files(Arc<Mutex<Open>>);

struct Open {
    files: LruCache<Key, (Arc<File>, Instant)>,
    /// Whether somebody comes to close what is idle.
    watched: bool,
}

impl Files {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Open { files: LruCache::new(MOST_OPEN), watched: false })))
    }

    /// The file that a pack is; `None` in a store that has none.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn open(
        &self,
        store: &dyn ObjectStore,
        area: Area,
        pack: &Id,
    ) -> Result<Option<Arc<File>>> {
        let (key, now) = ((area, *pack), Instant::now());
        if let Some((file, used)) = self.lock().files.get_mut(&key) {
            *used = now;
            return Ok(Some(Arc::clone(file)));
        }
        let Some(file) = store.file(&area.key(pack))?.map(Arc::new) else { return Ok(None) };
        let mut open = self.lock();
        open.files.put(key, (Arc::clone(&file), now));
        if !std::mem::replace(&mut open.watched, true) {
            drop(open);
            self.watch();
        }
        Ok(Some(file))
    }

    /// Closes a pack whose bytes aren't right: another file may take its place.
    pub(super) fn close(&self, area: Area, pack: &Id) {
        self.lock().files.pop(&(area, *pack));
    }

    /// Closes what is idle, until there is nothing left to close.
    fn watch(&self) {
        let files = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let mut open = files.lock();
                let now = Instant::now();
                while let Some((_, (_, used))) = open.files.peek_lru()
                    && now.duration_since(*used) >= IDLE
                {
                    open.files.pop_lru();
                }
                if open.files.is_empty() {
                    open.watched = false;
                    return;
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
