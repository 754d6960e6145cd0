//! Files that the kernel reads and writes by itself, without asking: passthrough (Linux 6.9, for
//! root).
//!
//! The kernel has two rules. All opens of an inode at one time share a backing file; and while an
//! inode is open in one way, by passthrough or through the kernel's pages, it can't be opened in
//! the other. So an inode stays as it was opened first until nobody has it open.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::BackingId;

use crate::metrics::Metrics;
use crate::tree::{File, OpenMode, PageCache};

/// The smallest file that never changes for which it pays, in bytes: a smaller one is read by one
/// request and stays in the kernel's pages, which costs less than telling the kernel of a file.
const SMALLEST: u64 = 1 << 20;

/// The set-user-ID and the set-group-ID bit, see `inode(7)`.
const SET_ID: u32 = 0o6000;

/// How each inode is open.
pub(super) struct Passthrough {
    /// Counts the opens of which the kernel asks nothing more.
    metrics: Arc<Metrics>,
    /// Whether the kernel can do it.
    enabled: AtomicBool,
    /// Whether it won't for us.
    refused: AtomicBool,
    /// Guards how inodes are open; held while the kernel is told of a file, which doesn't wait.
    open: Mutex<HashMap<u64, Open>>,
}

/// How an inode is open.
struct Open {
    /// How many handles there are.
    handles: usize,
    /// The file that the kernel uses; `None` when it asks us.
    backing: Option<Arc<BackingId>>,
}

impl Passthrough {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let (enabled, refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { metrics, enabled, refused, open: Mutex::default() }
    }

    /// Allows it: the kernel said that it can.
    pub(super) fn enable(&self) {
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Counts a handle of an inode, and gives the file that the kernel shall use instead of
    /// asking, if there is one. `tell` makes it known to the kernel.
    pub(super) fn opened(
        &self,
        ino: u64,
        file: &dyn File,
        mode: OpenMode,
        tell: impl FnOnce(&std::fs::File) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if !self.enabled.load(Ordering::Relaxed) {
            return None;
        }
        let backing = self.backing(ino, file, mode, tell)?;
        self.metrics.passthrough_opens.add(1);
        if mode.read && mode.writes() {
            file.handed_over();
        }
        Some(backing)
    }

    fn backing(
        &self,
        ino: u64,
        file: &dyn File,
        mode: OpenMode,
        tell: impl FnOnce(&std::fs::File) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let mut open = self.lock();
        if let Some(open) = open.get_mut(&ino) {
            open.handles += 1;
            return open.backing.clone();
        }
        let local = suitable(file, mode).filter(|_| !self.refused.load(Ordering::Relaxed));
        let backing = local.and_then(|local| match tell(local) {
            Ok(backing) => Some(Arc::new(backing)),
            Err(error) => {
                self.refused(&error);
                None
            }
        });
        open.insert(ino, Open { handles: 1, backing: backing.clone() });
        backing
    }

    /// Takes back a handle of an inode.
    pub(super) fn released(&self, ino: u64) {
        let mut open = self.lock();
        let Some(inode) = open.get_mut(&ino) else { return };
        inode.handles -= 1;
        let last = if inode.handles == 0 { open.remove(&ino) } else { None };
        drop(open);
        // The kernel is told without the lock.
        drop(last);
    }

    /// Says once why the kernel goes on asking, unless it is because of this one file, or of the
    /// user, who was told when he mounted.
    fn refused(&self, error: &io::Error) {
        let not_allowed = matches!(
            rustix::io::Errno::from_io_error(error),
            Some(rustix::io::Errno::PERM | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOTTY)
        );
        let is_first = not_allowed && !self.refused.swap(true, Ordering::Relaxed);
        if is_first && rustix::process::geteuid().is_root() {
            tracing::info!(%error, "files are read and written through this process: the kernel allows no passthrough");
        } else {
            tracing::debug!(%error, "a file is used through this process");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The local file behind one, if the kernel can use it by itself and that is worth it.
fn suitable(file: &dyn File, mode: OpenMode) -> Option<&std::fs::File> {
    let local = file.local()?;
    let metadata = local.metadata().ok()?;
    let suits = match file.page_cache() {
        // What never changes is kept in the kernel's pages just as well.
        PageCache::Keep => !mode.writes() && metadata.len() >= SMALLEST,
        // The kernel writes as this process, so it takes no set-id bits off. Who opens such a
        // file to write while it is open already has taken them off by that.
        PageCache::PerOpen => metadata.mode() & SET_ID == 0,
        PageCache::Never => false,
    };
    suits.then_some(local)
}
