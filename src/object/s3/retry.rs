//! Tries again: with backoff and jitter, and never past the deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Limits;
use super::failure::{Failure, Retry};
use crate::error::{Error, ErrorKind, Result};

/// The longest pause before the second attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause is longer, so that a server that is back is noticed soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is left of the patience with one call: its deadline and its attempts.
pub(super) struct Patience<'a> {
    limits: &'a Limits,
    /// Names the request for the message of a deadline that passed.
    what: String,
    deadline: Instant,
    tried: u32,
}

impl<'a> Patience<'a> {
    /// The call begins now.
    pub(super) fn new(limits: &'a Limits, what: String) -> Self {
        Self { limits, what, deadline: Instant::now() + limits.deadline, tried: 0 }
    }

    /// Runs one attempt, which ends at the deadline at the latest.
    pub(super) async fn attempt<T>(
        &self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match timeout_at(self.deadline, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::never(self.late(None))),
        }
    }

    /// Pauses before the next attempt.
    ///
    /// # Errors
    /// What the caller gets if there is no next attempt: the failure itself, or, when no time is
    /// left, that and the kind of the failure.
    pub(super) async fn pause_after(&mut self, failure: Failure) -> Result<()> {
        self.tried += 1;
        let again = match failure.retry {
            Retry::Never => false,
            Retry::Once | Retry::Renewed => self.tried < 2,
            Retry::Few => self.tried < self.limits.attempts,
            Retry::UntilDeadline => true,
        };
        if !again {
            return Err(failure.error);
        }
        let pause = jittered(backoff(self.tried));
        if Instant::now() + pause >= self.deadline {
            return Err(self.late(Some(failure.error)));
        }
        let Self { what, tried, .. } = self;
        tracing::debug!(%what, tried, ?pause, error = ?failure.error, "trying again");
        sleep(pause).await;
        Ok(())
    }

    /// The last attempt brought something: what failed before it counts no more.
    pub(super) fn forget_attempts(&mut self) {
        self.tried = 0;
    }

    fn late(&self, last: Option<Error>) -> Error {
        let seconds = self.limits.deadline.as_secs_f64();
        let message = format!("{}: no success within {seconds} s", self.what);
        match last {
            Some(last) => Error::new(last.kind(), message).with_source(last),
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
        Limits { deadline: Duration::from_millis(500), attempts: 3, ..Limits::default() }
    }

    fn failure(retry: Retry) -> Failure {
        let kind = if retry == Retry::UntilDeadline { ErrorKind::TimedOut } else { ErrorKind::Io };
        Failure { error: kind.into(), retry }
    }

    /// Fails until it is told to stop: how often that was, and what it was told.
    async fn fail(retry: Retry) -> (u32, Error) {
        let limits = limits();
        let mut patience = Patience::new(&limits, "reading a".into());
        loop {
            if let Err(error) = patience.pause_after(failure(retry)).await {
                return (patience.tried, error);
            }
        }
    }

    #[tokio::test]
    async fn a_failure_that_stays_is_told_as_it_is() {
        for (retry, times) in [(Retry::Never, 1), (Retry::Once, 2), (Retry::Few, 3)] {
            let (tried, error) = fail(retry).await;
            assert_eq!((tried, error.kind()), (times, ErrorKind::Io), "{retry:?}");
        }
    }

    #[tokio::test]
    async fn throttling_that_stays_is_a_deadline_that_passed() {
        let start = Instant::now();
        let (_, error) = fail(Retry::UntilDeadline).await;
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(start.elapsed() <= limits().deadline);
    }

    #[tokio::test]
    async fn an_attempt_that_never_ends_is_given_up() {
        let limits = limits();
        let patience = Patience::new(&limits, "reading a".into());
        let failure = patience.attempt(std::future::pending::<Result<(), Failure>>()).await;
        let error = failure.unwrap_err().error;
        assert_eq!(error.to_string(), "reading a: no success within 0.5 s");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
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
