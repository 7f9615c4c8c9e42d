//! What can be seen of a pool's replicas and health, and done about them by hand.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Pool;
use crate::pool::circuit_breaker::state::Trouble;
use crate::pool::registry::{ReplicaInfo, Stopping};

impl Pool {
    /// Its replicas, the oldest first.
    pub fn replicas(&self) -> Vec<ReplicaInfo> {
        let cards = self.roster.all();
        let idle: HashSet<String> = {
            let ledger = self.lock();
            ledger.idle().map(|one| one.card().id().into()).collect()
        };
        let now = Instant::now();
        let info = |card: &std::sync::Arc<crate::pool::registry::Card>| {
            card.info(idle.contains(card.id()), now)
        };
        let mut replicas: Vec<ReplicaInfo> = cards.iter().map(info).collect();
        replicas.sort_by(|a, b| b.age.cmp(&a.age).then_with(|| a.id.cmp(&b.id)));
        replicas
    }

    /// Stops a replica: an idle one at once, a busy one after its request, or after `time` if that takes longer. Nothing when
    /// there is none of that id.
    pub fn stop_replica(&self, id: &str, time: Duration) -> Option<Stopping> {
        let card = self.roster.find(id)?;
        // First, so that it is not kept when it comes back after the look at the idle ones.
        card.stop();
        let idle = self.lock().remove_idle(|replica| replica.card().id() == id);
        Some(match idle {
            Some(replica) => {
                drop(replica);
                Stopping::Now
            }
            None => {
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    card.kill();
                });
                Stopping::Later
            }
        })
    }

    /// Why no replica starts, if none does.
    pub fn trouble(&self) -> Option<Trouble> {
        self.health.trouble(Instant::now())
    }

    /// Forgets failed starts: the next replica may start.
    pub fn clear_trouble(&self) {
        self.health.clear();
    }
}
