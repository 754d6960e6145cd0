//! Finding what a path leads to with the fewest requests.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use lru::LruCache;
use tokio::sync::SetOnce;

use super::known::{Found, Node, PAGE};
use super::listing::Draft;
use super::walk::{Seen, Walk};
use super::{Shared, not_a_directory, not_found, prefix_of};
use crate::error::{ErrorKind, Result};
use crate::object::Depth;
use crate::object::names::Place;
use crate::path::TreePath;

/// In how many directories names are counted that had to be asked for.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(1_000).expect("isn't zero");

/// A directory of so many pages is cheaper to list than to ask for one name of it: a name takes two
/// requests, since it may be an object or a directory.
const CHEAP: usize = 2;

/// Which directories names are looked up in that aren't known, and which are being listed for it.
#[derive(Default)]
pub(super) struct Lookups {
    /// Guards the counts; held for a map operation.
    missed: Mutex<Option<LruCache<TreePath, Missed>>>,
    /// Guards what is being listed; held for a map operation.
    listing: Mutex<HashMap<TreePath, Arc<SetOnce<()>>>>,
}

/// Names of one directory that had to be asked for, each by itself.
#[derive(Clone, Copy, Debug)]
struct Missed {
    names: usize,
    /// So many make it worthwhile to try and list the directory.
    enough: usize,
}

impl Lookups {
    fn with_missed<T>(&self, dir: &TreePath, work: impl FnOnce(&mut Missed) -> T) -> T {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = missed.get_or_insert_with(|| LruCache::new(DIRECTORIES));
        work(missed.get_or_insert_mut(dir.clone(), || Missed { names: 0, enough: CHEAP }))
    }

    /// Counts a name that has to be asked for; whether there were enough of them to list `dir`, of
    /// which it is known or not how many `pages` it had.
    fn miss(&self, dir: &TreePath, pages: Option<usize>) -> bool {
        self.with_missed(dir, |missed| {
            missed.names += 1;
            missed.names >= pages.unwrap_or(missed.enough)
        })
    }

    /// How many pages of `dir` may be listed by now: they shall not cost more than the names did.
    fn allowed(&self, dir: &TreePath) -> usize {
        self.with_missed(dir, |missed| CHEAP + missed.names)
    }

    /// Starts to count anew, after `pages` of a directory that were all, or not.
    fn settle(&self, dir: &TreePath, pages: usize, whole: bool) {
        self.with_missed(dir, |missed| {
            let enough = if whole { CHEAP } else { pages.max(missed.enough) * 2 };
            *missed = Missed { names: 0, enough };
        });
    }
}

impl Shared {
    /// What `path` leads to, and for how long that may be believed: from what is known, else by
    /// one question or two, or by listing the directory it is in.
    pub(super) async fn node(self: &Arc<Self>, path: &TreePath) -> Result<(Node, Duration)> {
        let Some(parent) = path.parent() else {
            return Ok((Node::Directory, self.known.ttl()));
        };
        let (found, worth_renewing) = self.known.find(path);
        // Where objects are being fetched as they are opened, that renews what is known of each.
        if worth_renewing && self.to_be_fetched(path).is_none() {
            self.list_again(&parent, usize::MAX);
        }
        if let Some(found) = found {
            return self.told(path, found);
        }
        if let Some(coming) = self.siblings.coming(path) {
            // What is fetched ahead tells at the same time that it is there.
            coming.wait().await;
            if let (Some(found), _) = self.known.find(path) {
                return self.told(path, found);
            }
        }
        if self.confirm_by_fetch(path).await
            && let (Some(found), _) = self.known.find(path)
        {
            return self.told(path, found);
        }
        let pages = self.known.old_listing(&parent).map(|old| old.len() / PAGE + 1);
        let cheap = pages.is_some_and(|pages| pages <= CHEAP);
        if self.lookups.miss(&parent, pages) || cheap {
            let listed = self.list_again(&parent, if pages.is_some() { usize::MAX } else { 0 });
            if cheap {
                listed.wait().await;
                if let (Some(found), _) = self.known.find(path) {
                    return self.told(path, found);
                }
            }
        }
        let asked = Instant::now();
        let node = match Place::of(path) {
            Some(place) => self.ask(path, &place).await?,
            None => None,
        };
        self.known.remember(path.clone(), asked, node.clone());
        let ttl = self.known.ttl();
        self.told(path, node.map_or(Found::Nowhere(ttl), |node| Found::There(node, ttl)))
    }

    /// What was found; a directory that is in use doesn't vanish with its last key.
    fn told(&self, path: &TreePath, found: Found) -> Result<(Node, Duration)> {
        match found {
            Found::There(node, ttl) => Ok((node, ttl)),
            Found::Nowhere(ttl) if self.known.in_use(path) => Ok((Node::Directory, ttl)),
            Found::Nowhere(ttl) => Err(not_found(path).lasting(ttl)),
        }
    }

