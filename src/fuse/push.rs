//! The thread that gives the kernel bytes before it asks for them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use fuser::{INodeNo, Notifier};
use tokio::runtime::Handle;

use crate::error::Result;
use crate::metrics::Metrics;
use crate::vfs::frozen::Frozen;
use crate::vfs::frozen::push::{Pushes, Read};

/// How many requests are noted at most: what comes while that many wait is passed over.
const NOTED: usize = 256;

/// Gives bytes to the kernel, as soon as the session can.
pub(super) struct Pusher {
    pushes: Pushes,
    reads: Receiver<Read>,
}

impl Pusher {
    /// Decides by what is noted through the returned end.
    pub(super) fn new(frozen: Arc<Frozen>, metrics: Arc<Metrics>) -> (SyncSender<Read>, Self) {
        let (noted, reads) = sync_channel(NOTED);
        (noted, Self { pushes: Pushes::new(frozen, metrics), reads })
    }

    /// Works on a thread of its own until nobody is left who notes anything: the kernel may make
    /// it wait for a request that a FUSE thread has to answer.
    pub(super) fn start(self, notifier: Notifier, runtime: Handle) -> io::Result<()> {
        let Self { mut pushes, reads } = self;
        let work = move || {
            let store = |ino, offset, bytes: &[u8]| {
                if let Err(error) = notifier.store(INodeNo(ino), offset, bytes) {
                    tracing::debug!(ino, %error, "the kernel took no bytes");
                }
            };
            while let Some(noted) = next(&reads, pushes.is_waiting()) {
                // All that was noted first, so that the disk reads for much of it at once.
                for read in noted {
                    log_failure(runtime.block_on(pushes.note(read)));
                }
                log_failure(runtime.block_on(pushes.give(&store)));
            }
        };
        thread::Builder::new().name("push".into()).spawn(work).map(|_| ())
    }
}

/// What was noted since it was last asked, which is waited for if there is nothing else to do;
/// `None` when nobody is left who notes anything.
fn next(reads: &Receiver<Read>, busy: bool) -> Option<Vec<Read>> {
    let mut noted = Vec::new();
    if !busy {
        noted.push(reads.recv().ok()?);
    }
    while noted.len() < NOTED {
        match reads.try_recv() {
            Ok(read) => noted.push(read),
            Err(TryRecvError::Empty) => break,
            Err(TryRecvError::Disconnected) => return None,
        }
    }
    Some(noted)
}

fn log_failure(done: Result<()>) {
    if let Err(error) = done {
        tracing::debug!(?error, "nothing was given to the kernel");
    }
}
