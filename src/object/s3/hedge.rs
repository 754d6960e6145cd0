//! When an answer is late: a second request beside the first, if few answers are that late.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::{Instant, sleep};

use crate::metrics::Histogram;

/// Nothing is late before: a hiccup of the network or of a shared machine lasts as long.
const FLOOR: Duration = Duration::from_millis(50);

/// So many times as long as nearly all answers took is late.
const FACTOR: u32 = 2;

/// With fewer answers there is no telling what is usual.
const ENOUGH: u64 = 32;

/// So many answers make a generation; the last two are what is usual.
const GENERATION: u64 = 1000;

/// A generation is over after this time, too: what was usual an hour ago isn't now.
const LIFETIME: Duration = Duration::from_mins(1);

/// One second request for so many requests.
const RARITY: u32 = 20;

/// So many second requests may come at once.
const BURST: u32 = 8;

/// How long answers of one kind took lately.
#[derive(Debug)]
pub(super) struct Usual {
    /// Held for one note or one look.
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    young: Histogram,
    /// How many the young one has noted.
    noted: u64,
    old: Histogram,
    since: Instant,
}

impl Usual {
    pub(super) fn new() -> Self {
        let generations = Generations {
            young: Histogram::default(),
            noted: 0,
            old: Histogram::default(),
            since: Instant::now(),
        };
        Self { generations: Mutex::new(generations) }
    }

    /// An answer took so long.
    pub(super) fn note(&self, time: Duration) {
        let mut generations = self.lock();
        if generations.noted >= GENERATION || generations.since.elapsed() >= LIFETIME {
            generations.old = std::mem::take(&mut generations.young);
            generations.noted = 0;
            generations.since = Instant::now();
        }
        generations.noted += 1;
        generations.young.note(time);
    }

    /// After how long an answer is late; `None` while too little is known.
    pub(super) fn late_after(&self) -> Option<Duration> {
        let Generations { young, old, .. } = &*self.lock();
        let known: Vec<_> =
            [young, old].into_iter().filter(|times| times.count() >= ENOUGH).collect();
        let slowest = known.into_iter().filter_map(|times| times.quantile(0.99)).max()?;
        Some((slowest * FACTOR).max(FLOOR))
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many second requests may still be sent: a small share of all.
#[derive(Debug)]
pub(super) struct Budget {
    /// What was saved, in parts of a request. Held for one step.
    saved: Mutex<u32>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { saved: Mutex::new(BURST * RARITY) }
    }

    /// A first request is sent.
    pub(super) fn earn(&self) {
        let mut saved = self.lock();
        *saved = (*saved + 1).min(BURST * RARITY);
    }

    /// Takes a second request out of it, if it holds one.
    pub(super) fn spend(&self) -> bool {
        let mut saved = self.lock();
        let left = saved.checked_sub(RARITY);
        *saved = left.unwrap_or(*saved);
        left.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for `first`, and when it is late for what `second` starts beside it, if it does; the
/// first of the two to succeed is the answer, and the other is given up.
pub(super) async fn race<A, B, E, Second>(
    first: impl Future<Output = Result<A, E>>,
    late_after: Option<Duration>,
    second: impl FnOnce() -> Option<Second>,
) -> Result<Either<A, B>, E>
where
    Second: Future<Output = Result<B, E>>,
{
    let mut first = pin!(first);
    let Some(late_after) = late_after else { return first.await.map(Either::Left) };
    if let Either::Left((answer, _)) = select(first.as_mut(), pin!(sleep(late_after))).await {
        return answer.map(Either::Left);
    }
    let Some(second) = second() else { return first.await.map(Either::Left) };
    match select(first.as_mut(), pin!(second)).await {
        Either::Left((Ok(answer), _)) => Ok(Either::Left(answer)),
        Either::Right((Ok(answer), _)) => Ok(Either::Right(answer)),
        Either::Left((Err(_), second)) => second.await.map(Either::Right),
        Either::Right((Err(_), first)) => first.await.map(Either::Left),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    type Answer = Result<u32, &'static str>;

    async fn after(millis: u64, answer: Answer) -> Answer {
        sleep(Duration::from_millis(millis)).await;
        answer
    }

    #[test]
    fn what_is_late_follows_what_is_usual() {
        let usual = Usual::new();
        for _ in 1..ENOUGH {
            usual.note(Duration::from_millis(1));
        }
        assert_eq!(usual.late_after(), None);
        usual.note(Duration::from_millis(1));
        assert_eq!(usual.late_after(), Some(FLOOR));
        for _ in 0..GENERATION {
            usual.note(Duration::from_millis(200));
        }
        let late = usual.late_after().unwrap();
        assert!(late >= Duration::from_millis(400) && late < Duration::from_millis(500));
        for _ in 0..2 * GENERATION + 2 {
            usual.note(Duration::from_millis(1));
        }
        assert_eq!(usual.late_after(), Some(FLOOR));
    }

    #[test]
    fn second_requests_are_few() {
        let budget = Budget::new();
        let spent = (0..100).filter(|_| budget.spend()).count();
        assert_eq!(spent, BURST as usize);
        let mut spent = 0;
        for _ in 0..1000 {
            budget.earn();
            spent += u32::from(budget.spend());
        }
        assert_eq!(spent, 1000 / RARITY);
    }

    #[tokio::test]
    async fn the_first_to_succeed_is_the_answer() {
        let late = Some(Duration::from_millis(1));
        let never = || None::<std::future::Pending<Answer>>;
        let won = race(ready(Answer::Ok(1)), late, never).await;
        assert!(matches!(won, Ok(Either::Left(1))));
        let won = race(after(20, Ok(1)), late, never).await;
        assert!(matches!(won, Ok(Either::Left(1))));
        let won = race(pending::<Answer>(), late, || Some(ready(Answer::Ok(2)))).await;
        assert!(matches!(won, Ok(Either::Right(2))));
        let won = race(after(20, Ok(1)), late, || Some(ready(Answer::Err("second")))).await;
        assert!(matches!(won, Ok(Either::Left(1))));
        let won = race(after(20, Err("first")), late, || Some(after(50, Ok(2)))).await;
        assert!(matches!(won, Ok(Either::Right(2))));
        let won = race(after(20, Err("first")), late, || Some(after(50, Err("second")))).await;
        assert!(won.is_err());
    }
}
