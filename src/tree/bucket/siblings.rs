//! Small objects: whole at `open`, and their siblings ahead of who reads a directory.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::sync::SetOnce;

use super::Shared;
use super::flights::Flights;
use super::known::Node;
use super::listing::Listing;
use super::scan::{Presence, Scan};
use crate::cache::{LONGEST_RUN, Source, Wanted};
use crate::error::ErrorKind;
use crate::object::names::Place;
use crate::path::TreePath;

/// Objects of at most so many bytes are fetched whole: one request, which takes hardly longer than
/// one for a part of them.
pub(super) const SMALL: u64 = 1 << 20;

/// How many directories are watched for who reads them.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(64).expect("isn't zero");

/// How many versions are remembered to have been opened.
const VERSIONS: NonZeroUsize = NonZeroUsize::new(100_000).expect("isn't zero");

/// Who reads in order waits for what is fetched ahead, so that many fetches may slow each other
/// down; who reads shuffled mostly waits for fetches of his own, which they shall not slow down.
const SLOWEST_IN_ORDER: f64 = 3.0;
const SLOWEST_SHUFFLED: f64 = 2.2;

/// How many objects that needn't be fetched are passed by at once: who opens one waits for that.
const MOST_NEEDLESS: usize = 8;

/// Objects are being opened in a directory if one was so recently.
const RECENT: Duration = Duration::from_secs(1);

/// How many names may have been looked up lately whose objects weren't opened.
const MOST_UNOPENED: usize = 32;

/// How surely the kernel is known to keep, or not to keep, the pages of what was opened before.
const SURE: i32 = 8;

/// The directories whose objects are being opened.
pub(super) struct Siblings {
    /// Held for a few comparisons, never while waiting.
    state: Mutex<State>,
}

struct State {
    scans: LruCache<TreePath, Watched>,
    /// Of who reads in order, and of who reads shuffled.
    in_order: Flights,
    shuffled: Flights,
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
    /// When an object was last opened, and how many were.
    opened: Instant,
    opens: usize,
    /// What was looked up and fetched, and not opened yet.
    looked_up: BTreeSet<usize>,
}

impl Watched {
    /// Whether who looks a name up here will open it.
    fn expects_open(&self) -> bool {
        self.opens > 1 && self.looked_up.len() < MOST_UNOPENED && self.opened.elapsed() < RECENT
    }
}

