//! Small objects: whole at `open`, and their siblings ahead of who reads a directory.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lru::LruCache;
use tokio::sync::SetOnce;

use super::Shared;
use super::flights::Flights;
use super::known::Node;
use super::listing::Listing;
use super::names::Place;
use super::scan::{Presence, Scan};
use crate::cache::{LONGEST_RUN, Source, Wanted};
use crate::error::ErrorKind;
use crate::path::TreePath;

/// Objects of at most so many bytes are fetched whole: one request, which takes hardly longer than
/// one for a part of them.
pub(super) const SMALL: u64 = 1 << 20;

/// How many directories are watched for who reads them.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(64).expect("isn't zero");

/// How many versions are remembered to have been opened.
const VERSIONS: NonZeroUsize = NonZeroUsize::new(100_000).expect("isn't zero");

/// How surely the kernel is known to keep, or not to keep, the pages of what was opened before.
const SURE: i32 = 8;

/// The directories whose objects are being opened.
pub(super) struct Siblings {
    /// Held for a few comparisons, never while waiting.
    state: Mutex<State>,
}

struct State {
    scans: LruCache<TreePath, Watched>,
    flights: Flights,
    /// What is being fetched ahead.
    coming: HashMap<TreePath, Arc<SetOnce<()>>>,
    /// The versions that were opened before, as hashes.
    opened: LruCache<u64, ()>,
    /// Above zero where the kernel turned out to read again what was opened before: it doesn't
    /// keep the pages of it.
    reread: i32,
}

/// A directory whose objects are being opened, as it was listed when that began.
struct Watched {
    listing: Arc<Listing>,
    scan: Scan,
}

impl Default for Siblings {
    fn default() -> Self {
        let state = State {
            scans: LruCache::new(DIRECTORIES),
            flights: Flights::default(),
            coming: HashMap::new(),
            opened: LruCache::new(VERSIONS),
            reread: 0,
        };
        Self { state: Mutex::new(state) }
    }
}

impl Siblings {
    /// What ends when `path` has been fetched ahead, if it is being fetched.
    pub(super) fn coming(&self, path: &TreePath) -> Option<Arc<SetOnce<()>>> {
        self.lock().coming.get(path).cloned()
    }

    /// Notes that a program waits for bytes of a small object: the kernel hasn't kept its pages.
    pub(super) fn note_wait(&self) {
        let mut state = self.lock();
        state.reread = (state.reread + 2).min(SURE);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the kernel may have the pages of a version, so that nobody may come to read it.
    fn may_be_kept(&mut self, source: &Source) -> bool {
        self.reread <= 0 && self.opened.contains(&source.version.hash())
    }
}

impl Shared {
    /// An object is being opened: asks for all of it if it is small, and for its siblings if the
    /// directory is being read.
    pub(super) fn note_open(self: &Arc<Self>, path: &TreePath, source: &Arc<Source>) {
        let size = source.version.size;
        if size == 0 || size > SMALL {
            return;
        }
        let fetch = {
            let mut state = self.siblings.lock();
            let before = state.opened.put(source.version.hash(), ()).is_some();
            if before {
                state.reread = (state.reread - 1).max(-SURE);
            }
            !before || state.reread > 0
        };
        let presence = if fetch {
            let wanted = self.cache.request(source, 0..size, &[], LONGEST_RUN);
            match (wanted.is_there(), wanted.is_new()) {
                (true, _) => Presence::There,
                (false, false) => Presence::Coming,
                (false, true) => Presence::Absent,
            }
        } else {
            Presence::There
        };
        self.watch(path, presence);
        self.fetch_siblings();
    }

    fn watch(&self, path: &TreePath, presence: Presence) {
        let (Some(dir), Some(name)) = (path.parent(), path.name()) else { return };
        let known = |watched: &Watched| watched.listing.position(name);
        let listed = self.siblings.lock().scans.get(&dir).map(known);
        if !matches!(listed, Some(Ok(_))) {
            let Some(listing) = self.known.old_listing(&dir) else { return };
            let scan = Scan::new((0..listing.len()).map(|at| small_size(&listing, at)).collect());
            self.siblings.lock().scans.put(dir.clone(), Watched { listing, scan });
        }
        if let Some(watched) = self.siblings.lock().scans.get_mut(&dir)
            && let Ok(at) = known(watched)
        {
            watched.scan.note_open(at, presence);
        }
    }

