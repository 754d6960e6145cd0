//! Tries again: with backoff and jitter, and never past the deadline, which bytes that come move on.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Limits;
use super::failure::{Correction, Failure, Retry};
use crate::error::{Error, ErrorKind, Result};

/// The longest pause before the second attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause is longer, so that a server that is back is noticed soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A slow line isn't a dead one: a second more for so many bytes that came.
const SLOWEST: u64 = 64 << 10;

/// The bytes that came in the attempts of one call. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Came(Arc<AtomicU64>);

impl Came {
    /// So many more.
    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is left of the patience with one call: its deadline and its attempts.
pub(super) struct Patience<'a> {
    limits: &'a Limits,
    /// Names the request for the message of a deadline that passed.
    what: String,
    start: Instant,
    came: Came,
    /// When the last attempt began.
    since: Instant,
    tried: u32,
    corrected: Vec<Correction>,
    /// Whether the deadline ended the call.
    ran_out: bool,
}

impl<'a> Patience<'a> {
    /// The call begins now.
    pub(super) fn new(limits: &'a Limits, what: String) -> Self {
        let now = Instant::now();
        Self {
            limits,
            what,
            start: now,
            came: Came::default(),
            since: now,
            tried: 0,
            corrected: Vec::new(),
            ran_out: false,
        }
    }

    /// Where the bytes are counted that an attempt brings.
    pub(super) fn came(&self) -> Came {
        self.came.clone()
    }

    /// When the call ends, as far as is known now.
    fn deadline(&self) -> Instant {
        let earned = Duration::from_millis(self.came.bytes().saturating_mul(1000) / SLOWEST);
        self.start + self.limits.deadline + earned
    }

    /// Runs one attempt, which ends at the deadline at the latest.
    pub(super) async fn attempt<T>(
        &mut self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.since = Instant::now();
        let mut attempt = pin!(attempt);
        loop {
            let deadline = self.deadline();
            match timeout_at(deadline, attempt.as_mut()).await {
                Ok(outcome) => return outcome,
                Err(_) if self.deadline() > deadline => {}
                Err(_) => return Err(Failure::never(self.late(None))),
            }
        }
    }

    /// Whether the deadline ended the call before anything came.
    pub(super) fn was_in_vain(&self) -> bool {
        self.ran_out && self.came.bytes() == 0
    }

    /// When the last attempt began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Pauses before the next attempt, unless something has to be put right, which is then done
    /// at once. A service that was never `reached` is probably not where it is looked for, and
    /// isn't waited for until the deadline.
    ///
    /// # Errors
    /// What the caller gets if there is no next attempt: the failure itself, or, when no time is
    /// left, that and the kind of the failure.
    pub(super) async fn pause_after(
        &mut self,
        failure: Failure,
        reached: bool,
    ) -> Result<Option<Correction>> {
        let Failure { error, retry, correction, pause } = failure;
        if let Some(correction) = correction.filter(|correction| !self.was_corrected(correction)) {
            self.corrected.push(correction.clone());
            return Ok(Some(correction));
        }
        self.tried += 1;
        let again = match retry {
            Retry::Never => false,
            Retry::WhileAway if reached => true,
            Retry::Few | Retry::WhileAway => self.tried < self.limits.attempts,
            Retry::WhileBusy => true,
        };
        if !again {
            return Err(error);
        }
        let left = self.deadline().saturating_duration_since(Instant::now());
        // A server that asks for more time than there is gets what leaves room for an attempt.
        let asked = Duration::from_secs(pause.into()).min(left / 2);
        let pause = jittered(backoff(self.tried)).max(asked);
        if pause >= left {
            return Err(self.late(Some(error)));
        }
        let Self { what, tried, .. } = self;
        tracing::debug!(%what, tried, ?pause, ?error, "trying again");
        sleep(pause).await;
        Ok(None)
    }

    /// Whether it was tried in vain to put this right; a region is put right once, whatever it is.
    fn was_corrected(&self, correction: &Correction) -> bool {
        let kind = std::mem::discriminant(correction);
        self.corrected.iter().any(|done| std::mem::discriminant(done) == kind)
    }

    /// The last attempt brought something: what failed before it counts no more.
    pub(super) fn forget_attempts(&mut self) {
        self.tried = 0;
    }

    fn late(&mut self, last: Option<Error>) -> Error {
        self.ran_out = true;
        let earned = Duration::from_secs(self.came.bytes() / SLOWEST);
        let seconds = (self.limits.deadline + earned).as_secs_f64();
        let message = format!("{}: no success within {seconds} s", self.what);
        match last {
            Some(last) => {
                let hint = last.hint().map(str::to_owned);
                let error = Error::new(last.kind(), message).with_source(last);
                hint.into_iter().fold(error, Error::with_hint)
            }
            None => Error::new(ErrorKind::TimedOut, message),
        }
    }
}

