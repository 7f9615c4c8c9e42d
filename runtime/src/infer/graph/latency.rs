//! How long runs of a graph take, as far as is known: decides which runs are short enough for the calling thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A shorter run stays on the calling thread: handing it to another would take as long.
const SHORT: Duration = Duration::from_micros(100);

/// An estimate from the runs so far.
#[derive(Debug, Default)]
pub(super) struct LatencyEstimate {
    /// Estimate in nanoseconds; 0 before the first run. Rises at once and falls slowly.
    typical_ns: AtomicU64,
    /// The largest inputs of a short run, in bytes.
    short_bytes: AtomicU64,
}

impl LatencyEstimate {
    /// Records a run with inputs of this size.
    pub fn record(&self, took: Duration, input_bytes: u64) {
        if took < SHORT {
            self.short_bytes.fetch_max(input_bytes, Ordering::Relaxed);
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.typical_ns.load(Ordering::Relaxed);
        self.typical_ns
            .store(update(before, took), Ordering::Relaxed);
    }

    /// Whether a run with inputs of this size is expected to be short.
    pub fn is_short(&self, input_bytes: u64) -> bool {
        let typical = self.typical_ns.load(Ordering::Relaxed);
        input_bytes <= self.short_bytes.load(Ordering::Relaxed)
            && typical != 0
            && u128::from(typical) < SHORT.as_nanos()
    }
}

/// A slow run counts at once, a quick one by an eighth, so that a mixture of both is never estimated as short.
fn update(before: u64, new: u64) -> u64 {
    new.max(before - before / 8).max(1)
}

#[cfg(test)]
mod tests {
    use super::update;

    #[test]
    fn one_slow_run_outweighs_many_quick_ones() {
        let slow = update(update(0, 1_000), 1_000_000);
        assert_eq!(slow, 1_000_000);
        assert!(update(slow, 1_000) > 800_000);
    }
}
