//! Who walks a tree is recognised: the directories to come are listed ahead, many by one request.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lru::LruCache;
use tokio::sync::watch;
use tokio::time::timeout;

use super::flat::{Flat, Whole};
use super::known::{Fresh, MOST_LISTED};
use super::listing::Listing;
use super::plan::{Names, Plan, Unit};
use super::walk::{Seen, Walk};
use super::{Shared, prefix_of};
use crate::object::Depth;
use crate::path::TreePath;

/// How many directories are remembered to have been listed.
const VISITS: NonZeroUsize = NonZeroUsize::new(256).expect("isn't zero");

/// Directories listed right below one that was listed too make a walk.
const CHILDREN: usize = 2;

/// One is enough where it follows so soon that no hand could have typed it.
const AT_ONCE: Duration = Duration::from_millis(50);

/// How many plans are kept: a walk has one for each level at which it isn't done.
const PLANS: usize = 32;

/// How many listings ahead are under way at once, at most.
const UNITS: usize = 6;

/// A listing ahead of more pages was a bad guess.
const MOST_PAGES: usize = 16;

/// A walk that came to a directory before its listing ahead did waits for so many more pages.
const PATIENCE: usize = 2;

/// A walk that comes to fewer directories in the time that listings are believed is too slow: they
/// would be listed again.
const SLOWEST: f64 = 4.0;

/// A page that takes more than this share of the time for which it is believed comes too late to be
/// of use: fewer are asked for at once then.
const LATE: u32 = 4;

/// How many bytes of listings may be there that no walk has come to yet: at first, while it isn't
/// known how fast it is; at least, and at most.
const FIRST_AHEAD: usize = 1 << 20;
const LEAST_AHEAD: usize = 64 << 10;
const MOST_AHEAD: usize = MOST_LISTED / 2;

/// How many keys a directory is taken to have below when nothing is known of any like it.
const USUAL: usize = 100;

/// How many directories are looked at to tell how many keys others like them have.
const SAMPLE: usize = 4;

/// The walks that are under way.
pub(super) struct Walks {
    /// Held for a few map operations and one plan, never while waiting.
    state: Mutex<State>,
    /// Counts what walks came to.
    moved: watch::Sender<u64>,
}

struct State {
    /// When a directory was listed, and how many right below it were since then.
    visits: LruCache<TreePath, (Instant, usize)>,
    last: Option<Instant>,
    /// When the walk began, and how many directories it has come to.
    since: Instant,
    visited: u32,
    /// What is to be listed, the deepest last.
    plans: Vec<Plan>,
    under_way: Vec<Ahead>,
    /// How many may be.
    units: usize,
    /// The store's flat listings are of no use.
    out_of_order: bool,
}

/// A listing ahead.
struct Ahead {
    unit: Unit,
    /// How many pages of it came.
    pages: watch::Receiver<usize>,
    /// Whether a walk waits for its next page, which then comes, whatever else is there already.
    awaited: bool,
}

impl Default for Walks {
    fn default() -> Self {
        let state = State {
            visits: LruCache::new(VISITS),
            last: None,
            since: Instant::now(),
            visited: 0,
            plans: Vec::new(),
            under_way: Vec::new(),
            units: UNITS,
            out_of_order: false,
        };
        Self { state: Mutex::new(state), moved: watch::Sender::new(0) }
    }
}

impl Walks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes that a program comes to list `dir`; whether it is on a walk, which ends with a pause.
    fn visit(&mut self, dir: &TreePath, pause: Duration) -> bool {
        if !self.walking(pause) {
            self.visits.clear();
            self.plans.clear();
            (self.since, self.visited) = (Instant::now(), 0);
        }
        self.visited += 1;
        self.last = Some(Instant::now());
        let above = dir.parent();
        let mut at_once = false;
        let children = above.as_ref().and_then(|above| {
            let (listed, children) = self.visits.get_mut(above)?;
            at_once = listed.elapsed() < AT_ONCE;
            *children += 1;
            Some(*children)
        });
        // The first child of a first child is on a walk as well as a second child.
        let deep = above.and_then(|above| above.parent());
        let deep = children.is_some() && deep.is_some_and(|above| self.visits.contains(&above));
        let planned = self.plans.iter().any(|plan| Some(&plan.dir) == dir.parent().as_ref());
        let elapsed = self.since.elapsed();
        let fast = elapsed < pause
            || f64::from(self.visited) * pause.as_secs_f64() >= SLOWEST * elapsed.as_secs_f64();
        self.visits.put(dir.clone(), (Instant::now(), 0));
        !self.out_of_order && fast && (planned || deep || at_once || children >= Some(CHILDREN))
    }

    fn walking(&self, pause: Duration) -> bool {
        self.last.is_some_and(|last| last.elapsed() <= pause)
    }

    /// A page came that was asked for at a time; those that are late wait for one another.
    fn note_page(&mut self, took: Duration, ttl: Duration) {
        self.units =
            if took * LATE > ttl { self.units / 2 } else { self.units + 1 }.clamp(1, UNITS);
    }

    fn abandon(&mut self, unit: &Unit) {
        self.under_way.retain(|ahead| ahead.unit != *unit);
        self.plans.retain(|plan| plan.dir != unit.dir);
    }

    /// A walk lists `dir` itself: it isn't to be listed ahead any more.
    fn pass(&mut self, dir: &TreePath) {
        let (Some(above), Some(name)) = (dir.parent(), dir.name()) else { return };
        self.plans.iter_mut().filter(|plan| plan.dir == above).for_each(|plan| plan.pass(name));
    }

    fn is_wanted(&self, unit: &Unit) -> bool {
        self.under_way.iter().any(|ahead| ahead.unit == *unit)
    }

    /// A walk waits for the next page of a listing ahead.
    fn await_page(&mut self, unit: &Unit) {
        let found = self.under_way.iter_mut().find(|ahead| ahead.unit == *unit);
        found.into_iter().for_each(|ahead| ahead.awaited = true);
    }

    /// Whether a walk waits for the next page, which is asked for now.
    fn take_awaited(&mut self, unit: &Unit) -> bool {
        let found = self.under_way.iter_mut().find(|ahead| ahead.unit == *unit);
        found.is_some_and(|ahead| std::mem::take(&mut ahead.awaited))
    }

    fn add(&mut self, plan: Plan) {
        self.plans.retain(|other| other.dir != plan.dir);
        if self.plans.len() == PLANS {
            let done = self.plans.iter().position(Plan::is_done);
            self.plans.remove(done.unwrap_or(PLANS - 1));
        }
        self.plans.push(plan);
    }
}

