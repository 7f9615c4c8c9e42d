//! What operators see of a pool's replicas and circuit breaker, and what they can do about them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Pool;
use super::circuit_breaker::state::Unavailable;
use super::registry::{ReplicaInfo, StopOutcome};

impl Pool {
    /// All replicas, the oldest first.
    pub fn replicas(&self) -> Vec<ReplicaInfo> {
        let entries = self.registry.all();
        let idle: HashSet<String> = {
            let state = self.lock();
            let idle = state.idle();
            idle.map(|replica| replica.entry().id().into()).collect()
        };
        let now = Instant::now();
        let mut replicas: Vec<ReplicaInfo> = entries
            .iter()
            .map(|entry| entry.info(idle.contains(entry.id()), now))
            .collect();
        replicas.sort_by(|a, b| b.age.cmp(&a.age).then_with(|| a.id.cmp(&b.id)));
        replicas
    }

    /// Stops a replica: an idle one at once, a busy one after its request, or after `time` if the request takes longer. `None`
    /// if no replica has this id.
    pub fn stop_replica(&self, id: &str, time: Duration) -> Option<StopOutcome> {
        let entry = self.registry.find(id)?;
        // Before the idle replicas are searched: one that is returned after the search is dropped then.
        entry.stop();
        let idle = self
            .lock()
            .remove_idle(|replica| replica.entry().id() == id);
        Some(match idle {
            Some(replica) => {
                drop(replica);
                StopOutcome::Stopped
            }
            None => {
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    entry.kill();
                });
                StopOutcome::Draining
            }
        })
    }

    /// Why starts of replicas pause; `None` while the circuit breaker is closed.
    pub fn unavailable(&self) -> Option<Unavailable> {
        self.breaker.unavailable(Instant::now())
    }

    /// Closes the circuit breaker and forgets failed starts, so that replicas may start at once.
    pub fn reset_circuit_breaker(&self) {
        self.breaker.reset();
    }
}
