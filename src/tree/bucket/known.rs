//! What is known of a bucket for a moment: listings and single answers, each with its age.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lru::LruCache;

use crate::object::ETag;
use crate::path::TreePath;

/// How many names of listed directories are kept: some 40 MB.
const MOST_LISTED: usize = 200_000;

/// How many answers to single questions are kept.
const MOST_ANSWERS: usize = 20_000;

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
    /// It leads here.
    There(Node),
    /// It leads nowhere.
    Nowhere,
}

impl From<Option<Node>> for Found {
    fn from(node: Option<Node>) -> Self {
        node.map_or(Self::Nowhere, Self::There)
    }
}

/// The entries of a directory.
pub(super) type Entries = HashMap<Bytes, Node>;

/// A memory that forgets after its TTL.
pub(super) struct Known {
    ttl: Duration,
    /// Guards both maps; held for a few map operations, never while waiting.
    state: Mutex<State>,
}

struct State {
    listed: LruCache<TreePath, (Instant, Entries)>,
    /// The entries of all listings.
    names: usize,
    answers: LruCache<TreePath, (Instant, Option<Node>)>,
}

impl Known {
    pub(super) fn new(ttl: Duration) -> Self {
        let state =
            State { listed: LruCache::unbounded(), names: 0, answers: LruCache::unbounded() };
        Self { ttl, state: Mutex::new(state) }
    }

    /// What is known of `path`, if anything.
    pub(super) fn find(&self, path: &TreePath) -> Option<Found> {
        let mut state = self.lock();
        if let (Some(parent), Some(name)) = (path.parent(), path.name())
            && let Some((seen, entries)) = state.listed.get(&parent)
            && seen.elapsed() < self.ttl
        {
            return Some(entries.get(name).cloned().into());
        }
        let (seen, node) = state.answers.get(path)?;
        (seen.elapsed() < self.ttl).then(|| node.clone().into())
    }

    /// Whether `path` was a directory when it was last heard of, however long ago.
    pub(super) fn was_directory(&self, path: &TreePath) -> bool {
        let mut state = self.lock();
        let listed = path.parent().zip(path.name()).and_then(|(parent, name)| {
            state.listed.get(&parent).and_then(|(_, entries)| entries.get(name).cloned())
        });
        let node = listed.or_else(|| state.answers.get(path).and_then(|(_, node)| node.clone()));
        node == Some(Node::Directory)
    }

    /// The entries of a directory, if they were listed a moment ago.
    pub(super) fn entries(&self, dir: &TreePath) -> Option<Entries> {
        let mut state = self.lock();
        let (seen, entries) = state.listed.get(dir)?;
        (seen.elapsed() < self.ttl).then(|| entries.clone())
    }

    /// Remembers a whole directory, listed since `since`.
    pub(super) fn remember_listing(&self, dir: TreePath, since: Instant, entries: Entries) {
        if entries.len() > MOST_LISTED {
            return;
        }
        let mut state = self.lock();
        state.names += entries.len();
        if let Some((_, (_, replaced))) = state.listed.push(dir, (since, entries)) {
            state.names -= replaced.len();
        }
        while state.names > MOST_LISTED
            || state.listed.peek_lru().is_some_and(|(_, (seen, _))| seen.elapsed() > self.ttl * 60)
        {
            let Some((_, (_, dropped))) = state.listed.pop_lru() else { return };
            state.names -= dropped.len();
        }
    }

    /// Remembers the answer to one question.
    pub(super) fn remember(&self, path: TreePath, node: Option<Node>) {
        let mut state = self.lock();
        state.answers.push(path, (Instant::now(), node));
        if state.answers.len() > MOST_ANSWERS {
            state.answers.pop_lru();
        }
    }

    /// Forgets a path, which turned out to be another than was thought.
    pub(super) fn forget(&self, path: &TreePath) {
        let mut state = self.lock();
        state.answers.pop(path);
        if let Some((_, dropped)) = path.parent().and_then(|parent| state.listed.pop(&parent)) {
            state.names -= dropped.len();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn path(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    fn listing(names: &[&'static str]) -> Entries {
        names.iter().map(|name| (Bytes::from(*name), Node::Directory)).collect()
    }

    #[test]
    fn a_listing_answers_for_what_is_there_and_what_is_not() {
        let known = Known::new(LONG);
        known.remember_listing(path("a"), Instant::now(), listing(&["b"]));
        assert_eq!(known.find(&path("a/b")), Some(Found::There(Node::Directory)));
        assert_eq!(known.find(&path("a/c")), Some(Found::Nowhere));
        assert_eq!(known.find(&path("b")), None);
        assert!(known.was_directory(&path("a/b")));
    }

    #[test]
    fn nothing_is_believed_after_its_time() {
        let known = Known::new(Duration::ZERO);
        known.remember_listing(path("a"), Instant::now(), listing(&["b"]));
        known.remember(path("c"), None);
        assert_eq!(known.find(&path("a/b")), None);
        assert_eq!(known.find(&path("c")), None);
        assert_eq!(known.entries(&path("a")), None);
    }

    #[test]
    fn what_is_forgotten_is_asked_again() {
        let known = Known::new(LONG);
        known.remember_listing(path("a"), Instant::now(), listing(&["b"]));
        known.remember(path("a/b"), Some(Node::Directory));
        known.forget(&path("a/b"));
        assert_eq!(known.find(&path("a/b")), None);
    }

    #[test]
    fn names_are_counted_and_bounded() {
        let known = Known::new(LONG);
        for round in 0..3 {
            for dir in ["a", "b", "c"] {
                let entries =
                    (0..90_000).map(|n| (Bytes::from(format!("{round}{n}")), Node::Directory));
                known.remember_listing(path(dir), Instant::now(), entries.collect());
            }
        }
        let state = known.lock();
        assert_eq!(state.names, 180_000);
        assert_eq!(state.listed.len(), 2);
    }
}
