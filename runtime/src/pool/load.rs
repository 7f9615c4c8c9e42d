//! The load of a pool: running and waiting requests, integrated over time.

use std::time::{Duration, Instant};

/// Whether a client waits for the response. Only requests with a waiting client count for autoscaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A client waits for the response.
    Sync,
    /// The response is stored (async request).
    Async,
}

/// The load of a pool. It needs no lock of its own, because each request locks the pool anyway.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: u32,
    total: Duration,
    counted_to: Option<Instant>,
}

impl Load {
    /// Counts a new request.
    pub fn arrived(&mut self, traffic: Traffic, now: Instant) {
        if traffic == Traffic::Sync {
            self.advance(now);
            self.in_flight += 1;
        }
    }

    /// Counts the end of a request.
    pub fn left(&mut self, traffic: Traffic, now: Instant) {
        if traffic == Traffic::Sync {
            self.advance(now);
            debug_assert!(self.in_flight > 0, "a request left that never came");
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// Total time that sync requests have spent in the pool so far. Its growth per second is their average number.
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
