//! The builds of this node: how far each has come, which are to stop, and how the last one of a deployment failed. There is
//! one of a deployment at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::{DeploymentId, ModelId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ServeError;
use crate::domain::model::ModelView;
use crate::domain::observed::BuildPhase;
use crate::registry::RegistryError;

/// Why a deployment was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The deployment was switched off or deleted meanwhile.
    #[error("the build was stopped: the deployment was deactivated or deleted meanwhile")]
    Stopped,
    /// A bug of ours.
    #[error("the build ended without a result")]
    Aborted,
    /// The node ended twice while it was built.
    #[error("the build failed: the node ended twice in the middle of it")]
    EndedNode,
    /// Its bundle cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// What came of it cannot be stored.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It failed elsewhere, or before this node started: what is stored of that.
    #[error("{reason}")]
    Stored {
        /// How it ended.
        status: DeploymentStatus,
        /// Why.
        reason: String,
    },
}

/// The builds of a node.
#[derive(Debug, Default)]
pub struct BuildTracker {
    state: Mutex<State>,
    /// Changes when a build begins or ends.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<DeploymentId, Running>,
    /// The last failure of deployments that are not built since.
    failures: HashMap<DeploymentId, Failure>,
    /// Reloads of development deployments, of which each has one at a time.
    reloads: HashMap<DeploymentId, Running>,
    ended: u64,
}

#[derive(Debug)]
struct Running {
    model: ModelId,
    phase: BuildPhase,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Failure {
    model: ModelId,
    /// How many builds had ended before.
    number: u64,
    error: Arc<BuildError>,
}

/// An instant in the order of builds: those that end later are told apart from those that had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl BuildTracker {
    /// Begins the build of a deployment, which lasts until it is dropped; nothing if one is running.
    pub fn begin(self: &Arc<Self>, model: ModelId, deployment: DeploymentId) -> Option<Build> {
        let mut state = self.lock();
        if state.running.contains_key(&deployment) {
            return None;
        }
        let running = Running::new(model);
        let stop = running.stop.clone();
        state.running.insert(deployment, running);
        drop(state);
        self.changed.send_replace(());
        Some(Build {
            tracker: self.clone(),
            deployment,
            stop,
        })
    }

    /// Notes that a deployment is reloaded until the result is dropped, so that its deletion stops that.
    pub fn begin_reload(self: &Arc<Self>, model: ModelId, deployment: DeploymentId) -> Reloading {
        let running = Running::new(model);
        let stop = running.stop.clone();
        self.lock().reloads.insert(deployment, running);
        Reloading {
            tracker: self.clone(),
            deployment,
            stop,
        }
    }

    /// How far the build of a deployment has come.
    pub fn phase(&self, deployment: DeploymentId) -> Option<BuildPhase> {
        self.lock().running.get(&deployment).map(|one| one.phase)
    }

    /// Changes whenever a build begins or ends.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Now.
    pub fn mark(&self) -> Mark {
        Mark(self.lock().ended)
    }

    /// How the last build of a deployment failed, if it did.
    pub fn failure(&self, deployment: DeploymentId) -> Option<Arc<BuildError>> {
        let state = self.lock();
        state.failures.get(&deployment).map(|one| one.error.clone())
    }

    /// The same of a build that ended after this instant.
    pub fn failure_after(&self, deployment: DeploymentId, mark: Mark) -> Option<Arc<BuildError>> {
        let state = self.lock();
        let failure = state.failures.get(&deployment);
        let failure = failure.filter(|one| one.number >= mark.0);
        failure.map(|one| one.error.clone())
    }

    /// Stops the builds of a model's deployments that are deleted or switched off as it is now, and the reloads of those
    /// that are deleted: a reload switches on what is off. Of a model that is gone, all are stopped.
    pub fn stop_unwanted(&self, model: ModelId, view: Option<&ModelView>) {
        let mut state = self.lock();
        let stored = |id: &DeploymentId| view.and_then(|view| view.deployments.get(id));
        for (deployment, reload) in &state.reloads {
            if reload.model == model && stored(deployment).is_none() {
                reload.stop.cancel();
            }
        }
        for (deployment, build) in &state.running {
            let is_wanted = stored(deployment)
                .is_some_and(|one| !one.status.is_off() && !one.status.has_failed());
            if build.model == model && !is_wanted {
                build.stop.cancel();
            }
        }
        state
            .failures
            .retain(|deployment, failure| failure.model != model || stored(deployment).is_some());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Maps of entries are whole at every instant.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn new(model: ModelId) -> Self {
        Self {
            model,
            phase: BuildPhase::Compiling,
            stop: CancellationToken::new(),
        }
    }
}

/// A reload in progress, until this is dropped.
#[derive(Debug)]
pub struct Reloading {
    tracker: Arc<BuildTracker>,
    deployment: DeploymentId,
    stop: CancellationToken,
}

impl Reloading {
    /// Waits until the deployment is deleted.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        self.tracker.lock().reloads.remove(&self.deployment);
    }
}

/// A build that is running until this is dropped.
#[derive(Debug)]
pub struct Build {
    tracker: Arc<BuildTracker>,
    deployment: DeploymentId,
    stop: CancellationToken,
}