    /// Lists `dir` in the background so that it is known again, unless that is under way: at most
    /// `pages` of it, or what the names that are asked for meanwhile are worth.
    fn list_again(self: &Arc<Self>, dir: &TreePath, pages: usize) -> Arc<SetOnce<()>> {
        let mut listing = self.lookups.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = listing.get(dir) {
            return under_way.clone();
        }
        let done = Arc::new(SetOnce::new());
        listing.insert(dir.clone(), done.clone());
        drop(listing);
        let ended = Ended { shared: self.clone(), dir: dir.clone(), done: done.clone() };
        tokio::spawn(async move { ended.shared.list_for_lookups(&ended.dir, pages).await });
        done
    }

    async fn list_for_lookups(&self, dir: &TreePath, pages: usize) {
        let Some(prefix) = prefix_of(dir) else { return };
        let mut walk = Walk::new(self.store.list(&prefix, Depth::Children), prefix);
        while walk.pages < pages.max(self.lookups.allowed(dir)) {
            match walk.next().await {
                Some(Ok(_)) => {}
                // Whoever asks for a name meets the error.
                Some(Err(_)) => break,
                None => {
                    self.lookups.settle(dir, walk.pages, true);
                    if let Seen::All(listing, seen) = walk.finish() {
                        self.known.remember_listing(dir.clone(), seen, listing);
                    }
                    return;
                }
            }
        }
        self.lookups.settle(dir, walk.pages, false);
    }

    /// Asks for the object and for a directory of the same name, both at once.
    async fn ask(&self, path: &TreePath, place: &Place) -> Result<Option<Node>> {
        let (object, directory) =
            futures_util::join!(self.ask_for_object(place), self.ask_for_directory(path, place));
        match (directory, object) {
            (Ok(true), object) if place.beside => object,
            (Ok(false), _) if place.beside => Ok(None),
            (Ok(true), _) => Ok(Some(Node::Directory)),
            (Ok(false), object) => object,
            // Who may read may not be allowed to list.
            (Err(error), Ok(Some(node))) if error.kind() == ErrorKind::PermissionDenied => {
                Ok(Some(node))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn ask_for_object(&self, place: &Place) -> Result<Option<Node>> {
        match self.store.head(&place.key).await {
            Ok(meta) if place.may_be_marker() && meta.size == 0 => Ok(None),
            Ok(meta) => {
                Ok(Some(Node::File { size: meta.size, modified: meta.modified, etag: meta.etag }))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there are keys below; if they fit on one page, the directory is listed by that.
    async fn ask_for_directory(&self, path: &TreePath, place: &Place) -> Result<bool> {
        let prefix = place.prefix();
        let asked = Instant::now();
        let mut pages = self.store.list(&prefix, Depth::Children);
        // A page may be empty though others follow.
        let first = loop {
            match pages.next().await.transpose()? {
                Some(page) if page.objects.is_empty() && page.prefixes.is_empty() => {}
                Some(page) => break page,
                None => return Ok(false),
            }
        };
        let full = first.objects.len() + first.prefixes.len() >= PAGE;
        // Only the end comes at once: another page would have to be asked for.
        if !full && !place.beside && matches!(pages.next().now_or_never(), Some(None)) {
            let mut walk = Walk::new(Box::pin(stream::once(async { Ok(first) })), prefix);
            while walk.next().await.transpose()?.is_some() {}
            if let Seen::All(listing, _) = walk.finish() {
                self.known.remember_listing(path.clone(), asked, listing);
            }
        }
        Ok(true)
    }

    /// A listing has come to its end: remembers it, unless nothing was there to be listed.
    pub(super) async fn finish(self: &Arc<Self>, dir: TreePath, walk: Walk) -> Result<()> {
        let (listing, seen) = match walk.finish() {
            Seen::All(listing, seen) => (listing, seen),
            Seen::TooMany => {
                self.known.note_use(&dir);
                return Ok(());
            }
            Seen::Nothing if dir.is_root() || self.known.was_directory(&dir) => {
                (Arc::new(Draft::new().finish()), Instant::now())
            }
            Seen::Nothing => {
                let place = Place::of(&dir).ok_or_else(|| not_found(&dir))?;
                return Err(match self.ask_for_object(&place).await? {
                    Some(_) => not_a_directory(&dir),
                    None => not_found(&dir),
                });
            }
        };
        self.known.note_use(&dir);
        self.known.remember_listing(dir.clone(), seen, listing.clone());
        self.walk_below(&dir, &listing);
        Ok(())
    }
}

/// Ends the listing of a directory for those who wait for it, however it ended.
struct Ended {
    shared: Arc<Shared>,
    dir: TreePath,
    done: Arc<SetOnce<()>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let lookups = &self.shared.lookups;
        lookups.listing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.dir);
        let _ = self.done.set(());
    }
}