impl Default for Siblings {
    fn default() -> Self {
        let state = State {
            scans: LruCache::new(DIRECTORIES),
            in_order: Flights::new(SLOWEST_IN_ORDER),
            shuffled: Flights::new(SLOWEST_SHUFFLED),
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

    /// Whether the objects of `dir` are being opened one after another, so that who looks a name up
    /// will open it.
    pub(super) fn expect_open(&self, dir: &TreePath) -> bool {
        self.lock().scans.peek(dir).is_some_and(Watched::expects_open)
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
    fn flights(&mut self, in_order: bool) -> &mut Flights {
        if in_order { &mut self.in_order } else { &mut self.shuffled }
    }

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
            let listing = self.known.old_listing(&dir);
            // A version of an object isn't listed.
            let Some(listing) = listing.filter(|listing| listing.position(name).is_ok()) else {
                return;
            };
            let scan = Scan::new((0..listing.len()).map(|at| small_size(&listing, at)).collect());
            let (opened, looked_up) = (Instant::now(), BTreeSet::new());
            let watched = Watched { listing, scan, opened, opens: 0, looked_up };
            self.siblings.lock().scans.put(dir.clone(), watched);
        }
        if let Some(watched) = self.siblings.lock().scans.get_mut(&dir)
            && let Ok(at) = known(watched)
        {
            // What the lookup had to wait for wasn't fetched ahead in time.
            let late = watched.looked_up.remove(&at);
            watched.scan.note_open(at, if late { Presence::Absent } else { presence });
            watched.opened = Instant::now();
            watched.opens += 1;
        }
    }

    /// Fetches ahead what there is time and room for.
    fn fetch_siblings(self: &Arc<Self>) {
        let mut needless = 0;
        while needless < MOST_NEEDLESS
            && let Some((sibling, listing)) = self.next_sibling()
        {
            if !self.fetch_sibling(&sibling, &listing) {
                self.give_up_sibling(&sibling);
                self.siblings.lock().flights(sibling.in_order).cancel();
                needless += 1;
            }
        }
    }

    /// The next object to fetch ahead; it counts as being on its way.
    fn next_sibling(&self) -> Option<(Sibling, Arc<Listing>)> {
        let room = self.cache.room_ahead();
        if room < SMALL {
            return None;
        }
        // What is read in no order may wait on disk until its turn comes.
        let below = self.cache.room_below().map_or(0, |below| below / 2);
        // A cache on disk that can't be written to keeps nothing.
        let below = if self.cache.fits(below) { below } else { 0 };
        let mut state = self.siblings.lock();
        let State { scans, in_order, shuffled, .. } = &mut *state;
        // The directory that was read last comes first.
        scans.iter_mut().find_map(|(dir, watched)| {
            let ordered = watched.scan.is_in_order();
            let flights = if ordered { &mut *in_order } else { &mut *shuffled };
            if !flights.start() {
                return None;
            }
            let room = room + watched.scan.ahead_bytes();
            let next = watched.scan.next(room, room.max(below)).and_then(|at| {
                let path = dir.join(watched.listing.name(at)?).ok()?;
                Some((Sibling { path, at, in_order: ordered }, watched.listing.clone()))
            });
            if next.is_none() {
                flights.cancel();
            }
            next
        })
    }

    /// Starts to fetch an object; whether there was anything to do.
    fn fetch_sibling(self: &Arc<Self>, sibling: &Sibling, listing: &Arc<Listing>) -> bool {
        let Sibling { path, at, .. } = sibling;
        // The newest listing knows the version, though the scan began with an older one.
        let newest = path.parent().and_then(|dir| self.known.old_listing(&dir));
        let node = match newest.filter(|newest| !Arc::ptr_eq(newest, listing)) {
            Some(newest) => path.name().and_then(|name| newest.find(name)),
            None => listing.node(*at),
        };
        let Some(node @ Node::File { .. }) = node else { return false };
        let Some(source) = self.small_source(path, &node) else { return false };
        // What programs wait for goes first.
        let source = Source { store: self.quiet.clone(), ..source };
        let size = source.version.size;
        let asked = Instant::now();
        let wanted =
            self.cache.prefetch(&Arc::new(source), std::slice::from_ref(&(0..size)), LONGEST_RUN);
        if !wanted.is_new() {
            return false;
        }
        let done = Arc::new(SetOnce::new());
        self.siblings.lock().coming.insert(path.clone(), done.clone());
        let mut flight =
            Flight { shared: self.clone(), sibling: sibling.clone(), asked, done, came: false };
        let shared = self.clone();
        tokio::spawn(async move {
            flight.wait(wanted, node).await;
            drop(flight);
            shared.fetch_siblings();
        });
        true
    }

    /// Where a small object is read from, unless the kernel may have it.
    fn small_source(&self, path: &TreePath, node: &Node) -> Option<Source> {
        let source = self.source(&Place::of(path)?, node)?;
        let small = (1..=SMALL).contains(&source.version.size);
        (small && !self.siblings.lock().may_be_kept(&source)).then_some(source)
    }

    /// What `path` was when its directory was last listed, where objects are being opened one after
    /// another and the bucket will be asked for this one: what is on disk may be older than anything
    /// that is known.
    pub(super) fn to_be_fetched(&self, path: &TreePath) -> Option<(Node, Source)> {
        let dir = path.parent().filter(|dir| self.siblings.expect_open(dir))?;
        let node = self.known.old_listing(&dir)?.find(path.name()?)?;
        let source = self.small_source(path, &node)?;
        let all = 0..source.version.size;
        (!self.cache.is_below(&source.version, all)).then_some((node, source))
    }

    /// A name is looked up whose listing is too old to be believed, where objects are being opened
    /// one after another: asks for the object itself, if it is still as it was. The answer brings
    /// what will be read next, and costs no request of its own.
    pub(super) async fn confirm_by_fetch(&self, path: &TreePath) -> bool {
        let (Some(dir), Some(name)) = (path.parent(), path.name()) else { return false };
        let Some((node, source)) = self.to_be_fetched(path) else { return false };
        let (asked, size) = (Instant::now(), source.version.size);
        let wanted = self.cache.request(&Arc::new(source), 0..size, &[], LONGEST_RUN);
        if !wanted.is_new() {
            return false;
        }
        if let Some(watched) = self.siblings.lock().scans.get_mut(&dir)
            && let Ok(at) = watched.listing.position(name)
        {
            watched.looked_up.insert(at);
        }
        let came = wanted.bytes().await.is_ok();
        if came {
            self.known.remember(path.clone(), asked, Some(node));
        }
        came
    }

    fn give_up_sibling(&self, Sibling { path, at, .. }: &Sibling) {
        if let Some(dir) = path.parent()
            && let Some(watched) = self.siblings.lock().scans.peek_mut(&dir)
            && watched.listing.name(*at).as_deref() == path.name()
        {
            watched.scan.give_up(*at);
        }
    }
}

/// An object to fetch ahead, by its path and its position in the listing.
#[derive(Clone)]
struct Sibling {
    path: TreePath,
    at: usize,
    in_order: bool,
}

/// An object on its way, for nobody yet.
struct Flight {
    shared: Arc<Shared>,
    sibling: Sibling,
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
                let path = self.sibling.path.clone();
                self.shared.known.remember(path, self.asked, Some(node));
            }
            Err(error) => {
                if matches!(error.kind(), ErrorKind::StaleHandle | ErrorKind::NotFound) {
                    self.came = true;
                    self.shared.known.forget(&self.sibling.path);
                }
                self.shared.give_up_sibling(&self.sibling);
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        {
            let mut state = self.shared.siblings.lock();
            state.coming.remove(&self.sibling.path);
            let took = self.came.then(|| self.asked.elapsed());
            state.flights(self.sibling.in_order).end(took);
        }
        let _ = self.done.set(());
    }
}

/// The size of the object at a position if it is small, else 0.
fn small_size(listing: &Listing, at: usize) -> u32 {
    let size = listing.object(at).map_or(0, |(size, ..)| size);
    u32::try_from(size).ok().filter(|_| size <= SMALL).unwrap_or(0)
}
