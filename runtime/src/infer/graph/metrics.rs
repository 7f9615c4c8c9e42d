//! Metrics of the runs of a graph: counters and histograms that only grow, updated without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets for rows per run.
const ROWS: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Upper bounds of the buckets for waits of calls, in microseconds.
const WAITS_US: [u64; 12] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000,
];
/// Upper bounds of the buckets for durations of runs, in microseconds.
const RUNS_US: [u64; 12] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000,
];

/// A histogram that is updated without a lock.
#[derive(Debug)]
struct AtomicHistogram<const N: usize> {
    bounds: [u64; N],
    counts: [AtomicU64; N],
    overflow: AtomicU64,
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The inclusive upper bound of each bucket, and the number of values in it.
    pub buckets: Vec<(u64, u64)>,
    /// The number of values above the last bound.
    pub overflow: u64,
    /// The sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// The number of values.
    pub fn count(&self) -> u64 {
        self.overflow + self.buckets.iter().map(|(_, count)| count).sum::<u64>()
    }
}

impl<const N: usize> AtomicHistogram<N> {
    fn new(bounds: [u64; N]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            overflow: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn add(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        let count = self.counts.get(at).unwrap_or(&self.overflow);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn read(&self) -> Histogram {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Histogram {
            buckets: self.bounds.iter().copied().zip(counts).collect(),
            overflow: self.overflow.load(Ordering::Relaxed),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// The metrics of a graph in one deployment.
#[derive(Debug)]
pub(crate) struct GraphMetrics {
    rows: AtomicHistogram<{ ROWS.len() }>,
    waits: AtomicHistogram<{ WAITS_US.len() }>,
    runs: AtomicHistogram<{ RUNS_US.len() }>,
    queued: AtomicU64,
}

/// Counts a call as queued until this is dropped.
pub(crate) struct QueuedGuard(Arc<GraphMetrics>);

impl QueuedGuard {
    pub fn new(metrics: &Arc<GraphMetrics>) -> Self {
        metrics.queued.fetch_add(1, Ordering::Relaxed);
        Self(metrics.clone())
    }
}

impl Drop for QueuedGuard {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The metrics of a graph in one deployment, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphTotals {
    /// Rows per run.
    pub rows: Histogram,
    /// How long calls waited for their run, in microseconds.
    pub waits_us: Histogram,
    /// How long runs took, in microseconds.
    pub runs_us: Histogram,
    /// Calls that wait for their run now.
    pub queued: u64,
}

impl Default for GraphMetrics {
    fn default() -> Self {
        Self {
            rows: AtomicHistogram::new(ROWS),
            waits: AtomicHistogram::new(WAITS_US),
            runs: AtomicHistogram::new(RUNS_US),
            queued: AtomicU64::new(0),
        }
    }
}

impl GraphMetrics {
    /// Records a run.
    pub fn record_run(&self, took: Duration, rows: u64) {
        self.rows.add(rows);
        self.runs.add(us(took));
    }

    /// Records how long a call waited for its run.
    pub fn record_wait(&self, wait: Duration) {
        self.waits.add(us(wait));
    }

    /// The metrics so far. `joining` calls wait in a batch queue, which is not counted here.
    pub fn totals(&self, joining: u64) -> GraphTotals {
        GraphTotals {
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
