//! How many requests are at a pool, running or waiting, summed up over time.

use std::time::{Duration, Instant};

/// Whose answer a request is for. What scales a deployment are the requests that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Somebody waits for the answer.
    Sync,
    /// The answer is kept and told later.
    Async,
}

/// The load of a pool: kept under a lock that each request takes anyway, by additions alone.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: u32,
    total: Duration,
    counted_to: Option<Instant>,
}

impl Load {
    /// A request has come.
    pub fn arrived(&mut self, traffic: Traffic, now: Instant) {
        if traffic == Traffic::Sync {
            self.advance(now);
            self.in_flight += 1;
        }
    }

    /// A request is over, whichever way.
    pub fn left(&mut self, traffic: Traffic, now: Instant) {
        if traffic == Traffic::Sync {
            self.advance(now);
            debug_assert!(self.in_flight > 0, "a request left that never came");
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// The time that sync requests have spent here so far, all together: what it grows by in a second is how many there
    /// were on average.
    pub fn total(&mut self, now: Instant) -> Duration {
        self.advance(now);
        self.total
    }

    fn advance(&mut self, now: Instant) {
        // Times are read before the lock is taken, so one may come after a later one.
        if let Some(before) = self.counted_to {
            self.total += now.saturating_duration_since(before) * self.in_flight;
        }
        self.counted_to = self.counted_to.max(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_from_their_arrival_to_their_end() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let mut load = Load::default();
        load.arrived(Traffic::Sync, at(1000));
        load.arrived(Traffic::Async, at(1000));
        assert_eq!(load.total(at(1500)).as_millis(), 500);
        load.arrived(Traffic::Sync, at(1500));
        load.left(Traffic::Async, at(1600));
        load.left(Traffic::Sync, at(2000));
        assert_eq!(load.total(at(2000)).as_millis(), 500 + 1000);
        // A time that was read before another, and told after it.
        load.left(Traffic::Sync, at(1900));
        assert_eq!(load.total(at(9000)).as_millis(), 1500);
    }
}
