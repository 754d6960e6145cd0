//! What is to be written: a bounded queue that one thread drains.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::cache::ObjectVersion;

/// The most bytes that are held until they are written.
const MOST_WAITING: usize = 32 << 20;

/// The most parts that wait besides: they are written if whoever has them has them still.
const MOST_ELSEWHERE: usize = 1024;

/// The most objects that wait to be checked: those that are left out are when they are next opened.
const MOST_CHECKS: usize = 256;

/// How often the thread looks after the cache when there is nothing to write.
const PAUSE: Duration = Duration::from_secs(10);

/// Bytes of an object at an offset.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) version: Arc<ObjectVersion>,
    pub(super) offset: u64,
    pub(super) bytes: Held,
}

/// Who holds the bytes of a job until they are written.
pub(super) enum Held {
    /// The job.
    Here(Bytes),
    /// Somebody who may have let go of them by then.
    Elsewhere(Box<dyn FnOnce() -> Option<Bytes> + Send>),
}

impl Held {
    /// The bytes, if they are still there.
    pub(super) fn take(self) -> Option<Bytes> {
        match self {
            Self::Here(bytes) => Some(bytes),
            Self::Elsewhere(find) => find(),
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Elsewhere(_) => f.write_str("bytes elsewhere"),
        }
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Guards the jobs; held to add one or to take all.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: Vec<Job>,
    /// How many bytes the jobs hold, and how many of them hold none.
    waiting: usize,
    elsewhere: usize,
    /// What is to be checked when there is nothing to write.
    checks: VecDeque<Arc<ObjectVersion>>,
    /// Whether jobs that were taken are still being written.
    busy: bool,
    closed: bool,
}

/// What the thread is to do next.
pub(super) enum Next {
    /// Write these.
    Write(Vec<Job>),
    /// Check some of this, and all of it by and by.
    Check(Arc<ObjectVersion>),
    /// Look after what there is.
    Rest,
    /// End.
    End,
}

impl Queue {
    /// Adds a job, if there is room for it.
    pub(super) fn offer(&self, job: Job) -> bool {
        let mut state = self.lock();
        let (waiting, elsewhere) = match &job.bytes {
            Held::Here(bytes) => (state.waiting + bytes.len(), state.elsewhere),
            Held::Elsewhere(_) => (state.waiting, state.elsewhere + 1),
        };
        if state.closed || waiting > MOST_WAITING || elsewhere > MOST_ELSEWHERE {
            return false;
        }
        (state.waiting, state.elsewhere) = (waiting, elsewhere);
        state.jobs.push(job);
        if state.jobs.len() == 1 && !state.busy {
            self.changed.notify_all();
        }
        true
    }

    /// Asks for a check of a version, after all that are asked for already.
    pub(super) fn check(&self, version: Arc<ObjectVersion>) {
        let mut state = self.lock();
        if state.checks.len() < MOST_CHECKS && !state.checks.contains(&version) {
            state.checks.push_back(version);
            self.changed.notify_all();
        }
    }

    /// Whether it takes no more jobs.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for jobs and takes all of them, those of one object together and in order.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        state.busy = false;
        self.changed.notify_all();
        let idle =
            |state: &mut State| state.jobs.is_empty() && state.checks.is_empty() && !state.closed;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, PAUSE, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if state.jobs.is_empty() {
            if let Some(version) = state.checks.pop_front() {
                return Next::Check(version);
            }
            return if state.closed { Next::End } else { Next::Rest };
        }
        state.busy = true;
        (state.waiting, state.elsewhere) = (0, 0);
        let mut jobs = std::mem::take(&mut state.jobs);
        drop(state);
        jobs.sort_by_key(|job| (Arc::as_ptr(&job.version).addr(), job.offset));
        Next::Write(jobs)
    }

    /// Waits until all that was added is written.
    pub(super) fn drain(&self) {
        let busy = |state: &mut State| state.busy || !state.jobs.is_empty();
        let drained = self.changed.wait_while(self.lock(), busy);
        drop(drained.unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes no more jobs; the thread ends when those it has are done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