    /// Fetches ahead what there is time and room for.
    fn fetch_siblings(self: &Arc<Self>) {
        while let Some((path, at, listing)) = self.next_sibling() {
            if !self.fetch_sibling(&path, at, &listing) {
                self.give_up_sibling(&path, at);
                self.siblings.lock().flights.cancel();
            }
        }
    }

    /// The next object to fetch ahead; it counts as being on its way.
    fn next_sibling(&self) -> Option<(TreePath, usize, Arc<Listing>)> {
        let room = self.cache.room_ahead();
        let mut state = self.siblings.lock();
        if room < SMALL || !state.flights.start() {
            return None;
        }
        // The directory that was read last comes first.
        let next = state.scans.iter_mut().find_map(|(dir, watched)| {
            let at = watched.scan.next(room)?;
            let path = dir.join(watched.listing.name(at)?).ok()?;
            Some((path, at, watched.listing.clone()))
        });
        if next.is_none() {
            state.flights.cancel();
        }
        next
    }

    /// Starts to fetch an object; whether there was anything to do.
    fn fetch_sibling(self: &Arc<Self>, path: &TreePath, at: usize, listing: &Arc<Listing>) -> bool {
        // The newest listing knows the version, though the scan began with an older one.
        let newest = path.parent().and_then(|dir| self.known.old_listing(&dir));
        let node = match newest.filter(|newest| !Arc::ptr_eq(newest, listing)) {
            Some(newest) => path.name().and_then(|name| newest.find(name)),
            None => listing.node(at),
        };
        let Some(node @ Node::File { .. }) = node else { return false };
        let Some(source) = Place::of(path).and_then(|place| self.source(&place, &node)) else {
            return false;
        };
        let size = source.version.size;
        if size == 0 || size > SMALL || self.siblings.lock().may_be_kept(&source) {
            return false;
        }
        let asked = Instant::now();
        let wanted = self.cache.prefetch(&Arc::new(source), &[0..size], LONGEST_RUN);
        if !wanted.is_new() {
            return false;
        }
        let done = Arc::new(SetOnce::new());
        self.siblings.lock().coming.insert(path.clone(), done.clone());
        let mut flight =
            Flight { shared: self.clone(), path: path.clone(), at, asked, done, came: false };
        let shared = self.clone();
        tokio::spawn(async move {
            flight.wait(wanted, node).await;
            drop(flight);
            shared.fetch_siblings();
        });
        true
    }

    fn give_up_sibling(&self, path: &TreePath, at: usize) {
        if let Some(dir) = path.parent()
            && let Some(watched) = self.siblings.lock().scans.peek_mut(&dir)
            && watched.listing.name(at).as_deref() == path.name()
        {
            watched.scan.give_up(at);
        }
    }
}

/// An object on its way, for nobody yet.
struct Flight {
    shared: Arc<Shared>,
    path: TreePath,
    at: usize,
    asked: Instant,
    done: Arc<SetOnce<()>>,
    came: bool,
}

impl Flight {
    async fn wait(&mut self, wanted: Wanted, node: Node) {
        match wanted.bytes().await {
            Ok(_) => {
                self.came = true;
                // The store has just confirmed that this version is there.
                self.shared.known.remember(self.path.clone(), self.asked, Some(node));
            }
            Err(error) => {
                if matches!(error.kind(), ErrorKind::StaleHandle | ErrorKind::NotFound) {
                    self.came = true;
                    self.shared.known.forget(&self.path);
                }
                self.shared.give_up_sibling(&self.path, self.at);
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        {
            let mut state = self.shared.siblings.lock();
            state.coming.remove(&self.path);
            state.flights.end(self.came.then(|| self.asked.elapsed()));
        }
        let _ = self.done.set(());
    }
}

/// The size of the object at a position if it is small, else 0.
fn small_size(listing: &Listing, at: usize) -> u32 {
    let size = listing.object(at).map_or(0, |(size, ..)| size);
    u32::try_from(size).ok().filter(|_| size <= SMALL).unwrap_or(0)
}