impl Build {
    /// Notes how far it has come.
    pub fn reached(&self, phase: BuildPhase) {
        if let Some(running) = self.tracker.lock().running.get_mut(&self.deployment) {
            running.phase = phase;
        }
    }

    /// Waits until it is to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Ends it.
    pub fn end(self, result: Result<(), Arc<BuildError>>) {
        let mut state = self.tracker.lock();
        let number = state.ended;
        state.ended += 1;
        let model = state.running.get(&self.deployment).map(|one| one.model);
        match (result, model) {
            (Err(error), Some(model)) => {
                let failure = Failure {
                    model,
                    number,
                    error,
                };
                state.failures.insert(self.deployment, failure);
            }
            _ => drop(state.failures.remove(&self.deployment)),
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.tracker.lock().running.remove(&self.deployment);
        self.tracker.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use samovar_types::digest::Digest;

    use super::*;
    use crate::domain::deployment::Deployment;

    fn view(status: DeploymentStatus) -> (ModelView, DeploymentId) {
        let digest = Digest::of(b"component");
        let bundle =
            serde_json::json!({ "name": "m", "component": { "digest": digest, "size": 9 } });
        let deployment: Deployment = serde_json::from_value(serde_json::json!({
            "id": "deploy00", "model_id": "model000", "name": "deployment-1", "status": status,
            "created_at": "2026-01-01T00:00:00Z", "bundle": bundle, "bundle_digest": digest,
        }))
        .unwrap();
        let id = deployment.id;
        let view = ModelView {
            model: serde_json::from_value(serde_json::json!({
                "id": "model000", "name": "m", "created_at": "2026-01-01T00:00:00Z",
            }))
            .unwrap(),
            deployments: [(id, deployment.into())].into(),
            environments: Default::default(),
            notes: Vec::new(),
        };
        (view, id)
    }

    #[tokio::test]
    async fn a_deployment_has_one_build_at_a_time_and_its_last_failure_is_known() {
        let tracker = Arc::new(BuildTracker::default());
        let (view, id) = view(DeploymentStatus::Building);
        let model = view.model.id;
        let mut changed = tracker.subscribe();
        assert_eq!(tracker.phase(id), None);
        let build = tracker.begin(model, id).unwrap();
        assert!(tracker.begin(model, id).is_none());
        build.reached(BuildPhase::Loading);
        assert_eq!(tracker.phase(id), Some(BuildPhase::Loading));
        changed.changed().await.unwrap();
        let mark = tracker.mark();
        build.end(Err(Arc::new(BuildError::Aborted)));
        changed.changed().await.unwrap();
        assert_eq!(tracker.phase(id), None);
        assert!(tracker.failure(id).is_some());
        assert!(tracker.failure_after(id, mark).is_some());
        assert!(tracker.failure_after(id, tracker.mark()).is_none());

        tracker.begin(model, id).unwrap().end(Ok(()));
        assert!(tracker.failure(id).is_none());
        let failed = tracker.begin(model, id).unwrap();
        failed.end(Err(Arc::new(BuildError::Stopped)));
        tracker.stop_unwanted(model, Some(&view));
        assert!(tracker.failure(id).is_some());
        tracker.stop_unwanted(model, None);
        assert!(tracker.failure(id).is_none());
    }

    #[test]
    fn a_build_is_stopped_when_its_deployment_is_switched_off_or_gone() {
        use DeploymentStatus as S;
        let tracker = Arc::new(BuildTracker::default());
        let (building, id) = view(S::Building);
        let model = building.model.id;
        let build = tracker.begin(model, id).unwrap();
        for wanted in [S::Building, S::Active] {
            tracker.stop_unwanted(model, Some(&view(wanted).0));
        }
        tracker.stop_unwanted("model001".parse().unwrap(), None);
        assert!(!build.stop.is_cancelled());
        tracker.stop_unwanted(model, Some(&view(S::BuildStopped).0));
        assert!(build.stop.is_cancelled());
        drop(build);

        let (mut deleted, _) = view(S::Building);
        deleted.deployments.clear();
        for view in [Some(&deleted), None] {
            let build = tracker.begin(model, id).unwrap();
            tracker.stop_unwanted(model, view);
            assert!(build.stop.is_cancelled());
        }
    }

    #[test]
    fn a_reload_is_stopped_when_its_deployment_is_deleted_and_not_when_it_is_off() {
        let tracker = Arc::new(BuildTracker::default());
        let (off, id) = view(DeploymentStatus::Inactive);
        let model = off.model.id;
        let reload = tracker.begin_reload(model, id);
        tracker.stop_unwanted(model, Some(&off));
        assert!(!reload.stop.is_cancelled());
        let mut deleted = off;
        deleted.deployments.clear();
        tracker.stop_unwanted(model, Some(&deleted));
        assert!(reload.stop.is_cancelled());
        drop(reload);
        let reload = tracker.begin_reload(model, id);
        tracker.stop_unwanted(model, None);
        assert!(reload.stop.is_cancelled());
        drop(reload);
        assert!(tracker.lock().reloads.is_empty());
    }
}
