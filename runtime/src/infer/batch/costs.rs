//! The cost of joined runs of a graph by their size, learned from past runs.

use std::time::Duration;

/// One of this many decisions tries the largest size again, in case costs have changed.
const TRY_EVERY: u32 = 64;
/// A larger size is chosen if its cost per byte of input is below this fraction of a smaller one's.
const MAX_COST_RATIO: f64 = 0.95;
/// Weight of a new run in the average.
const NEW_WEIGHT: f64 = 0.25;

/// Nanoseconds per byte of input, for runs of 1, 2 to 3, 4 to 7, … rows.
#[derive(Debug)]
pub(super) struct BatchCost {
    max_size: usize,
    sizes: Vec<Option<f64>>,
    decisions: u32,
}

impl BatchCost {
    pub fn new(max_size: usize) -> Self {
        let max_size = max_size.max(1);
        Self {
            max_size,
            sizes: vec![None; class(max_size) + 1],
            decisions: 0,
        }
    }

    /// The most rows that a run should have.
    pub fn limit(&mut self) -> usize {
        self.decisions = self.decisions.wrapping_add(1);
        if self.decisions.is_multiple_of(TRY_EVERY) {
            return self.max_size;
        }
        let known = |at: usize| self.sizes[at].map(|cost| (at, cost));
        let mut best: Option<(usize, f64)> = None;
        for (at, cost) in (0..self.sizes.len()).filter_map(known) {
            if best.is_none_or(|(_, before)| cost < before * MAX_COST_RATIO) {
                best = Some((at, cost));
            }
        }
        let largest = (0..self.sizes.len()).filter_map(known).next_back();
        match (best, largest) {
            // Larger sizes without any run may be cheaper still.
            (Some((best, _)), Some((largest, _))) if best < largest => {
                ((2 << best) - 1).min(self.max_size)
            }
            _ => self.max_size,
        }
    }

    /// Records how long a run took.
    pub fn record(&mut self, rows: usize, bytes: usize, took: Duration) {
        let Some(size) = self.sizes.get_mut(class(rows.max(1))) else {
            return;
        };
        let new = took.as_nanos() as f64 / bytes.max(1) as f64;
        *size = Some(size.map_or(new, |before| before + (new - before) * NEW_WEIGHT));
    }
}

fn class(rows: usize) -> usize {
    rows.ilog2() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(learned: &[(usize, u64)]) -> BatchCost {
        let mut costs = BatchCost::new(16);
        for (rows, us) in learned {
            costs.record(*rows, *rows, Duration::from_micros(*us));
        }
        costs
    }

    #[test]
    fn the_cheapest_size_is_the_limit_and_unknown_sizes_are_tried() {
        assert_eq!(costs(&[]).limit(), 16);
        assert_eq!(costs(&[(1, 100)]).limit(), 16);
        assert_eq!(costs(&[(1, 100), (8, 400)]).limit(), 16);
        assert_eq!(costs(&[(1, 100), (8, 400), (16, 1600)]).limit(), 15);
        assert_eq!(costs(&[(1, 100), (8, 900)]).limit(), 1);
        assert_eq!(costs(&[(1, 100), (8, 790)]).limit(), 1, "too little gained");
        assert_eq!(costs(&[(1, 100), (2, 150), (4, 600)]).limit(), 3);
    }

    #[test]
    fn a_limit_is_tested_again() {
        let mut costs = costs(&[(1, 100), (16, 3200)]);
        let tries = (0..TRY_EVERY).filter(|_| costs.limit() == 16).count();
        assert_eq!(tries, 1);
        for _ in 0..12 {
            costs.record(16, 16, Duration::from_micros(800));
        }
        assert_eq!(costs.limit(), 16);
    }

    #[test]
    fn runs_above_the_limit_are_ignored() {
        assert_eq!(costs(&[(1, 100), (64, 64_000)]).limit(), 16);
    }
}
