//! A request in a pool's queue.

use std::time::Instant;

use super::Pool;
use crate::load::Traffic;

/// A request that waits, until this is dropped: then it has given up, unless it was [`Self::over`] before.
pub(super) struct Waiting<'p> {
    pool: Option<&'p Pool>,
    traffic: Traffic,
}

impl<'p> Waiting<'p> {
    pub(super) fn new(pool: &'p Pool, traffic: Traffic) -> Self {
        Self {
            pool: Some(pool),
            traffic,
        }
    }

    /// It has a place now.
    pub(super) fn over(mut self) {
        self.pool = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            pool.lock().gave_up(self.traffic, Instant::now());
        }
    }
}
