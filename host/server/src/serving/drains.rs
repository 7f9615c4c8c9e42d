//! Deployments that are no longer served and whose last requests still run here.

use std::collections::HashMap;
use std::sync::Arc;

use samovar_types::id::{DeploymentId, ModelId};
use tokio::sync::{mpsc, watch};

/// The drains of a node.
#[derive(Clone)]
pub struct Drains {
    /// Deployments, each with how many generations of its code drain.
    running: Arc<watch::Sender<HashMap<DeploymentId, usize>>>,
    /// Receives the model of each drain that has ended.
    ended: mpsc::UnboundedSender<ModelId>,
}

/// A drain, which lasts until this is dropped.
pub struct Drain {
    drains: Drains,
    model: ModelId,
    deployment: DeploymentId,
}

impl Drains {
    /// Without drains. `ended` receives the model of each that ends.
    pub fn new(ended: mpsc::UnboundedSender<ModelId>) -> Self {
        Self {
            running: Arc::new(watch::Sender::default()),
            ended,
        }
    }

    /// Begins one.
    pub fn begin(&self, model: ModelId, deployment: DeploymentId) -> Drain {
        self.running
            .send_modify(|running| *running.entry(deployment).or_default() += 1);
        Drain {
            drains: self.clone(),
            model,
            deployment,
        }
    }

    /// Whether requests of a deployment still drain.
    pub fn is_draining(&self, deployment: DeploymentId) -> bool {
        self.running.borrow().contains_key(&deployment)
    }

    /// Waits until no requests of these deployments drain.
    pub async fn ended(&self, deployments: &[DeploymentId]) {
        let mut running = self.running.subscribe();
        let is_over = |running: &HashMap<DeploymentId, usize>| {
            deployments.iter().all(|one| !running.contains_key(one))
        };
        // Ends only with the drains, which are borrowed.
        let _ = running.wait_for(is_over).await;
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.drains.running.send_modify(|running| {
            if let Some(count) = running.get_mut(&self.deployment) {
                *count -= 1;
                if *count == 0 {
                    running.remove(&self.deployment);
                }
            }
        });
        // A node that stops waits for nothing.
        let _ = self.drains.ended.send(self.model);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::random::random_id;

    #[tokio::test]
    async fn a_deployment_has_drained_when_all_its_code_has() {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let drains = Drains::new(sender);
        let (model, one, other) = (random_id(), random_id(), random_id());
        let (first, second) = (drains.begin(model, one), drains.begin(model, one));
        let third = drains.begin(model, other);
        drop(first);
        assert_eq!(ended.recv().await, Some(model));
        assert!(drains.is_draining(one));
        assert!(drains.ended(&[one]).now_or_never().is_none());
        drop(second);
        drains.ended(&[one]).await;
        assert!(!drains.is_draining(one) && drains.is_draining(other));
        drop(third);
        drains.ended(&[one, other]).await;
    }
}
