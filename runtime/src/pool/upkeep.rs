//! Upkeep of a pool beside its requests: starting replicas ahead, replacing them after a change of the config, changing the
//! settings, draining.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::handoff::{Lease, Places};
use super::replica::{Replica, StartTimings};
use super::slots::IdleHolder;
use super::state::{PoolCounts, PoolSettings};
use super::{Pool, RunError};
use crate::infer::graph::DeploymentGraph;
use crate::metrics::PoolMetrics;

/// Longest wait for killed replicas: until their guests yield and their instances are deallocated.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

impl Pool {
    /// Starts replicas, one after the other, until there are `count`, or as many as the settings allow.
    ///
    /// # Errors
    /// The first start that fails.
    pub async fn prewarm(self: &Arc<Self>, count: usize) -> Result<(), RunError> {
        while self.lock().reserve_start(count, &self.settings()) {
            let lease = Lease::new(self.clone(), None, None);
            let mut timings = StartTimings::default();
            let replica = self.start(&mut timings).await?;
            self.give_back(lease, replica);
        }
        Ok(())
    }

    /// Replaces idle replicas that have read older values of the config. Busy ones are dropped after their request.
    ///
    /// Requests never run on an outdated replica, whether this is called or not; without it they wait for a start.
    pub fn recycle(self: &Arc<Self>) {
        let outdated: Vec<Box<Replica>> = {
            let mut state = self.lock();
            std::iter::from_fn(|| state.take_idle(|replica| self.is_outdated(replica))).collect()
        };
        // Dropped outside the lock, and before the new replicas take their memory.
        let leases = outdated.into_iter().map(|replica| {
            drop(replica);
            Lease::new(self.clone(), None, None)
        });
        for lease in leases {
            let pool = self.clone();
            tokio::spawn(async move {
                match pool.start(&mut StartTimings::default()).await {
                    Ok(replica) => pool.give_back(lease, replica),
                    Err(error) => {
                        tracing::warn!(%error, "replica did not start with the new config");
                    }
                }
            });
        }
    }

    /// Closes the pool: rejects requests, lets the running ones finish within `time`, then kills the rest, and drops all
    /// replicas.
    pub async fn drain(&self, time: Duration) {
        // Dropped outside the lock, which a dropped waiter takes.
        let closed = self.lock().close();
        drop(closed);
        for entry in self.registry.all() {
            // It would serve no request.
            if !entry.is_ready() {
                entry.kill();
            }
        }
        if timeout(time, self.wait_idle()).await.is_ok() {
            return;
        }
        let busy = self.counts().busy;
        tracing::warn!(
            busy,
            "replicas killed: they did not finish within the drain time of {time:?}"
        );
        for entry in self.registry.all() {
            entry.kill();
        }
        if timeout(KILL_TIMEOUT, self.wait_idle()).await.is_err() {
            let busy = self.counts().busy;
            tracing::error!(
                busy,
                "replicas left behind: they did not stop within {KILL_TIMEOUT:?} of being killed"
            );
        }
    }

    /// Waits until no replica serves or starts.
    async fn wait_idle(&self) {
        loop {
            let freed = self.place_freed.notified();
            if self.counts().busy == 0 {
                return;
            }
            freed.await;
        }
    }

    /// The counters of the pool.
    pub fn metrics(&self) -> &Arc<PoolMetrics> {
        &self.metrics
    }

    /// The counters of each graph that the deployment uses, in the order of [`DeploymentSpec::graphs`](super::DeploymentSpec).
    pub fn graphs(&self) -> &[Arc<DeploymentGraph>] {
        &self.graph_uses
    }

    /// The current settings.
    pub fn settings(&self) -> PoolSettings {
        **self.settings.load()
    }

    /// Changes the settings. Idle replicas above the maximum are dropped; replicas up to the minimum start in the background.
    pub fn set_settings(self: &Arc<Self>, settings: PoolSettings) {
        self.settings.store(Arc::new(settings));
        self.drop_surplus();
        self.start_waiters();
        let pool = self.clone();
        tokio::spawn(async move {
            if let Err(error) = pool.prewarm(settings.min_replica).await {
                tracing::warn!(%error, "replicas up to `min_replica` did not start");
            }
        });
    }

    /// The current numbers of replicas and waiting requests.
    pub fn counts(&self) -> PoolCounts {
        self.lock().counts()
    }
}

impl IdleHolder for Pool {
    fn count_idle(&self) -> usize {
        self.counts().idle
    }

    fn oldest_idle(&self) -> Option<Instant> {
        self.lock().oldest_idle()
    }

    fn evict_oldest(&self) {
        let evicted = self.lock().remove_oldest_idle();
        // Dropped outside the lock.
        drop(evicted);
    }
}
