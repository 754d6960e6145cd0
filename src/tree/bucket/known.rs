//! What is known of a bucket for a moment: listings and single answers, each with its age.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;

use super::listing::Listing;
use crate::object::ETag;
use crate::path::TreePath;

/// The bytes of listings that are kept: some 400,000 names.
pub(super) const MOST_LISTED: usize = 32 << 20;

/// How many answers to single questions are kept.
const MOST_ANSWERS: NonZeroUsize = NonZeroUsize::new(20_000).expect("isn't zero");

/// How many directories are known to be in use.
const MOST_USED: NonZeroUsize = NonZeroUsize::new(1_000).expect("isn't zero");

/// For how long after it was last listed a directory stays, though its last key is gone: whoever
/// stands in it isn't thrown out by somebody's cleaning up.
const USED: Duration = Duration::from_mins(1);

/// Names that are answered from a listing before its half time for each page of it, before it is
/// worth having anew.
const WORTH: usize = 4;

/// Entries that a page of a listing holds at most.
pub(super) const PAGE: usize = 1000;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// An object.
    File { size: u64, modified: SystemTime, etag: ETag },
    /// Keys below, or a marker.
    Directory,
}

/// What is known of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It leads here, which may be believed for so long.
    There(Node, Duration),
    /// It leads nowhere, which may be believed for so long.
    Nowhere(Duration),
}

/// A listing and for how long it may be believed.
pub(super) type Fresh = (Arc<Listing>, Duration);

/// A memory that forgets after its TTL.
pub(super) struct Known {
    ttl: Duration,
    /// Guards the maps; held for a few map operations, never while waiting.
    state: Mutex<State>,
}

struct State {
    listed: LruCache<TreePath, Listed>,
    /// The bytes of all listings.
    bytes: usize,
    /// Those of them that were made ahead of a walk which hasn't come there yet, and of those that
    /// it has come to.
    ahead: usize,
    reached: usize,
    /// When those were listed, the oldest first.
    in_time: VecDeque<(Instant, TreePath)>,
    answers: LruCache<TreePath, (Instant, Option<Node>)>,
    /// When a directory was last listed for a program.
    used: LruCache<TreePath, Instant>,
}

struct Listed {
    seen: Instant,
    listing: Arc<Listing>,
    /// How many names were asked for that nothing else answers.
    asked: usize,
    /// Whether it was made ahead of a walk that hasn't come there yet.
    ahead: bool,
}

impl Listed {
    fn pages(&self) -> usize {
        self.listing.len() / PAGE + 1
    }
}

impl Known {
    pub(super) fn new(ttl: Duration) -> Self {
        let state = State {
            listed: LruCache::unbounded(),
            bytes: 0,
            ahead: 0,
            reached: 0,
            in_time: VecDeque::new(),
            answers: LruCache::new(MOST_ANSWERS),
            used: LruCache::new(MOST_USED),
        };
        Self { ttl, state: Mutex::new(state) }
    }

