//! How many requests a store has in flight: many, until the server asks to slow down.
//!
//! All users of a store share the limit. Each time the server throttles, it is halved, and each
//! answer raises it a little, so that it settles at what the server bears (AIMD, as in TCP, RFC
//! 5681). What somebody waits for goes before what is read ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// The most requests in flight: enough to fill a fast line at the latency of a distant region.
const MOST: f64 = 128.0;

/// So much of the limit is for what is read ahead; the rest is always free for who waits.
const SHARE_AHEAD: f64 = 0.75;

/// A server that throttled so recently is still short of strength.
const CALM_AFTER: Duration = Duration::from_secs(10);

/// Whether somebody waits for the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A program does.
    Waiting,
    /// It may be of use later.
    Ahead,
}

/// The limit of one store, and who waits for a place in it.
#[derive(Debug)]
pub(super) struct Pace {
    /// Held for a few steps, never while waiting.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    in_flight: u32,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    ahead: VecDeque<oneshot::Sender<Turn>>,
    throttled: Option<Instant>,
}

/// A place among the requests in flight, free again when this goes.
#[derive(Debug)]
pub(super) struct Turn {
    pace: Arc<Pace>,
    since: Instant,
}

impl Pace {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            limit: MOST,
            in_flight: 0,
            waiting: VecDeque::new(),
            ahead: VecDeque::new(),
            throttled: None,
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Waits for a place.
    pub(super) async fn turn(self: &Arc<Self>, urgency: Urgency) -> Turn {
        if let Some(turn) = self.turn_now(urgency) {
            return turn;
        }
        let (sender, receiver) = oneshot::channel();
        self.lock().queue(urgency).push_back(sender);
        // Somebody may have gone in between, when nobody was waiting yet.
        self.admit();
        match receiver.await {
            Ok(turn) => turn,
            // Never: the sender is kept until it has sent.
            Err(_) => self.start(),
        }
    }

    /// A place, if one is free and nobody waits for it.
    pub(super) fn turn_now(self: &Arc<Self>, urgency: Urgency) -> Option<Turn> {
        let mut state = self.lock();
        let first = state.waiting.is_empty() && state.queue(urgency).is_empty();
        if !first || !state.has_room(urgency) {
            return None;
        }
        state.in_flight += 1;
        Some(Turn { pace: self.clone(), since: Instant::now() })
    }

    /// Whether the server hasn't throttled for a while.
    pub(super) fn is_calm(&self) -> bool {
        self.lock().throttled.is_none_or(|when| when.elapsed() >= CALM_AFTER)
    }

    fn start(self: &Arc<Self>) -> Turn {
        self.lock().in_flight += 1;
        Turn { pace: self.clone(), since: Instant::now() }
    }

    /// Gives the free places to those who wait.
    fn admit(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.next();
                state.in_flight += u32::from(next.is_some());
                next
            };
            let Some(next) = next else { return };
            // Who has given up leaves the place to the next, by dropping the turn.
            let _ = next.send(Turn { pace: self.clone(), since: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn queue(&mut self, urgency: Urgency) -> &mut VecDeque<oneshot::Sender<Turn>> {
        match urgency {
            Urgency::Waiting => &mut self.waiting,
            Urgency::Ahead => &mut self.ahead,
        }
    }

    fn has_room(&self, urgency: Urgency) -> bool {
        let share = match urgency {
            Urgency::Waiting => self.limit,
            // One at least, or nothing would ever be read ahead.
            Urgency::Ahead => (self.limit * SHARE_AHEAD).max(1.0),
        };
        f64::from(self.in_flight) + 1.0 <= share
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        for urgency in [Urgency::Waiting, Urgency::Ahead] {
            while self.has_room(urgency) {
                match self.queue(urgency).pop_front() {
                    Some(next) if next.is_closed() => {}
                    Some(next) => return Some(next),
                    None => break,
                }
            }
        }
        None
    }
}

impl Turn {
    /// The request was answered.
    pub(super) fn succeeded(&self) {
        let mut state = self.pace.lock();
        state.limit = (state.limit + 1.0 / state.limit).min(MOST);
    }

    /// The server asked to slow down. Requests that were sent before the last time say nothing
    /// new.
    pub(super) fn throttled(&self) {
        let mut state = self.pace.lock();
        if state.throttled.is_none_or(|when| self.since > when) {
            let limit = state.limit.min(f64::from(state.in_flight)) / 2.0;
            state.limit = limit.max(1.0);
            state.throttled = Some(Instant::now());
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pace.lock().in_flight -= 1;
        self.pace.admit();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const WAITING: Urgency = Urgency::Waiting;

    fn limit(pace: &Pace) -> f64 {
        pace.lock().limit
    }

    fn limited(limit: f64) -> Arc<Pace> {
        let pace = Pace::new();
        pace.lock().limit = limit;
        pace
    }

    #[test]
    fn throttling_halves_what_is_in_flight_once_a_round() {
        let pace = Pace::new();
        let turns: Vec<_> = (0..40).filter_map(|_| pace.turn_now(WAITING)).collect();
        for turn in &turns {
            turn.throttled();
        }
        assert!((limit(&pace) - 20.0).abs() < 0.1);
        assert!(!pace.is_calm());
        drop(turns);
        for _ in 0..20 {
            pace.turn_now(WAITING).unwrap().throttled();
        }
        assert!((limit(&pace) - 1.0).abs() < 0.1);
        for _ in 0..20_000 {
            pace.turn_now(WAITING).unwrap().succeeded();
        }
        assert!((limit(&pace) - MOST).abs() < 0.1);
    }

    #[tokio::test]
    async fn who_waits_goes_before_what_is_read_ahead() {
        let pace = limited(1.0);
        let turn = pace.turn(WAITING).await;
        let mut ahead = Box::pin(pace.turn(Urgency::Ahead));
        let mut waiting = Box::pin(pace.turn(WAITING));
        assert!((&mut ahead).now_or_never().is_none());
        assert!((&mut waiting).now_or_never().is_none());
        drop(turn);
        assert!((&mut ahead).now_or_never().is_none());
        let turn = waiting.await;
        drop(turn);
        ahead.await;
    }

    #[tokio::test]
    async fn who_has_given_up_blocks_nobody() {
        let pace = limited(2.0);
        let turns = (pace.turn(WAITING).await, pace.turn(WAITING).await);
        let mut gone = Box::pin(pace.turn(WAITING));
        assert!((&mut gone).now_or_never().is_none());
        let next = pace.turn(WAITING);
        let mut next = Box::pin(next);
        assert!((&mut next).now_or_never().is_none());
        drop(gone);
        drop(turns);
        drop(next.await);
        assert_eq!(pace.lock().in_flight, 0);
    }

    #[test]
    fn reading_ahead_leaves_places_free() {
        let pace = limited(8.0);
        let mut turns = Vec::new();
        while let Some(turn) = pace.turn_now(Urgency::Ahead) {
            turns.push(turn);
        }
        assert_eq!(turns.len(), 6);
        assert!(pace.turn_now(WAITING).is_some());
    }
}
