//! What keeps a pool in order beside its requests: replicas started ahead, replaced, trimmed and let go.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::handoff::{Lease, Places};
use super::{Pool, RunError};
use crate::infer::graphs::GraphUse;
use crate::meter::Meter;
use crate::pool::replica::{Replica, StartTimings};
use crate::pool::slots::IdleHolder;
use crate::pool::state::{Counts, PoolSettings};

/// How long a replica that is killed may take to be gone: until its guest yields, and its instance is taken apart.
const KILL_TIME: Duration = Duration::from_secs(5);

impl Pool {
    /// Starts replicas until `count` are there, within the deployment's cap.
    ///
    /// # Errors
    /// The first start that fails.
    pub async fn prewarm(self: &Arc<Self>, count: usize) -> Result<(), RunError> {
        while self.lock().prewarm(count, &self.settings()) {
            let lease = Lease::new(self.clone(), None, None);
            let mut timings = StartTimings::default();
            let replica = self.start(&mut timings).await?;
            self.give_back(lease, replica);
        }
        Ok(())
    }

    /// Replaces idle replicas that read older values of the config than there are now. Busy ones go when they come back,
    /// and no request is given to one, so a pool that nobody recycles is right too, only colder.
    pub fn recycle(self: &Arc<Self>) {
        let taken = {
            let mut ledger = self.lock();
            std::iter::from_fn(|| ledger.take_idle(|replica| self.is_outdated(replica))).collect()
        };
        let taken: Vec<Box<Replica>> = taken;
        // Dropped outside the lock, and before the new ones take their memory.
        let leases = taken.into_iter().map(|replica| {
            drop(replica);
            Lease::new(self.clone(), None, None)
        });
        for lease in leases {
            let pool = self.clone();
            tokio::spawn(async move {
                match pool.start(&mut StartTimings::default()).await {
                    Ok(replica) => pool.give_back(lease, replica),
                    Err(error) => {
                        tracing::warn!(%error, "a replica does not start with the new config");
                    }
                }
            });
        }
    }

    /// Takes no more requests and starts nothing more, lets the running ones finish for so long, stops those that are left,
    /// and drops every replica.
    pub async fn drain(&self, time: Duration) {
        // Dropped outside the lock: a waiter that goes locks it again.
        let closed = self.lock().close();
        drop(closed);
        for card in self.roster.all() {
            // It would serve nobody.
            if card.ready().is_none() {
                card.kill();
            }
        }
        if timeout(time, self.all_free()).await.is_ok() {
            return;
        }
        let busy = self.counts().busy;
        tracing::warn!(
            busy,
            "replicas stopped: they did not finish within the drain time of {time:?}"
        );
        for card in self.roster.all() {
            card.kill();
        }
        if timeout(KILL_TIME, self.all_free()).await.is_err() {
            let busy = self.counts().busy;
            tracing::error!(
                busy,
                "replicas left behind: they do not stop within {KILL_TIME:?} of being killed"
            );
        }
    }

    /// Waits until no replica serves or starts.
    async fn all_free(&self) {
        loop {
            let changed = self.changed.notified();
            if self.counts().busy == 0 {
                return;
            }
            changed.await;
        }
    }

    /// What it has used so far.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Its use of each of its graphs.
    pub fn graph_uses(&self) -> &[Arc<GraphUse>] {
        &self.uses
    }

    /// The bounds that it keeps to now.
    pub fn settings(&self) -> PoolSettings {
        // A plain value: a panic cannot leave it half-written.
        *self.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps to other bounds from now on: idle replicas beyond them go, missing ones start.
    pub fn set_settings(self: &Arc<Self>, settings: PoolSettings) {
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = settings;
        self.trim();
        self.promote();
        let pool = self.clone();
        tokio::spawn(async move {
            if let Err(error) = pool.prewarm(settings.min_replica).await {
                tracing::warn!(%error, "the minimum of replicas does not start");
            }
        });
    }

    /// How many replicas and waiting requests there are.
    pub fn counts(&self) -> Counts {
        self.lock().counts()
    }
}

impl IdleHolder for Pool {
    fn idle(&self) -> usize {
        self.counts().idle
    }

    fn oldest_idle(&self) -> Option<Instant> {
        self.lock().oldest_idle()
    }

    fn evict_oldest(&self) {
        let evicted = self.lock().take_oldest();
        drop(evicted);
    }
}
