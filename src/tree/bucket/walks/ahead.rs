//! Lists ahead of a walk what it will come to, as far as there is room for it.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::Shared;
use super::super::flat::{Flat, Whole};
use super::super::known::MOST_LISTED;
use super::super::listing::Listing;
use super::super::plan::{Names, Unit};
use super::super::walk::{Seen, Walk};
use super::Ahead;
use crate::object::Depth;
use crate::path::TreePath;

/// How many listings ahead are under way at once, at most.
pub(super) const UNITS: usize = 6;

/// A listing ahead of more pages was a bad guess.
const MOST_PAGES: usize = 16;

/// How many bytes of listings may be there that no walk has come to yet: at first, while it isn't
/// known how fast it is; at least, and at most.
const FIRST_AHEAD: usize = 1 << 20;
const LEAST_AHEAD: usize = 64 << 10;
const MOST_AHEAD: usize = MOST_LISTED / 2;

/// How many keys a directory is taken to have below when nothing is known of any like it.
const USUAL: usize = 100;

/// How many directories are looked at to tell how many keys others like them have.
const SAMPLE: usize = 4;

impl Shared {
    /// Begins what there is to list ahead, `first` first.
    pub(super) fn list_ahead(self: &Arc<Self>, first: Option<&TreePath>) {
        while let Some((unit, pages)) = self.next_unit(first) {
            let shared = self.clone();
            tokio::spawn(async move {
                let ended = UnderWay { shared, unit };
                ended.shared.list_unit(&ended.unit, &pages).await;
                let shared = ended.shared.clone();
                drop(ended);
                drop(pages);
                shared.list_ahead(None);
            });
        }
    }

    /// The next listing to make ahead, if there is room for it; for that of `first`, for which a
    /// walk waits, there is.
    fn next_unit(&self, first: Option<&TreePath>) -> Option<(Unit, watch::Sender<usize>)> {
        let (few, first) = {
            let state = self.walks.lock();
            let covered = |first: &&TreePath| state.under_way.iter().any(|a| a.unit.covers(first));
            let first = first.filter(|_| state.under_way.len() < 2 * UNITS);
            (state.under_way.len() < state.units, first.filter(|first| !covered(first)))
        };
        let room = few && self.has_room_for_walks();
        if !room && first.is_none() {
            return None;
        }
        let dirs: Vec<_> = {
            let mut state = self.walks.lock();
            if !state.walking(self.known.ttl()) {
                state.plans.clear();
            }
            let left = state.plans.iter().rev().filter(|plan| !plan.is_done());
            left.map(|plan| plan.dir.clone()).collect()
        };
        for dir in dirs {
            let below = self.below_children(&dir);
            let mut state = self.walks.lock();
            let Some(plan) = state.plans.iter_mut().find(|plan| plan.dir == dir) else { continue };
            let wanted = first.filter(|first| first.parent().as_ref() == Some(&dir));
            let wanted = wanted.and_then(TreePath::name).filter(|name| plan.has(name));
            if !room && wanted.is_none() {
                continue;
            }
            // A plan that is done stays, so that its directories are known to be on a walk.
            if let Some(unit) = plan.next(wanted, below) {
                let (sender, receiver) = watch::channel(0);
                state.under_way.push(Ahead { unit: unit.clone(), pages: receiver, awaited: false });
                return Some((unit, sender));
            }
        }
        None
    }

    /// How many keys each directory in `dir` is expected to have below.
    fn below_children(&self, dir: &TreePath) -> usize {
        let Some(listing) = self.known.old_listing(dir) else { return USUAL };
        self.mean_below(dir, &listing, 3).unwrap_or(USUAL)
    }

