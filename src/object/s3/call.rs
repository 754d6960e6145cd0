//! How one call goes: its place among the requests, its attempts, and what is put right between.

use std::error::Error as StdError;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use futures_util::future::Either;
use tokio::time::Instant;

use super::connection::Limits;
use super::failure::{Correction, Failure, Retry, Subject};
use super::hedge::{Usual, race};
use super::pace::Turn;
use super::retry::Patience;
use super::{S3Store, Shared};
use crate::error::{Error, ErrorKind, Result};

/// Failures are logged no more often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The share of the deadline that is left to those who come when it has just been waited for in
/// vain; and the least of it, in which a connection is made and an answer comes from far away.
const IMPATIENCE: u32 = 8;
const LEAST_PATIENCE: Duration = Duration::from_secs(3);

/// An answer is late after this time where nothing is usual yet and no connection is known to live.
const UNUSUAL: Duration = Duration::from_secs(1);

impl S3Store {
    /// Sends what `send` makes of the current client until there is an answer. Where it is
    /// known how long that usually takes, a late answer is asked for again.
    pub(super) async fn request<T, E, Sent>(
        &self,
        subject: Subject<'_>,
        usual: Option<&Usual>,
        send: impl Fn(Client) -> Sent + Send + Sync,
    ) -> Result<T>
    where
        T: RequestId + Send,
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
        Sent: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        // The kernel asks twice for a name that it knew: together they keep to the deadline.
        let limits = self.limits();
        let limits = &Limits { deadline: limits.deadline / 2, ..limits };
        let mut patience = Patience::new(limits, subject.name());
        loop {
            let attempt = async {
                let turn = self.turn().await;
                let since = Instant::now();
                let ask = async |turn: Turn| {
                    let answer = subject.answer(send(self.client()), limits.stall).await;
                    self.learn(&turn, answer).inspect(|answer| self.note_number(answer))
                };
                let late_after = usual.and_then(|usual| self.late_after(usual));
                let answer = race(ask(turn), late_after, || self.second_turn().map(&ask)).await?;
                if let Some(usual) = usual {
                    usual.note(since.elapsed());
                }
                Ok(match answer {
                    Either::Left(answer) | Either::Right(answer) => answer,
                })
            };
            match patience.attempt(attempt).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.recover(&mut patience, failure).await?,
            }
        }
    }

    /// How long to wait now. When a call has waited in vain until its deadline, the next have
    /// little patience, until something is answered: the kernel asks again for what it didn't
    /// get, and an outage shouldn't cost each of a program's reads a whole deadline.
    pub(super) fn limits(&self) -> Limits {
        let limits = self.shared.limits;
        if self.shared.silent.load(Ordering::Relaxed) {
            let deadline = (limits.deadline / IMPATIENCE).max(LEAST_PATIENCE);
            return Limits { deadline: deadline.min(limits.deadline), ..limits };
        }
        limits
    }

    /// Waits for a place among the requests in flight, and counts a request.
    pub(super) async fn turn(&self) -> Turn {
        let turn = self.shared.pace.turn(self.urgency).await;
        self.shared.metrics.requests.add(1);
        self.shared.hedges.earn();
        turn
    }

    /// After how long an answer is late that is asked for now; `None` while nobody knows.
    pub(super) fn late_after(&self, usual: &Usual) -> Option<Duration> {
        let Shared { client, limits, .. } = &*self.shared;
        usual.late_after().or_else(|| client.quiet_since(limits).map(|_| UNUSUAL))
    }

    /// A place for a second request beside a late one, if the server can bear that and such
    /// requests are few.
    pub(super) fn second_turn(&self) -> Option<Turn> {
        let shared = &self.shared;
        if !shared.pace.is_calm() || !shared.hedges.spend() {
            return None;
        }
        let turn = shared.pace.turn_now(self.urgency)?;
        // By another connection that has died it would be as late.
        shared.client.reconnect_if_quiet(&shared.limits);
        shared.metrics.requests.add(1);
        shared.metrics.hedged.add(1);
        Some(turn)
    }

    /// Learns from an answer how many requests the server bears.
    pub(super) fn learn<T>(&self, turn: &Turn, answer: Result<T, Failure>) -> Result<T, Failure> {
        match &answer {
            Ok(_) => {
                turn.succeeded();
                self.shared.client.hear();
                self.shared.reached.store(true, Ordering::Relaxed);
                self.shared.silent.store(false, Ordering::Relaxed);
            }
            Err(failure) if failure.retry == Retry::WhileBusy => {
                turn.throttled();
                self.shared.metrics.throttled.add(1);
            }
            Err(failure) if is_answer(&failure.error) => {
                self.shared.client.hear();
                self.shared.silent.store(false, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        answer
    }

    /// Notes whether an answer has a number.
    pub(super) fn note_number(&self, answer: &impl RequestId) {
        if answer.request_id().is_some() {
            self.shared.numbers.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for the next attempt and puts right what can be.
    ///
    /// # Errors
    /// What the caller gets if there is no next attempt.
    pub(super) async fn recover(
        &self,
        patience: &mut Patience<'_>,
        failure: Failure,
    ) -> Result<()> {
        let shared = &self.shared;
        let reached = shared.reached.load(Ordering::Relaxed);
        let paused = patience.pause_after(failure, reached).await;
        if patience.was_in_vain() {
            shared.silent.store(true, Ordering::Relaxed);
        }
        let correction = paused.inspect_err(|error| {
            if !is_answer(error) {
                shared.metrics.failures.add(1);
                self.tell(error);
            }
        })?;
        // A connection that was closed while it was idle isn't the server's failure.
        if correction != Some(Correction::Connection) {
            shared.metrics.retries.add(1);
        }
        let (client, since) = (&shared.client, patience.since());
        match correction {
            Some(Correction::Credentials) => client.renew(self, since, None).await,
            Some(Correction::Region(region)) => {
                client.renew(self, since, Some(region.into())).await;
            }
            Some(Correction::Connection | Correction::Silence) => client.reconnect(since),
            Some(Correction::Clock) | None => {}
        }
        Ok(())
    }

    /// Logs a failure, unless one was logged a moment ago: one outage fails many calls.
    fn tell(&self, error: &Error) {
        let mut told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|when| when.elapsed() < TELL_EVERY) {
            return;
        }
        *told = Some(std::time::Instant::now());
        tracing::warn!(?error, hint = error.hint(), "{} fails", self.shared.connection);
    }
}

/// That something is absent or has changed is an answer.
fn is_answer(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::StaleHandle)
}
