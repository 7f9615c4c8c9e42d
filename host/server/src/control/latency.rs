//! Latencies in buckets that grow with them: counted without a lock, in bounded memory, told to within 3 %.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets for each doubling.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Microseconds from which on latencies are not told apart any more: about 71 minutes.
const LIMIT_BITS: u32 = 32;
const BUCKETS: usize = ((LIMIT_BITS - STEP_BITS + 1) as u64 * STEPS) as usize;

/// Latencies as they are counted.
pub struct LatencyCounter(Box<[AtomicU32]>);

impl Default for LatencyCounter {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl LatencyCounter {
    /// Counts one.
    pub fn add(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0[bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Latencies {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Latencies::new(counts.collect())
    }
}

/// Latencies that were counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies {
    counts: Vec<u32>,
    total: u64,
}

impl Latencies {
    fn new(counts: Vec<u32>) -> Self {
        let total = counts.iter().map(|count| u64::from(*count)).sum();
        Self { counts, total }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The bounds of the latency that this share of all keeps below; nothing when there are none.
    pub fn quantile(&self, share: f64) -> Option<(Duration, Duration)> {
        // Counts are far below 2^52, so nothing is lost in either direction.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        })?;
        let us = Duration::from_micros;
        Some((us(lowest(found as u64)), us(lowest(found as u64 + 1))))
    }
}

#[cfg(test)]
impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        let counter = LatencyCounter::default();
        latencies.into_iter().for_each(|one| counter.add(one));
        counter.read()
    }
}

fn bucket(us: u64) -> usize {
    let us = us.min((1 << LIMIT_BITS) - 1);
    if us < STEPS {
        return us as usize;
    }
    let doublings = us.ilog2() - STEP_BITS;
    (u64::from(doublings) * STEPS + (us >> doublings)) as usize
}

/// The least that falls into a bucket.
fn lowest(bucket: u64) -> u64 {
    if bucket < STEPS {
        return bucket;
    }
    let doublings = bucket / STEPS - 1;
    (STEPS + bucket % STEPS) << doublings
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_latency_has_a_bucket() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(lowest(BUCKETS as u64), 1 << LIMIT_BITS);
        let latencies: Latencies = [Duration::ZERO, Duration::MAX].into_iter().collect();
        assert_eq!(latencies.count(), 2);
        assert_eq!(Latencies::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_bucket_is_as_wide_as_a_32nd_of_what_falls_into_it(us in 0u64..1 << LIMIT_BITS) {
            let (low, high) = (lowest(bucket(us) as u64), lowest(bucket(us) as u64 + 1));
            prop_assert!((low..high).contains(&us));
            prop_assert!(high - low <= 1 + low / STEPS);
        }

        #[test]
        fn a_quantile_is_where_sorting_would_find_it(
            mut us in prop::collection::vec(0u64..1 << 40, 1..200), share in 0.0f64..=1.0
        ) {
            let latencies: Latencies = us.iter().copied().map(Duration::from_micros).collect();
            us.sort_unstable();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let rank = ((share * us.len() as f64).ceil() as usize).max(1);
            let wanted = Duration::from_micros(us[rank - 1].min((1 << LIMIT_BITS) - 1));
            let (low, high) = latencies.quantile(share).unwrap();
            prop_assert!(low <= wanted && wanted < high, "{low:?} {wanted:?} {high:?}");
        }
    }
}
