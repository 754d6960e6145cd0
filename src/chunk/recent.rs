//! What was needed recently: bounded by weight, and loaded once however many ask for it.

use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;

use crate::error::Result;

/// A least-recently-used cache whose values are loaded on demand.
///
/// A slot enters before its value does, so whoever asks for a value that is being loaded waits
/// for the same load.
pub struct Recent<K, V> {
    /// Held to look up and evict, never while a value is loaded.
    slots: Mutex<Slots<K, V>>,
    budget: usize,
}

struct Slots<K, V> {
    by_key: LruCache<K, Slot<V>>,
    weight: usize,
}

struct Slot<V> {
    value: Arc<OnceCell<V>>,
    /// 0 until the value is loaded.
    weight: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    /// Makes a cache of values that weigh up to `budget` bytes together.
    pub fn new(budget: usize) -> Self {
        Self { slots: Mutex::new(Slots { by_key: LruCache::unbounded(), weight: 0 }), budget }
    }

    /// The value of `key`: a kept one, or what `load` gives, with its weight in bytes.
    ///
    /// # Errors
    /// Those of `load`, which is tried again by the next who asks.
    pub async fn get_or_load<F>(&self, key: K, load: F) -> Result<V>
    where
        F: Future<Output = Result<(V, usize)>>,
    {
        let cell = self.cell(&key);
        if let Some(value) = cell.get() {
            return Ok(value.clone());
        }
        let mut weight = 0;
        let loaded = cell.get_or_try_init(|| async {
            let (value, loaded_weight) = load.await?;
            weight = loaded_weight;
            Ok(value)
        });
        let loaded = loaded.await.cloned();
        self.settle(&key, &cell, weight);
        loaded
    }

    fn cell(&self, key: &K) -> Arc<OnceCell<V>> {
        let mut slots = self.lock();
        if let Some(slot) = slots.by_key.get(key) {
            return slot.value.clone();
        }
        let value = Arc::new(OnceCell::new());
        slots.by_key.put(key.clone(), Slot { value: value.clone(), weight: 0 });
        value
    }

    /// Counts what was loaded, forgets what failed, and evicts what is too much.
    fn settle(&self, key: &K, cell: &Arc<OnceCell<V>>, weight: usize) {
        let mut slots = self.lock();
        let Some(slot) = slots.by_key.peek_mut(key).filter(|slot| Arc::ptr_eq(&slot.value, cell))
        else {
            return;
        };
        if !slot.value.initialized() {
            slots.by_key.pop(key);
            return;
        }
        slot.weight += weight;
        slots.weight += weight;
        while slots.weight > self.budget {
            let Some((_, evicted)) = slots.by_key.pop_lru() else { return };
            slots.weight -= evicted.weight;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots<K, V>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::{Error, ErrorKind};

    #[tokio::test]
    async fn a_value_is_loaded_once_for_all_who_wait() {
        let (recent, loads) = (Recent::new(100), AtomicUsize::new(0));
        let ask = || {
            recent.get_or_load(1, async {
                loads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(("value", 5))
            })
        };
        let (one, two, three) = tokio::join!(ask(), ask(), ask());
        assert_eq!([one.unwrap(), two.unwrap(), three.unwrap()], ["value"; 3]);
        assert_eq!(loads.into_inner(), 1);
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_when_the_budget_is_spent() {
        let recent = Recent::new(10);
        let ask = |key, value: &'static str| {
            let load = async move { Ok((value, 4)) };
            recent.get_or_load(key, load)
        };
        for key in [1, 2, 1, 3] {
            ask(key, "first").await.unwrap();
        }
        assert_eq!(ask(1, "again").await.unwrap(), "first");
        assert_eq!(ask(2, "again").await.unwrap(), "again");
        assert!(recent.lock().weight <= 10);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let recent = Recent::new(10);
        let failure = async { Err(Error::from(ErrorKind::TimedOut)) };
        recent.get_or_load(1, failure).await.unwrap_err();
        assert_eq!(recent.get_or_load(1, async { Ok(("fine", 1)) }).await.unwrap(), "fine");
    }
}
