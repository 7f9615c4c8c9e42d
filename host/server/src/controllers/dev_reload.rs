//! Reloads of development deployments: preflight of the new code while the old one serves, then one commit that puts it in
//! its place. One at a time for each deployment, in the order in which they came.
//!
//! A reload in progress is known in memory alone, so a node that is killed comes back with the old bundle or the new one,
//! and a client that hangs up before the commit leaves everything as it was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::{DeploymentId, ModelId};

use crate::controllers::blob_gc::{BlobGc, BlobGcError};
use crate::domain::audit::Author;
use crate::domain::changes::{Done, Reload};
use crate::domain::model::{ModelView, Target, Unresolved};
use crate::registry::{Registry, RegistryError};
use crate::serving::reconciler::{NotApplied, Reconciler};
use crate::serving::{PreflightTimings, ServeError, Serving};

/// Reloads of one deployment that may wait for their turn.
pub const MAX_WAITING: usize = 16;

/// Why a development deployment keeps what it had.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is none.
    #[error("{0}: push one with `development`")]
    NoDevelopment(Unresolved),
    /// Blobs are missing, or cannot be looked at.
    #[error(transparent)]
    Blobs(#[from] BlobGcError),
    /// The new code does not work.
    #[error("{source}; {}", match before {
        Before::Serves => "the code that was there goes on serving",
        Before::Silent => "the deployment stays as it was",
    })]
    Refused {
        /// What is wrong with it.
        source: ServeError,
        /// What it would have taken the place of.
        before: Before,
    },
    /// The change is refused, or cannot be stored.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is stored, and not served yet.
    #[error(transparent)]
    NotApplied(#[from] NotApplied),
    /// The deployment was deleted meanwhile.
    #[error("the reload was stopped: the deployment was deleted meanwhile")]
    Deleted,
    /// Others came first.
    #[error("{MAX_WAITING} reloads of this deployment wait already: try again when they are done")]
    TooMany,
}

/// Whether there is code that keeps serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// There is.
    Serves,
    /// It never worked, or is switched off.
    Silent,
}

/// How a reload went.
#[derive(Debug)]
pub struct Reloaded {
    /// The model as it is now.
    pub view: ModelView,
    /// The development deployment.
    pub id: DeploymentId,
    /// Whether other code serves now.
    pub done: Done,
    /// Where the time of its preflight went.
    pub preflight: PreflightTimings,
    /// Storing it and letting requests in.
    pub switch: Duration,
}

/// Carries reloads out.
#[derive(Clone)]
pub struct DevReload {
    registry: Registry,
    serving: Arc<Serving>,
    reconciler: Arc<Reconciler>,
    blob_gc: BlobGc,
    queue: KeyedQueue,
}

impl DevReload {
    /// Reloads what this registry holds.
    pub fn new(
        registry: Registry,
        serving: Arc<Serving>,
        reconciler: Arc<Reconciler>,
        blob_gc: BlobGc,
    ) -> Self {
        Self {
            registry,
            serving,
            reconciler,
            blob_gc,
            queue: KeyedQueue::default(),
        }
    }

    /// The same, for reloads that this author asks for.
    #[must_use]
    pub fn by(&self, author: Author) -> Self {
        Self {
            registry: self.registry.by(author),
            ..self.clone()
        }
    }

    /// Whether a deployment is being reloaded now.
    pub fn is_reloading(&self, deployment: DeploymentId) -> bool {
        self.queue.lock().contains_key(&deployment)
    }

