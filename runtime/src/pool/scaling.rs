//! What an autoscaler needs of a pool: its load, starting replicas ahead, and dropping idle ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handoff::Lease;
use super::registry::Readiness;
use super::replica::StartTimings;
use super::{Pool, RunError};

/// Replicas of one pool that start at once ahead of requests.
const MAX_WARMING: usize = 8;

impl Pool {
    /// The time that all sync requests have spent in the pool so far, running or waiting. Its growth per second is their
    /// average number.
    pub fn load(&self, now: Instant) -> Duration {
        self.lock().load(now)
    }

    /// How many replicas can serve, and how many start.
    pub fn readiness(&self) -> Readiness {
        self.registry.readiness()
    }

    /// PoolCounts the replicas that have been idle for at least `time`.
    pub fn idle_for(&self, time: Duration, now: Instant) -> usize {
        self.lock().count_idle_for(time, now)
    }

    /// Starts replicas in the background until there are `count`, within the settings, and while the node has free slots:
    /// no idle replica of another deployment is dropped for them.
    pub fn warm(self: &Arc<Self>, count: usize) {
        let free = MAX_WARMING.saturating_sub(self.readiness().starting);
        let counts = self.counts();
        let missing = count.saturating_sub(counts.idle + counts.busy);
        for _ in 0..free.min(missing) {
            let pool = self.clone();
            tokio::spawn(async move {
                match pool.warm_while_room(count).await {
                    // The failures that opened the circuit breaker were logged.
                    Ok(()) | Err(RunError::Unhealthy(_)) => {}
                    Err(error) => tracing::warn!(%error, "replica did not start"),
                }
            });
        }
    }

    async fn warm_while_room(self: &Arc<Self>, count: usize) -> Result<(), RunError> {
        while self.share.has_room() && self.lock().reserve_start(count, &self.settings()) {
            let lease = Lease::new(self.clone(), None, None);
            let replica = self.start(&mut StartTimings::default()).await?;
            self.give_back(lease, replica);
        }
        Ok(())
    }

    /// Drops up to `count` idle replicas, the longest idle first. Returns how many were dropped.
    pub fn shrink(&self, count: usize) -> usize {
        (0..count)
            .take_while(|_| {
                let idle = self.lock().remove_oldest_idle();
                // Dropped outside the lock.
                idle.is_some()
            })
            .count()
    }
}
