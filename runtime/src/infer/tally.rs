//! What runs of a graph came to: counters that only grow, added to without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Rows of a run: upper ends of the classes that are counted, the last one open.
const ROWS: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Waits of a call in microseconds: likewise.
const WAITS_US: [u64; 12] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000,
];
/// Durations of a run in microseconds: likewise.
const RUNS_US: [u64; 12] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000,
];

/// Counters of classes, each value in one of them.
#[derive(Debug)]
struct Classes<const N: usize> {
    ends: [u64; N],
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum: AtomicU64,
}

/// What was counted in classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Upper end of each class and what is in it.
    pub classes: Vec<(u64, u64)>,
    /// What is above the last.
    pub beyond: u64,
    /// The sum of all values.
    pub sum: u64,
}

impl Distribution {
    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.beyond + self.classes.iter().map(|(_, count)| count).sum::<u64>()
    }
}

impl<const N: usize> Classes<N> {
    fn new(ends: [u64; N]) -> Self {
        Self {
            ends,
            counts: [const { AtomicU64::new(0) }; N],
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn add(&self, value: u64) {
        let at = self.ends.partition_point(|end| *end < value);
        let count = self.counts.get(at).unwrap_or(&self.beyond);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn read(&self) -> Distribution {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Distribution {
            classes: self.ends.iter().copied().zip(counts).collect(),
            beyond: self.beyond.load(Ordering::Relaxed),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// The counters of one use of a graph.
#[derive(Debug)]
pub(crate) struct Tally {
    rows: Classes<{ ROWS.len() }>,
    waits: Classes<{ WAITS_US.len() }>,
    runs: Classes<{ RUNS_US.len() }>,
    queued: AtomicU64,
}

/// A call that is to run alone, until its run begins or nobody waits for it any more.
pub(crate) struct Queued(Arc<Tally>);

impl Queued {
    pub fn new(tally: &Arc<Tally>) -> Self {
        tally.queued.fetch_add(1, Ordering::Relaxed);
        Self(tally.clone())
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What runs of a graph came to so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows of each run.
    pub rows: Distribution,
    /// Microseconds that each call waited for its run.
    pub waits_us: Distribution,
    /// Microseconds that each run took.
    pub runs_us: Distribution,
    /// Calls that wait for their run.
    pub queued: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            rows: Classes::new(ROWS),
            waits: Classes::new(WAITS_US),
            runs: Classes::new(RUNS_US),
            queued: AtomicU64::new(0),
        }
    }
}

impl Tally {
    pub fn ran(&self, took: Duration, rows: u64) {
        self.rows.add(rows);
        self.runs.add(us(took));
    }

    pub fn waited(&self, wait: Duration) {
        self.waits.add(us(wait));
    }

    /// What was counted, and the calls that wait; `joining` of them in a queue that is counted elsewhere.
    pub fn totals(&self, joining: u64) -> Totals {
        Totals {
            rows: self.rows.read(),
            waits_us: self.waits.read(),
            runs_us: self.runs.read(),
            queued: joining + self.queued.load(Ordering::Relaxed),
        }
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