    fn mean_below(&self, dir: &TreePath, listing: &Listing, depth: usize) -> Option<usize> {
        let names = (0..listing.len())
            .filter(|at| listing.object(*at).is_none())
            .filter_map(|at| listing.name(at));
        let mut sample = Vec::new();
        for name in names.take(10 * SAMPLE) {
            let Ok(path) = dir.join(&name) else { continue };
            let Some(child) = self.known.old_listing(&path) else { continue };
            let directories = child.directories();
            let below = match directories {
                0 => 0,
                _ if depth == 0 => directories * USUAL,
                _ => directories * self.mean_below(&path, &child, depth - 1).unwrap_or(USUAL),
            };
            sample.push(child.len() + below);
            if sample.len() == SAMPLE {
                break;
            }
        }
        (!sample.is_empty()).then(|| sample.iter().sum::<usize>() / sample.len())
    }

    fn has_room_for_walks(&self) -> bool {
        let (ahead, reached) = self.known.ahead();
        // What the walk will come to in time.
        let elapsed = self.walks.lock().since.elapsed();
        let least = if elapsed < self.known.ttl() { FIRST_AHEAD } else { LEAST_AHEAD };
        let half = self.known.ttl().as_micros() / 2;
        let soon = (reached as u128).saturating_mul(half) / elapsed.as_micros().max(1);
        let soon = usize::try_from(soon).unwrap_or(usize::MAX);
        ahead < soon.clamp(least, MOST_AHEAD)
    }

    /// Makes one listing ahead; an error is left to be met by who comes there.
    async fn list_unit(&self, unit: &Unit, pages: &watch::Sender<usize>) {
        if !unit.all {
            let depth = Depth::Children;
            let mut walk = Walk::new(self.quiet.list(&unit.prefix, depth), unit.prefix.clone());
            while walk.pages < MOST_PAGES {
                match walk.next().await {
                    Some(Ok(_)) => pages.send_modify(|pages| *pages += 1),
                    Some(Err(_)) => return,
                    None => break,
                }
            }
            if walk.is_over()
                && let (Some(path), Seen::All(listing, seen)) = (unit.path(), walk.finish())
            {
                self.known.remember_ahead(path, seen, listing);
            }
            return;
        }
        let mut flat = Flat::new(unit.dir.clone(), unit.base.clone());
        let mut source = self.quiet.list(&unit.prefix, Depth::All);
        let mut moved = self.walks.moved.subscribe();
        for _ in 0..MOST_PAGES {
            while !self.walks.lock().take_awaited(unit) && !self.has_room_for_walks() {
                // A walk that pauses has ended.
                if !matches!(timeout(self.known.ttl(), moved.changed()).await, Ok(Ok(()))) {
                    return;
                }
            }
            if !self.walks.lock().is_wanted(unit) {
                return;
            }
            let asked = Instant::now();
            let page = source.next().await;
            self.walks.lock().note_page(asked.elapsed(), self.known.ttl());
            match page {
                Some(Ok(page)) => {
                    let Ok(whole) = flat.take(page) else {
                        tracing::warn!(prefix = unit.prefix, "the store lists keys in no order");
                        self.walks.lock().out_of_order = true;
                        self.known.forget_listings();
                        return;
                    };
                    self.remember_whole(whole, asked);
                }
                Some(Err(_)) => return,
                None => return self.remember_whole(flat.finish(), asked),
            }
            pages.send_modify(|pages| *pages += 1);
        }
    }

    fn remember_whole(&self, whole: Whole, seen: Instant) {
        for (path, listing) in whole {
            self.known.remember_ahead(path, seen, Arc::new(listing));
        }
    }
}

impl Unit {
    /// The one directory that it is a listing of.
    fn path(&self) -> Option<TreePath> {
        match &self.names {
            Names::One(name) => self.dir.join(name).ok(),
            Names::Beginning(_) => None,
        }
    }
}

/// A listing ahead that is under way until this is dropped.
struct UnderWay {
    shared: Arc<Shared>,
    unit: Unit,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.walks.lock().under_way.retain(|ahead| ahead.unit != self.unit);
    }
}