fn backoff(tried: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << (tried - 1).min(16)).min(LONGEST_PAUSE)
}

/// A random part of `pause`, at least half of it: clients that failed together come back apart.
fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { deadline: Duration::from_millis(800), attempts: 3, ..Limits::default() }
    }

    fn failure(retry: Retry) -> Failure {
        let kind = if retry == Retry::WhileBusy { ErrorKind::TimedOut } else { ErrorKind::Io };
        Failure::new(retry, kind.into())
    }

    /// Fails until it is told to stop: how often that was, and what it was told.
    async fn fail(retry: Retry, reached: bool) -> (u32, Error) {
        let limits = limits();
        let mut patience = Patience::new(&limits, "reading a".into());
        loop {
            if let Err(error) = patience.pause_after(failure(retry), reached).await {
                return (patience.tried, error);
            }
        }
    }

    #[tokio::test]
    async fn a_failure_that_stays_is_told_as_it_is() {
        for (retry, reached, times) in
            [(Retry::Never, true, 1), (Retry::Few, true, 3), (Retry::WhileAway, false, 3)]
        {
            let (tried, error) = fail(retry, reached).await;
            assert_eq!((tried, error.kind()), (times, ErrorKind::Io), "{retry:?}");
            assert_eq!(error.to_string(), "Io");
        }
    }

    #[tokio::test]
    async fn who_is_busy_or_away_is_waited_for_until_the_deadline() {
        for (retry, kind) in
            [(Retry::WhileBusy, ErrorKind::TimedOut), (Retry::WhileAway, ErrorKind::Io)]
        {
            let start = Instant::now();
            let (tried, error) = fail(retry, true).await;
            assert!(tried >= 3);
            assert_eq!(error.kind(), kind);
            assert_eq!(error.to_string(), "reading a: no success within 0.8 s");
            assert!(start.elapsed() <= limits().deadline);
        }
    }

    #[tokio::test]
    async fn a_server_is_given_the_time_it_asks_for() {
        let limits = limits();
        let mut patience = Patience::new(&limits, "reading a".into());
        let start = Instant::now();
        let busy = Failure { pause: 3600, ..failure(Retry::WhileBusy) };
        assert_eq!(patience.pause_after(busy, true).await.unwrap(), None);
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert!(start.elapsed() < limits.deadline);
    }

    #[tokio::test]
    async fn what_can_be_put_right_is_tried_once_more_at_once() {
        let limits = limits();
        let mut patience = Patience::new(&limits, "reading a".into());
        let clock = || Failure { correction: Some(Correction::Clock), ..failure(Retry::Never) };
        let first = patience.pause_after(clock(), true).await.unwrap();
        assert_eq!(first, Some(Correction::Clock));
        assert!(patience.pause_after(clock(), true).await.is_err());
        for (region, again) in [("eu-west-1", true), ("us-west-2", false)] {
            let region = Some(Correction::Region(region.into()));
            let moved = Failure { correction: region, ..failure(Retry::Never) };
            assert_eq!(patience.pause_after(moved, true).await.is_ok(), again);
        }
    }

    #[tokio::test]
    async fn an_attempt_that_never_ends_is_given_up() {
        let limits = limits();
        let mut patience = Patience::new(&limits, "reading a".into());
        let failure = patience.attempt(std::future::pending::<Result<(), Failure>>()).await;
        let error = failure.unwrap_err().error;
        assert_eq!(error.to_string(), "reading a: no success within 0.8 s");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_attempt_that_brings_something_is_given_more_time() {
        let limits = limits();
        let mut patience = Patience::new(&limits, "reading a".into());
        let (came, start) = (patience.came(), Instant::now());
        let slow = async {
            for _ in 0..4 {
                sleep(Duration::from_millis(100)).await;
                came.add(SLOWEST / 4);
            }
            std::future::pending::<Result<(), Failure>>().await
        };
        assert!(patience.attempt(slow).await.is_err());
        assert!(start.elapsed() >= limits.deadline + Duration::from_secs(1));
        assert!(!patience.was_in_vain());
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(backoff(1), FIRST_PAUSE);
        assert_eq!(backoff(2), FIRST_PAUSE * 2);
        assert_eq!(backoff(1000), LONGEST_PAUSE);
        let pause = jittered(LONGEST_PAUSE);
        assert!(pause >= LONGEST_PAUSE / 2 && pause <= LONGEST_PAUSE);
    }
}
