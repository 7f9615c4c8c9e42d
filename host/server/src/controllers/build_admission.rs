//! Builds that the end of the node cut off.
//!
//! After a crash each of them is tried once more, while the node builds nothing else, so that one that ends the node again
//! is known by it. That it was tried is stored before the build begins. Those that wait behind it are not blamed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use samovar_store::Rev;
use samovar_types::id::{DeploymentId, ModelId};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::domain::changes::Resumed;
use crate::registry::{Changed, Registry, RegistryError};

/// How long to wait for a store that takes no writes.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Which builds may begin now.
#[derive(Default)]
pub struct BuildAdmission {
    /// Deployments whose builds were cut off and not tried since.
    cut_off: Mutex<BTreeSet<DeploymentId>>,
    /// Builds share it; one that may end the node has it alone.
    building: Arc<RwLock<()>>,
}

/// Whether a build may begin.
pub enum Admission {
    /// It begins, and holds this until it ends.
    Begins(Turn),
    /// It ended the node twice, which the model says now; the commit.
    Failed(Rev),
}

/// A build's place among the others.
pub enum Turn {
    /// Beside other builds.
    Shared(OwnedRwLockReadGuard<()>),
    /// While nothing else is built.
    Alone(OwnedRwLockWriteGuard<()>),
}

impl BuildAdmission {
    /// Notes, before anything is built, that the node ended while it built these.
    pub fn expect(&self, cut_off: impl IntoIterator<Item = DeploymentId>) {
        self.lock().extend(cut_off);
    }

    /// Waits until a build may begin.
    ///
    /// # Errors
    /// When the deployment is gone.
    pub async fn admit(
        &self,
        registry: &Registry,
        model: ModelId,
        id: DeploymentId,
    ) -> Result<Admission, RegistryError> {
        if !self.lock().contains(&id) {
            let turn = self.building.clone().read_owned().await;
            return Ok(Admission::Begins(Turn::Shared(turn)));
        }
        let turn = self.building.clone().write_owned().await;
        let resumed = resume(registry, model, id).await;
        self.lock().remove(&id);
        let resumed = resumed?;
        match resumed.value {
            Resumed::Begins | Resumed::NotNeeded => {
                tracing::info!(deployment = %id, "builds alone what the end of the node cut off");
                Ok(Admission::Begins(Turn::Alone(turn)))
            }
            Resumed::Failed => {
                tracing::error!(deployment = %id, "the node ended twice while building it: build failed");
                Ok(Admission::Failed(resumed.rev))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<DeploymentId>> {
        // A set of ids: a panic leaves it whole.
        self.cut_off.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the attempt. Without that note nothing is built: a bundle that ends the node would do so at each start.
async fn resume(
    registry: &Registry,
    model: ModelId,
    id: DeploymentId,
) -> Result<Changed<Resumed>, RegistryError> {
    let mut told = false;
    loop {
        let changed = registry.change(model.as_str(), |view| view.resume_build(id));
        match changed.await {
            Ok(changed) => return Ok(changed),
            Err(error @ RegistryError::Store(_)) => {
                if !told {
                    told = true;
                    tracing::warn!(deployment = %id, %error, "its build waits for the store");
                }
                tokio::time::sleep(STORE_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}