    /// For how long what is heard is believed.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What is known of `path`, if anything; and whether the listing that says so is asked so often
    /// that it should be made anew before it is too old.
    pub(super) fn find(&self, path: &TreePath) -> (Option<Found>, bool) {
        let mut state = self.lock();
        let left =
            |seen: Instant| self.ttl.checked_sub(seen.elapsed()).filter(|ttl| !ttl.is_zero());
        let answer = state.answers.get(path).and_then(|(seen, node)| Some((left(*seen)?, node)));
        let answer = answer.map(|(left, node)| (left, node.clone()));
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return (None, false) };
        let listed = state.listed.get_mut(&parent);
        let listed = listed.and_then(|listed| Some((left(listed.seen)?, listed)));
        match (answer, listed) {
            (Some((left, node)), Some((newer, _))) if left >= newer => {
                (Some(found(node, left)), false)
            }
            (_, Some((left, listed))) => {
                listed.asked += 1;
                let worth = left < self.ttl / 2 && listed.asked >= WORTH * listed.pages();
                (Some(found(listed.listing.find(name), left)), worth)
            }
            (Some((left, node)), None) => (Some(found(node, left)), false),
            (None, None) => (None, false),
        }
    }

    /// Whether `path` was a directory when it was last heard of, however long ago.
    pub(super) fn was_directory(&self, path: &TreePath) -> bool {
        let mut state = self.lock();
        let listed = path.parent().zip(path.name()).and_then(|(parent, name)| {
            state.listed.get(&parent).and_then(|listed| listed.listing.find(name))
        });
        let node = listed.or_else(|| state.answers.get(path).and_then(|(_, node)| node.clone()));
        node == Some(Node::Directory)
    }

    /// Whether a program listed `dir` a moment ago.
    pub(super) fn in_use(&self, dir: &TreePath) -> bool {
        self.lock().used.peek(dir).is_some_and(|used| used.elapsed() < USED)
    }

    /// Notes that a program lists `dir`.
    pub(super) fn note_use(&self, dir: &TreePath) {
        self.lock().used.put(dir.clone(), Instant::now());
    }

    /// The entries of a directory, if they were listed a moment ago.
    pub(super) fn listing(&self, dir: &TreePath) -> Option<Fresh> {
        let mut state = self.lock();
        let listed = state.listed.get_mut(dir)?;
        let left = self.ttl.checked_sub(listed.seen.elapsed()).filter(|left| !left.is_zero())?;
        let listing = listed.listing.clone();
        if std::mem::take(&mut listed.ahead) {
            state.ahead -= listing.bytes();
            state.reached += listing.bytes();
        }
        Some((listing, left))
    }

    /// Whether `dir` needn't be listed now.
    pub(super) fn is_listed(&self, dir: &TreePath) -> bool {
        self.lock().listed.peek(dir).is_some_and(|listed| listed.seen.elapsed() < self.ttl)
    }

    /// How many bytes of listings there are ahead of walks, and how many they have come to.
    pub(super) fn ahead(&self) -> (usize, usize) {
        let mut state = self.lock();
        // What wasn't come to in time is no use any more.
        while state.in_time.front().is_some_and(|(seen, _)| seen.elapsed() >= self.ttl)
            && let Some((seen, dir)) = state.in_time.pop_front()
        {
            if let Some(listed) = state.listed.peek_mut(&dir)
                && listed.seen == seen
                && std::mem::take(&mut listed.ahead)
            {
                let bytes = listed.listing.bytes();
                state.ahead -= bytes;
            }
        }
        (state.ahead, state.reached)
    }

    /// A new walk begins.
    pub(super) fn begin_walk(&self) {
        self.lock().reached = 0;
    }

    /// The entries of a directory as they were last heard of, however long ago.
    pub(super) fn old_listing(&self, dir: &TreePath) -> Option<Arc<Listing>> {
        self.lock().listed.peek(dir).map(|listed| listed.listing.clone())
    }

    /// Forgets all directories.
    pub(super) fn forget_listings(&self) {
        let mut state = self.lock();
        state.listed.clear();
        state.in_time.clear();
        (state.bytes, state.ahead) = (0, 0);
    }

    /// Remembers a whole directory, as it was at `seen`.
    pub(super) fn remember_listing(&self, dir: TreePath, seen: Instant, listing: Arc<Listing>) {
        self.lock().enter(dir, Listed { seen, listing, asked: 0, ahead: false });
    }

    /// Remembers a whole directory that no program has asked for yet.
    pub(super) fn remember_ahead(&self, dir: TreePath, seen: Instant, listing: Arc<Listing>) {
        let mut state = self.lock();
        state.in_time.push_back((seen, dir.clone()));
        state.enter(dir, Listed { seen, listing, asked: 0, ahead: true });
    }

    /// Remembers the answer to one question, asked at `seen`.
    pub(super) fn remember(&self, path: TreePath, seen: Instant, node: Option<Node>) {
        self.lock().answers.put(path, (seen, node));
    }

    /// Forgets a path, which turned out to be another than was thought.
    pub(super) fn forget(&self, path: &TreePath) {
        let mut state = self.lock();
        state.answers.pop(path);
        if let Some(parent) = path.parent() {
            state.remove(&parent);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, dir: TreePath, listed: Listed) {
        let bytes = listed.listing.bytes();
        if bytes > MOST_LISTED / 2 {
            return;
        }
        self.remove(&dir);
        self.bytes += bytes;
        self.ahead += if listed.ahead { bytes } else { 0 };
        self.listed.put(dir, listed);
        while self.bytes > MOST_LISTED {
            let Some((_, dropped)) = self.listed.pop_lru() else { return };
            self.settle(&dropped);
        }
    }

    fn remove(&mut self, dir: &TreePath) {
        if let Some(dropped) = self.listed.pop(dir) {
            self.settle(&dropped);
        }
    }

    /// Takes what isn't kept any more off the counts.
    fn settle(&mut self, dropped: &Listed) {
        self.bytes -= dropped.listing.bytes();
        self.ahead -= if dropped.ahead { dropped.listing.bytes() } else { 0 };
    }
}

