//! The load of a pool: how long its requests have run or waited, added up.

use std::time::{Duration, Instant};

/// Whether a client waits for the response. Only such requests scale a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A client waits for the response.
    Sync,
    /// The response is stored, and delivered later.
    Async,
}

/// Adds up the time of sync requests. Kept under the pool's lock, which each request takes anyway.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: u32,
    total: Duration,
    counted_to: Option<Instant>,
}

impl Load {
    /// PoolCounts a request from now on.
    pub fn arrive(&mut self, traffic: Traffic, now: Instant) {
        if traffic == Traffic::Sync {
            self.advance(now);
            self.in_flight += 1;
        }
    }

    /// Stops counting a request.
    pub fn leave(&mut self, traffic: Traffic, now: Instant) {
        if traffic == Traffic::Sync {
            self.advance(now);
            debug_assert!(self.in_flight > 0, "a request left that never arrived");
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// The time that all sync requests have spent in the pool so far. Its growth per second is their average number.
    pub fn total(&mut self, now: Instant) -> Duration {
        self.advance(now);
        self.total
    }

    fn advance(&mut self, now: Instant) {
        // Callers read the time before they take the lock, so times may arrive out of order.
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
        load.arrive(Traffic::Sync, at(1000));
        load.arrive(Traffic::Async, at(1000));
        assert_eq!(load.total(at(1500)).as_millis(), 500);
        load.arrive(Traffic::Sync, at(1500));
        load.leave(Traffic::Async, at(1600));
        load.leave(Traffic::Sync, at(2000));
        assert_eq!(load.total(at(2000)).as_millis(), 500 + 1000);
        // A time that arrives out of order.
        load.leave(Traffic::Sync, at(1900));
        assert_eq!(load.total(at(9000)).as_millis(), 1500);
    }
}