impl Shared {
    /// A program comes to list `dir`: what is known of it, maybe after waiting for what is being
    /// listed ahead.
    pub(super) async fn arrive(self: &Arc<Self>, dir: &TreePath) -> Option<Fresh> {
        let (goes_on, walking) = {
            let mut state = self.walks.lock();
            (state.walking(self.known.ttl()), state.visit(dir, self.known.ttl()))
        };
        if !goes_on {
            self.known.begin_walk();
        }
        if let Some(fresh) = self.listed(dir) {
            if walking {
                self.list_ahead(None);
            }
            return Some(fresh);
        }
        if walking {
            self.plan_above(dir);
            self.list_ahead(Some(dir));
        }
        let (unit, mut pages) = {
            let mut state = self.walks.lock();
            let Some(ahead) = state.under_way.iter().find(|ahead| ahead.unit.covers(dir)) else {
                state.pass(dir);
                return None;
            };
            (ahead.unit.clone(), ahead.pages.clone())
        };
        let start = *pages.borrow_and_update();
        loop {
            self.walks.lock().await_page(&unit);
            self.walks.moved.send_modify(|moved| *moved += 1);
            if pages.changed().await.is_err() {
                break;
            }
            if let Some(fresh) = self.listed(dir) {
                return Some(fresh);
            }
            if *pages.borrow_and_update() >= start + PATIENCE {
                // There is more below than was thought: it is planned anew from what is known then.
                self.walks.lock().abandon(&unit);
                break;
            }
        }
        self.listed(dir)
    }

    /// The entries of a directory that may be believed.
    fn listed(&self, dir: &TreePath) -> Option<Fresh> {
        let fresh = self.known.listing(dir)?;
        self.walks.moved.send_modify(|moved| *moved += 1);
        Some(fresh)
    }

    /// A walk has a directory's entries: plans to list those below it.
    pub(super) fn walk_below(self: &Arc<Self>, dir: &TreePath, listing: &Arc<Listing>) {
        let above = dir.parent();
        let walking = {
            let mut state = self.walks.lock();
            let now = Instant::now();
            state.last = Some(now);
            if let Some((listed, _)) = state.visits.peek_mut(dir) {
                *listed = now;
            }
            state.plans.iter().any(|plan| Some(&plan.dir) == above.as_ref())
        };
        if walking && self.plan(dir, listing, None, None) {
            self.list_ahead(None);
        }
    }

    /// Plans to list the siblings of the directory at which a walk has `arrived`, and what comes after
    /// the one they are in.
    fn plan_above(&self, arrived: &TreePath) {
        let planned = |dir: &TreePath| {
            let state = self.walks.lock();
            state.plans.iter().any(|plan| plan.dir == *dir && !plan.is_done())
        };
        let above: Vec<_> =
            std::iter::successors(arrived.parent(), TreePath::parent).take(2).collect();
        for (depth, dir) in above.iter().enumerate().rev() {
            let visited = self.walks.lock().visits.contains(dir);
            if visited
                && !planned(dir)
                && let Some(listing) = self.known.old_listing(dir)
            {
                let below = if depth == 0 { None } else { above[depth - 1].name() };
                self.plan(dir, &listing, Some(arrived), below);
            }
        }
    }

    /// Plans to list the directories in `dir` that aren't known, with that at which a walk has
    /// `arrived`, but without `except`; whether there are any.
    fn plan(
        &self,
        dir: &TreePath,
        listing: &Arc<Listing>,
        arrived: Option<&TreePath>,
        except: Option<&[u8]>,
    ) -> bool {
        let Some(prefix) = prefix_of(dir) else { return false };
        // A walk comes to a directory once.
        let came = |path: &TreePath| self.walks.lock().visits.contains(path);
        let known = |name: &[u8]| {
            let path = dir.join(name);
            Some(name) == except
                || path.is_ok_and(|path| {
                    self.known.is_listed(&path) || came(&path) && Some(&path) != arrived
                })
        };
        let Some(plan) = Plan::new(dir.clone(), prefix, listing.clone(), known) else {
            return false;
        };
        self.walks.lock().add(plan);
        true
    }

    /// Begins what there is to list ahead, `first` first.
    fn list_ahead(self: &Arc<Self>, first: Option<&TreePath>) {
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