    /// Swaps the bundle of a model's development deployment. It answers when the new code serves, or when that failed and
    /// nothing was changed.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn reload(&self, model: &str, reload: Reload) -> Result<Reloaded, ReloadError> {
        // First, so that who has none to reload may make one of the blobs that are there.
        let view = self.registry.model(model).await?;
        let found = view.find(Target::Development);
        let id = found.map_err(ReloadError::NoDevelopment)?.id;
        let pin = self.blob_gc.pin(&reload.bundle).await?;
        let pin = pin.collect_on_release();
        let ended = self.swap(view.model.id, id, &reload).await;
        drop(pin);
        if ended.is_err()
            && let Err(error) = self.blob_gc.collect([&reload.bundle]).await
        {
            tracing::warn!(%error, "blobs of a failed reload stay until a later start");
        }
        ended
    }

    async fn swap(
        &self,
        model: ModelId,
        id: DeploymentId,
        reload: &Reload,
    ) -> Result<Reloaded, ReloadError> {
        let place = self.queue.enter(id).ok_or(ReloadError::TooMany)?;
        let _turn = place.turn.lock().await;

        // As those before have left it.
        let view = self.registry.model(model.as_str()).await?;
        let before = view.deployment(id).map_err(RegistryError::from)?;
        let begun = before.status;
        let next = view.reloaded(id, reload).map_err(RegistryError::from)?;
        if next.bundle_digest == before.bundle_digest && begun.serves() {
            return self.relabel(model, id, begun, reload).await;
        }
        let reloading = self.serving.builds().begin_reload(model, id);
        let preflighted = tokio::select! {
            biased;
            () = reloading.stopped() => return Err(ReloadError::Deleted),
            preflighted = self.serving.preflight(&view, &next, |_| {}) => preflighted,
        };
        drop(reloading);
        // Held until it is served, which takes its replica over.
        let preflighted = preflighted.map_err(|source| ReloadError::Refused {
            source,
            before: match begun.serves() {
                true => Before::Serves,
                false => Before::Silent,
            },
        })?;
        let switching = Instant::now();
        let (view, done) = self.store(model, id, begun, reload).await?;
        Ok(Reloaded {
            view,
            id,
            done,
            preflight: preflighted.timings,
            switch: switching.elapsed(),
        })
    }

    /// The same code under other labels.
    async fn relabel(
        &self,
        model: ModelId,
        id: DeploymentId,
        begun: DeploymentStatus,
        reload: &Reload,
    ) -> Result<Reloaded, ReloadError> {
        let (view, _) = self.store(model, id, begun, reload).await?;
        Ok(Reloaded {
            view,
            id,
            done: Done::Unchanged,
            preflight: PreflightTimings::default(),
            switch: Duration::ZERO,
        })
    }

    /// Stores the new bundle, and waits until this node serves it.
    async fn store(
        &self,
        model: ModelId,
        id: DeploymentId,
        begun: DeploymentStatus,
        reload: &Reload,
    ) -> Result<(ModelView, Done), ReloadError> {
        let changed = self
            .registry
            .change(model.as_str(), |view| view.reload(id, begun, reload))
            .await?;
        self.reconciler.applied(model, changed.rev).await?;
        Ok((changed.view, changed.value))
    }
}

/// Reloads that run or wait, by their deployments.
#[derive(Clone, Default)]
struct KeyedQueue(Arc<Mutex<HashMap<DeploymentId, Queue>>>);

/// The reloads of one deployment, one after the other.
#[derive(Default)]
struct Queue {
    turn: Arc<tokio::sync::Mutex<()>>,
    length: usize,
}

/// A place in the queue of a deployment.
struct Place {
    queues: KeyedQueue,
    deployment: DeploymentId,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl KeyedQueue {
    /// A place in a deployment's queue, if it is not too long.
    fn enter(&self, deployment: DeploymentId) -> Option<Place> {
        let mut queues = self.lock();
        let queue = queues.entry(deployment).or_default();
        // One has its turn, the others wait.
        if queue.length > MAX_WAITING {
            return None;
        }
        queue.length += 1;
        Some(Place {
            queues: self.clone(),
            deployment,
            turn: queue.turn.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentId, Queue>> {
        // A count at a time, which no panic cuts in two.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(&self.deployment) {
            queue.length -= 1;
            if queue.length == 0 {
                queues.remove(&self.deployment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random_id;

    #[test]
    fn a_queue_is_there_while_a_reload_is_in_it_and_is_bounded() {
        let queues = KeyedQueue::default();
        let id = random_id();
        let known = || queues.lock().contains_key(&id);
        let places: Vec<_> = std::iter::from_fn(|| queues.enter(id)).collect();
        assert_eq!(places.len(), MAX_WAITING + 1);
        assert!(queues.enter(random_id()).is_some(), "another has its own");
        assert!(Arc::ptr_eq(&places[0].turn, &places[1].turn));
        let mut places = places.into_iter();
        places.next();
        assert!(queues.enter(id).is_some());
        drop(places);
        assert!(!known());
    }
}
