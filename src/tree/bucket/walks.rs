//! Who walks a tree is recognised: the directories to come are listed ahead, many by one request.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::sync::watch;

use super::known::Fresh;
use super::listing::Listing;
use super::plan::{Plan, Unit};
use super::{Shared, prefix_of};
use crate::path::TreePath;

mod ahead;

use self::ahead::UNITS;

/// How many directories are remembered to have been listed.
const VISITS: NonZeroUsize = NonZeroUsize::new(256).expect("isn't zero");

/// Directories listed right below one that was listed too make a walk.
const CHILDREN: usize = 2;

/// One is enough where it follows so soon that no hand could have typed it.
const AT_ONCE: Duration = Duration::from_millis(50);

/// How many plans are kept: a walk has one for each level at which it isn't done.
const PLANS: usize = 32;

/// A walk that came to a directory before its listing ahead did waits for so many more pages.
const PATIENCE: usize = 2;

/// A walk that comes to fewer directories in the time that listings are believed is too slow: they
/// would be listed again.
const SLOWEST: f64 = 4.0;

/// A page that takes more than this share of the time for which it is believed comes too late to be
/// of use: fewer are asked for at once then.
const LATE: u32 = 4;

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
}