fn found(node: Option<Node>, left: Duration) -> Found {
    node.map_or(Found::Nowhere(left), |node| Found::There(node, left))
}

#[cfg(test)]
mod tests {
    use super::super::listing::Draft;
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    fn listing<Name: AsRef<[u8]>>(names: impl IntoIterator<Item = Name>) -> Arc<Listing> {
        let mut draft = Draft::new();
        names.into_iter().for_each(|name| draft.push(name.as_ref(), &Node::Directory));
        Arc::new(draft.finish())
    }

    #[allow(clippy::option_option)] // Nothing is known, or that nothing is there.
    fn find(known: &Known, at: &str) -> Option<Option<Node>> {
        known.find(&path(at)).0.map(|found| match found {
            Found::There(node, _) => Some(node),
            Found::Nowhere(_) => None,
        })
    }

    #[test]
    fn a_listing_answers_for_what_is_there_and_what_is_not() {
        let known = Known::new(LONG);
        known.remember_listing(path("a"), Instant::now(), listing(["b"]));
        assert_eq!(find(&known, "a/b"), Some(Some(Node::Directory)));
        assert_eq!(find(&known, "a/c"), Some(None));
        assert_eq!(find(&known, "b"), None);
        assert!(known.was_directory(&path("a/b")));
    }

    #[test]
    fn the_newest_answer_counts() {
        let known = Known::new(LONG);
        let ago = |secs| Instant::now().checked_sub(Duration::from_secs(secs)).unwrap();
        known.remember(path("a/b"), ago(20), None);
        known.remember_listing(path("a"), ago(30), listing(["b"]));
        assert_eq!(find(&known, "a/b"), Some(None));
        known.remember_listing(path("a"), ago(10), listing(["b"]));
        assert_eq!(find(&known, "a/b"), Some(Some(Node::Directory)));
    }

    #[test]
    fn nothing_is_believed_after_its_time() {
        let known = Known::new(Duration::ZERO);
        known.remember_listing(path("a"), Instant::now(), listing(["b"]));
        known.remember(path("c"), Instant::now(), None);
        assert_eq!(find(&known, "a/b"), None);
        assert_eq!(find(&known, "c"), None);
        assert_eq!(known.listing(&path("a")), None);
        assert_eq!(known.old_listing(&path("a")).unwrap().len(), 1);
    }

    #[test]
    fn what_is_forgotten_is_asked_again() {
        let known = Known::new(LONG);
        known.remember_listing(path("a"), Instant::now(), listing(["b"]));
        known.remember(path("a/b"), Instant::now(), Some(Node::Directory));
        known.forget(&path("a/b"));
        assert_eq!(find(&known, "a/b"), None);
    }

    #[test]
    fn a_listing_that_is_asked_much_is_worth_having_anew_in_its_second_half() {
        let known = Known::new(LONG);
        known.remember_listing(path("a"), Instant::now(), listing(["b"]));
        assert!((0..20).all(|_| !known.find(&path("a/b")).1));
        let old = Instant::now().checked_sub(LONG * 3 / 4).unwrap();
        known.remember_listing(path("a"), old, listing(["b"]));
        let worth: Vec<_> = (0..5).map(|_| known.find(&path("a/b")).1).collect();
        assert_eq!(worth, [false, false, false, true, true]);
    }

    #[test]
    fn what_is_listed_ahead_counts_until_a_walk_comes_there_or_it_is_too_old() {
        let known = Known::new(LONG);
        let old = Instant::now().checked_sub(LONG).unwrap();
        for (dir, seen) in [("a", old), ("b", Instant::now()), ("c", Instant::now())] {
            known.remember_ahead(path(dir), seen, listing(["x"]));
        }
        let (ahead, _) = known.ahead();
        assert_eq!(known.listing(&path("a")), None);
        assert!(known.listing(&path("b")).is_some());
        assert_eq!(known.ahead(), (ahead / 2, ahead / 2));
        assert!(known.is_listed(&path("c")) && !known.is_listed(&path("a")));
    }

    #[test]
    fn listings_are_bounded() {
        let known = Known::new(LONG);
        for round in 0..3 {
            for dir in ["a", "b", "c"] {
                let names = (0..300_000).map(|n| format!("{round}{n}"));
                known.remember_listing(path(dir), Instant::now(), listing(names));
            }
        }
        let state = known.lock();
        assert!(state.bytes <= MOST_LISTED);
        assert_eq!(state.listed.len(), 2);
        assert_eq!(state.bytes, state.listed.iter().map(|(_, l)| l.listing.bytes()).sum::<usize>());
    }
}
