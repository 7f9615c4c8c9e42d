//! What scales a pool looks at and does: the load, replicas started ahead, idle ones let go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handoff::Lease;
use super::{Pool, RunError};
use crate::pool::registry::Presence;
use crate::pool::replica::StartTimings;

/// Replicas of one pool that start at once without a request for them.
const MAX_WARMING: usize = 8;

impl Pool {
    /// The time that sync requests have spent here so far, running or waiting, all together. What it grows by in a
    /// second is how many there were on average.
    pub fn load(&self, now: Instant) -> Duration {
        self.lock().load(now)
    }

    /// Replicas that can serve, and those that start.
    pub fn presence(&self) -> Presence {
        self.roster.presence()
    }

    /// Replicas that have been idle for so long.
    pub fn idle_for(&self, time: Duration, now: Instant) -> usize {
        self.lock().idle_for(time, now)
    }

    /// Starts replicas in the background until `count` are there, within the deployment's cap and as far as the machine
    /// has room without taking another deployment's.
    pub fn warm(self: &Arc<Self>, count: usize) {
        let free = MAX_WARMING.saturating_sub(self.presence().starting);
        let counts = self.counts();
        let missing = count.saturating_sub(counts.idle + counts.busy);
        for _ in 0..free.min(missing) {
            let pool = self.clone();
            tokio::spawn(async move {
                match pool.warm_one_by_one(count).await {
                    // It is told where its illness is.
                    Ok(()) | Err(RunError::Unhealthy(_)) => {}
                    Err(error) => tracing::warn!(%error, "a replica does not start"),
                }
            });
        }
    }

    async fn warm_one_by_one(self: &Arc<Self>, count: usize) -> Result<(), RunError> {
        while self.share.has_room() && self.lock().prewarm(count, &self.settings()) {
            let lease = Lease::new(self.clone(), None, None);
            let replica = self.start(&mut StartTimings::default()).await?;
            self.give_back(lease, replica);
        }
        Ok(())
    }

    /// Drops up to `count` idle replicas, those first that were idle for longest. Answers how many.
    pub fn shrink(&self, count: usize) -> usize {
        (0..count)
            .take_while(|_| {
                let idle = self.lock().take_oldest();
                // Dropped outside the lock.
                idle.is_some()
            })
            .count()
    }
}
