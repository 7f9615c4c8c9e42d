//! The builds that go on on this node: how far each has come, which are to stop, and who waits for which. There is one of
//! a deployment at a time, whoever asked for it: the handler of a request, or whoever follows the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use samovar_types::id::Id;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control::serving::ServeError;
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
}

/// How a build ended: with the model as it is then, or why not.
pub type Outcome = Result<ModelView, Arc<BuildError>>;

/// The builds of a node.
#[derive(Debug, Default)]
pub struct Builds {
    going: Mutex<Going>,
}

#[derive(Debug, Default)]
struct Going {
    begun: u64,
    builds: HashMap<Id, Entry>,
    /// Reloads of development deployments, of which each has one at a time.
    reloads: HashMap<Id, ReloadEntry>,
}

#[derive(Debug)]
struct ReloadEntry {
    model: Id,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    model: Id,
    /// Of the model when it was asked for last: what is older says nothing about it.
    generation: u64,
    phase: BuildPhase,
    stop: CancellationToken,
    /// Its result is being stored: who asks now may mean another build.
    decided: bool,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// A build that was asked for.
#[derive(Debug)]
pub enum Begun {
    /// It is for the asker to carry out.
    New(Build),
    /// It goes on already.
    Joined(Pending),
}

/// A build that somebody carries out.
#[derive(Debug)]
pub struct Pending(watch::Receiver<Option<Outcome>>);

impl Pending {
    /// Waits for its end.
    pub async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome
                .clone()
                .unwrap_or_else(|| Err(Arc::new(BuildError::Aborted))),
            Err(_) => Err(Arc::new(BuildError::Aborted)),
        }
    }
}

impl Builds {
    /// Joins the build of a deployment that goes on, or begins one, which goes on until it is dropped.
    pub fn begin(self: &Arc<Self>, view: &ModelView, deployment: Id) -> Begun {
        let mut going = self.lock();
        if let Some(entry) = going.builds.get_mut(&deployment)
            && !entry.decided
            && !entry.stop.is_cancelled()
        {
            entry.generation = entry.generation.max(view.model.generation);
            return Begun::Joined(Pending(entry.outcome.clone()));
        }
        let stop = CancellationToken::new();
        let (ended, outcome) = watch::channel(None);
        going.begun += 1;
        let number = going.begun;
        let entry = Entry {
            number,
            model: view.model.id,
            generation: view.model.generation,
            phase: BuildPhase::Compiling,
            stop: stop.clone(),
            decided: false,
            outcome,
        };
        going.builds.insert(deployment, entry);
        Begun::New(Build {
            builds: self.clone(),
            deployment,
            number,
            stop,
            ended,
        })
    }

    /// Notes that a deployment is reloaded until the result is dropped, so that its deletion stops that.
    pub fn begin_reload(self: &Arc<Self>, model: Id, deployment: Id) -> Reloading {
        let stop = CancellationToken::new();
        let entry = ReloadEntry {
            model,
            stop: stop.clone(),
        };
        self.lock().reloads.insert(deployment, entry);
        Reloading {
            builds: self.clone(),
            deployment,
            stop,
        }
    }

    /// How far the build of a deployment has come.
    pub fn phase(&self, deployment: Id) -> Option<BuildPhase> {
        self.lock().builds.get(&deployment).map(|entry| entry.phase)
    }

    /// Stops the builds of a model's deployments that are deleted or switched off as it is now, and the reloads of those that
    /// are deleted: a reload switches on what is off.
    pub fn stop_unwanted(&self, view: &ModelView) {
        let going = self.lock();
        for (deployment, entry) in &going.reloads {
            if entry.model == view.model.id && !view.deployments.contains_key(deployment) {
                entry.stop.cancel();
            }
        }
        for (deployment, entry) in &going.builds {
            if entry.model != view.model.id || entry.generation > view.model.generation {
                continue;
            }
            let stored = view.deployments.get(deployment);
            if stored.is_none_or(|one| one.status.is_off() || one.status.has_failed()) {
                entry.stop.cancel();
            }
        }
    }

