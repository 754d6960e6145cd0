//! How many objects are fetched ahead at once, which follows from how long that takes.

use std::time::Duration;

/// How many at first, at least and at most.
const FIRST: f64 = 4.0;
const FEWEST: f64 = 2.0;
const MOST: f64 = 64.0;

/// By how much of the difference the fastest time is forgotten with each slower fetch when so few
/// are on their way that none waits for another: the way to a server has become longer.
const FORGET: f64 = 0.1;

/// The fetches that are on their way.
///
/// A far server takes as long for many as for one, a busy one doesn't: while fetches are hardly
/// slower than the fastest, more are let go at once; when they wait for one another, fewer.
#[derive(Debug)]
pub(super) struct Flights {
    limit: f64,
    on_their_way: u32,
    /// How long a fetch takes that waits for no other, in seconds.
    fastest: Option<f64>,
    /// How many times as long they may take.
    slowest: f64,
}

impl Flights {
    /// Fetches that may take up to `slowest` times as long as they would take alone.
    pub(super) fn new(slowest: f64) -> Self {
        Self { limit: FIRST, on_their_way: 0, fastest: None, slowest }
    }

    /// Starts one more, if there may be one more.
    pub(super) fn start(&mut self) -> bool {
        let may = f64::from(self.on_their_way) < self.limit.floor();
        self.on_their_way += u32::from(may);
        may
    }

    /// One has come, after this time; or not, for which it counts as slow.
    pub(super) fn end(&mut self, took: Option<Duration>) {
        self.on_their_way = self.on_their_way.saturating_sub(1);
        let Some(took) = took.map(|took| took.as_secs_f64()) else {
            self.limit = (self.limit / 2.0).max(FEWEST);
            return;
        };
        let fastest = self.fastest.get_or_insert(took);
        if took < *fastest {
            *fastest = took;
        } else if self.limit <= FEWEST {
            *fastest += (took - *fastest) * FORGET;
        }
        let half = 1.0 + (self.slowest - 1.0) / 2.0;
        if took < *fastest * half {
            self.limit = (self.limit + 0.5).min(MOST);
        } else if took > *fastest * self.slowest {
            self.limit = (self.limit * 0.97).max(FEWEST);
        }
    }

    /// One that was started turned out not to be needed.
    pub(super) fn cancel(&mut self) {
        self.on_their_way = self.on_their_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are let go at once to a server that is `far` away, in milliseconds, and works for
    /// one millisecond on each.
    fn settled(far: u64) -> f64 {
        let mut flights = Flights::new(3.0);
        for _ in 0..2000 {
            while flights.start() {}
            let queue = u64::from(flights.on_their_way);
            flights.end(Some(Duration::from_millis(far + queue.max(1))));
        }
        flights.limit.floor()
    }

    #[test]
    fn a_far_server_is_sent_more_at_once_than_a_near_one() {
        assert!(settled(0) <= 8.0, "{}", settled(0));
        assert!(settled(20) >= 20.0, "{}", settled(20));
        assert!(settled(200) >= MOST);
    }

    #[test]
    fn failures_make_it_careful() {
        let mut flights = Flights::new(3.0);
        for _ in 0..10 {
            while flights.start() {}
            flights.end(None);
        }
        assert!(flights.limit <= FEWEST);
        while flights.start() {}
        let started = flights.on_their_way;
        flights.cancel();
        assert_eq!(flights.on_their_way, started - 1);
    }
}
