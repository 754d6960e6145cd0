//! How long the files of a tree are together, and which of them are being used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind, Result};
use crate::tree::Identity;

/// How long a change waits for files to be closed that have no name any more: a kernel says only
/// after a removal that it lets go of the file, and what comes next may overtake that.
const PATIENCE: Duration = Duration::from_millis(250);

/// The length of a file that nobody has looked up yet; no file is that long.
const UNKNOWN: u64 = u64::MAX;

/// What files may be long together, and what they are.
pub(super) struct Gauge {
    limit: AtomicU64,
    /// Guards what is counted; never held across an await.
    state: Mutex<State>,
    /// Told when something was given back.
    freed: Notify,
    sealed: AtomicBool,
    ran_out: AtomicBool,
}

struct State {
    used: u64,
    /// The files that are open or being changed.
    held: HashMap<Identity, (Arc<Counted>, usize)>,
}

/// A file that is open or being changed.
pub(super) struct Counted {
    /// Held while the file's length may change, so that no two changes count from one length.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// The length that is counted.
    len: AtomicU64,
    /// Whether its last name is gone: it is given back when nobody holds it any more.
    nameless: AtomicBool,
}

/// A use of a file, which is counted as long as there is one.
pub(super) struct Hold {
    gauge: Arc<Gauge>,
    identity: Identity,
    pub(super) file: Arc<Counted>,
}

impl Gauge {
    pub(super) fn new(limit: u64, used: u64) -> Self {
        let state = Mutex::new(State { used, held: HashMap::new() });
        let (sealed, ran_out) = (AtomicBool::new(false), AtomicBool::new(false));
        let limit = AtomicU64::new(limit);
        Self { limit, state, freed: Notify::new(), sealed, ran_out }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::SeqCst)
    }

    /// Sets another limit; what is there stays, also when it is more.
    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::SeqCst);
        self.freed.notify_waiters();
    }

    pub(super) fn used(&self) -> u64 {
        self.lock().used
    }

    pub(super) fn ran_out(&self) -> bool {
        self.ran_out.load(Ordering::SeqCst)
    }

    /// Refuses every change from now on.
    pub(super) fn seal(&self) {
        self.sealed.store(true, Ordering::SeqCst);
    }

    /// Whether changes are allowed still.
    ///
    /// # Errors
    /// `ReadOnlyFilesystem`.
    pub(super) fn check_unsealed(&self) -> Result<()> {
        if self.sealed.load(Ordering::SeqCst) {
            let message = "nothing can be changed any more: it is sealed";
            return Err(Error::new(ErrorKind::ReadOnlyFilesystem, message));
        }
        Ok(())
    }

    /// Holds the file of an identity.
    pub(super) fn hold(self: &Arc<Self>, identity: Identity) -> Hold {
        let mut state = self.lock();
        let (file, holds) = state.held.entry(identity).or_insert_with(|| {
            let (len, nameless) = (AtomicU64::new(UNKNOWN), AtomicBool::new(false));
            (Arc::new(Counted { changing: tokio::sync::Mutex::default(), len, nameless }), 0)
        });
        *holds += 1;
        Hold { gauge: self.clone(), identity, file: file.clone() }
    }

    /// Takes room for `bytes` more.
    ///
    /// # Errors
    /// `StorageFull` when there isn't that much.
    pub(super) async fn take(&self, bytes: u64) -> Result<()> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let freed = self.freed.notified();
            let waits = {
                let mut state = self.lock();
                let then = state.used.saturating_add(bytes);
                if bytes == 0 || then <= self.limit() {
                    state.used = then;
                    return Ok(());
                }
                state.held.values().any(|(file, _)| file.nameless.load(Ordering::Relaxed))
            };
            if !waits || timeout_at(patience, freed).await.is_err() {
                self.ran_out.store(true, Ordering::SeqCst);
                let message = format!("there is no room for {bytes} bytes more");
                return Err(Error::new(ErrorKind::StorageFull, message));
            }
        }
    }

    /// Counts `now` where `before` was counted.
    pub(super) fn correct(&self, before: u64, now: u64) {
        let mut state = self.lock();
        state.used = state.used.saturating_sub(before).saturating_add(now);
        drop(state);
        if now < before {
            self.freed.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// The length that is counted, if it was looked up.
    pub(super) fn len(&self) -> Option<u64> {
        Some(self.len.load(Ordering::SeqCst)).filter(|len| *len != UNKNOWN)
    }

    /// Takes a length that was looked up while the file was held, unless another was first; tells
    /// which counts. Nobody changes a file before its length is known, so both are the same.
    pub(super) fn found(&self, len: u64) -> u64 {
        let first = self.len.compare_exchange(UNKNOWN, len, Ordering::SeqCst, Ordering::SeqCst);
        first.map_or_else(|known| known, |_| len)
    }

    /// Notes the length after a change.
    pub(super) fn changed(&self, len: u64) {
        self.len.store(len, Ordering::SeqCst);
    }

    /// Notes that the last name is gone; its length has to be known.
    pub(super) fn lost_its_name(&self) {
        self.nameless.store(true, Ordering::SeqCst);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.gauge.lock();
        let Some((_, holds)) = state.held.get_mut(&self.identity) else { return };
        *holds -= 1;
        if *holds > 0 {
            return;
        }
        state.held.remove(&self.identity);
        if self.file.nameless.load(Ordering::SeqCst) {
            state.used = state.used.saturating_sub(self.file.len().unwrap_or(0));
            drop(state);
            self.gauge.freed.notify_waiters();
        }
    }
}