    /// Stops the builds and reloads of a model that is deleted.
    pub fn stop_all(&self, model: Id) {
        let going = self.lock();
        let builds = going.builds.values().map(|one| (one.model, &one.stop));
        let reloads = going.reloads.values().map(|one| (one.model, &one.stop));
        for (of, stop) in builds.chain(reloads) {
            if of == model {
                stop.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Going> {
        // A map of entries is whole at every instant.
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reload that goes on until this is dropped.
#[derive(Debug)]
pub struct Reloading {
    builds: Arc<Builds>,
    deployment: Id,
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
        self.builds.lock().reloads.remove(&self.deployment);
    }
}

/// A build that goes on until this is dropped.
#[derive(Debug)]
pub struct Build {
    builds: Arc<Builds>,
    deployment: Id,
    number: u64,
    stop: CancellationToken,
    ended: watch::Sender<Option<Outcome>>,
}

impl Build {
    /// Notes how far it has come.
    pub fn reached(&self, phase: BuildPhase) {
        self.update(|entry| entry.phase = phase);
    }

    /// Its result is about to be stored. Whoever asks for a build from now on gets another.
    pub fn decided(&self) {
        self.update(|entry| entry.decided = true);
    }

    /// For somebody to wait for its end.
    pub fn pending(&self) -> Pending {
        Pending(self.ended.subscribe())
    }

    /// Ends it, and tells whoever waits.
    pub fn end(self, outcome: Outcome) {
        self.ended.send_replace(Some(outcome));
    }

    fn update(&self, change: impl FnOnce(&mut Entry)) {
        let mut going = self.builds.lock();
        let entry = going.builds.get_mut(&self.deployment);
        if let Some(entry) = entry.filter(|entry| entry.number == self.number) {
            change(entry);
        }
    }

    /// Waits until it is to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let mut going = self.builds.lock();
        // Another may have begun meanwhile.
        let mine = going.builds.get(&self.deployment);
        if mine.is_some_and(|entry| entry.number == self.number) {
            going.builds.remove(&self.deployment);
        }
    }
}

#[cfg(test)]
mod tests {
    use samovar_types::deployment::DeploymentStatus;
    use samovar_types::digest::Digest;

    use super::*;
    use crate::domain::deployment::Deployment;

    fn view(generation: u64, status: DeploymentStatus) -> (ModelView, Id) {
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
                "id": "model000", "name": "m", "created_at": "2026-01-01T00:00:00Z", "generation": generation,
            }))
            .unwrap(),
            deployments: [(id, deployment)].into(),
            environments: Default::default(),
            notes: Vec::new(),
        };
        (view, id)
    }

    fn begin(builds: &Arc<Builds>, view: &ModelView, deployment: Id) -> Build {
        match builds.begin(view, deployment) {
            Begun::New(build) => build,
            Begun::Joined(_) => panic!("another build goes on"),
        }
    }

    #[tokio::test]
    async fn a_build_goes_on_once_and_tells_all_who_wait() {
        let builds = Arc::new(Builds::default());
        let (building, id) = view(1, DeploymentStatus::Building);
        assert_eq!(builds.phase(id), None);
        let build = begin(&builds, &building, id);
        build.reached(BuildPhase::Loading);
        assert_eq!(builds.phase(id), Some(BuildPhase::Loading));
        let Begun::Joined(joined) = builds.begin(&building, id) else {
            panic!("it goes on already")
        };
        let first = build.pending();
        build.end(Ok(building.clone()));
        assert_eq!(builds.phase(id), None);
        assert_eq!(first.outcome().await.unwrap(), building);
        assert_eq!(joined.outcome().await.unwrap(), building);

        let dropped = begin(&builds, &building, id);
        let pending = dropped.pending();
        drop(dropped);
        let error = pending.outcome().await.unwrap_err();
        assert!(matches!(*error, BuildError::Aborted));
    }

    #[test]
    fn a_build_that_is_decided_is_not_joined() {
        let builds = Arc::new(Builds::default());
        let (building, id) = view(1, DeploymentStatus::Building);
        let first = begin(&builds, &building, id);
        first.decided();
        let second = begin(&builds, &building, id);
        // The one before says nothing any more.
        first.reached(BuildPhase::Starting);
        drop(first);
        assert_eq!(builds.phase(id), Some(BuildPhase::Compiling));
        drop(second);
        assert_eq!(builds.phase(id), None);
    }

    #[test]
    fn a_build_is_stopped_by_what_came_after_it_was_asked_for() {
        use DeploymentStatus as S;
        let builds = Arc::new(Builds::default());
        let (building, id) = view(5, S::Building);
        let build = begin(&builds, &building, id);
        for wanted in [S::Building, S::Active] {
            builds.stop_unwanted(&view(6, wanted).0);
        }
        // An older view, from before it was taken up again.
        builds.stop_unwanted(&view(4, S::BuildStopped).0);
        assert!(!build.stop.is_cancelled());
        // Asked for once more, after it was stopped: what says so comes late.
        assert!(matches!(
            builds.begin(&view(7, S::Building).0, id),
            Begun::Joined(_)
        ));
        builds.stop_unwanted(&view(6, S::BuildStopped).0);
        assert!(!build.stop.is_cancelled());
        builds.stop_unwanted(&view(8, S::BuildStopped).0);
        assert!(build.stop.is_cancelled());

        // One that stops is not joined.
        let build = begin(&builds, &building, id);
        let (mut deleted, _) = view(6, S::Building);
        deleted.deployments.clear();
        builds.stop_unwanted(&deleted);
        assert!(build.stop.is_cancelled());

        let build = begin(&builds, &building, id);
        builds.stop_all(building.model.id);
        assert!(build.stop.is_cancelled());
    }

    #[test]
    fn a_reload_is_stopped_when_its_deployment_is_deleted_and_not_when_it_is_off() {
        let builds = Arc::new(Builds::default());
        let (off, id) = view(1, DeploymentStatus::Inactive);
        let model = off.model.id;
        let reload = builds.begin_reload(model, id);
        builds.stop_unwanted(&off);
        assert!(!reload.stop.is_cancelled());
        let mut deleted = off;
        deleted.deployments.clear();
        builds.stop_unwanted(&deleted);
        assert!(reload.stop.is_cancelled());
        drop(reload);
        let reload = builds.begin_reload(model, id);
        builds.stop_all(model);
        assert!(reload.stop.is_cancelled());
        drop(reload);
        assert!(builds.lock().reloads.is_empty());
    }
}
