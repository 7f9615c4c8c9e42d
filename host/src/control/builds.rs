//! The builds that go on on this node: how far each has come, and which are to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::model::ModelView;
use crate::domain::observed::BuildPhase;
use crate::ids::Id;

/// The builds of a node.
#[derive(Debug, Default)]
pub struct Builds {
    going: Mutex<Going>,
}

#[derive(Debug, Default)]
struct Going {
    begun: u64,
    builds: HashMap<Id, Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    model: Id,
    /// Of the model when it began: what is older says nothing about it.
    generation: u64,
    phase: BuildPhase,
    stop: CancellationToken,
}

impl Builds {
    /// Notes that a deployment is built, until the answer is dropped.
    pub fn begin(self: &Arc<Self>, view: &ModelView, deployment: Id) -> Build {
        let stop = CancellationToken::new();
        let mut going = self.lock();
        going.begun += 1;
        let number = going.begun;
        let entry = Entry {
            number,
            model: view.model.id,
            generation: view.model.generation,
            phase: BuildPhase::Compiling,
            stop: stop.clone(),
        };
        going.builds.insert(deployment, entry);
        Build {
            builds: self.clone(),
            deployment,
            number,
            stop,
        }
    }

    /// How far the build of a deployment has come.
    pub fn phase(&self, deployment: Id) -> Option<BuildPhase> {
        self.lock().builds.get(&deployment).map(|entry| entry.phase)
    }

    /// Stops the builds of a model's deployments that are deleted or switched off as it is now.
    pub fn stop_unwanted(&self, view: &ModelView) {
        for (deployment, entry) in &self.lock().builds {
            if entry.model != view.model.id || entry.generation > view.model.generation {
                continue;
            }
            let stored = view.deployments.get(deployment);
            if stored.is_none_or(|one| one.status.is_off() || one.status.has_failed()) {
                entry.stop.cancel();
            }
        }
    }

    /// Stops the builds of a model that is deleted.
    pub fn stop_all(&self, model: Id) {
        for entry in self.lock().builds.values() {
            if entry.model == model {
                entry.stop.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Going> {
        // A map of entries is whole at every instant.
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build that goes on until this is dropped.
#[derive(Debug)]
pub struct Build {
    builds: Arc<Builds>,
    deployment: Id,
    number: u64,
    stop: CancellationToken,
}

impl Build {
    /// Notes how far it has come.
    pub fn reached(&self, phase: BuildPhase) {
        let mut going = self.builds.lock();
        let entry = going.builds.get_mut(&self.deployment);
        if let Some(entry) = entry.filter(|entry| entry.number == self.number) {
            entry.phase = phase;
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
    use super::*;
    use crate::domain::deployment::{Deployment, DeploymentStatus};
    use crate::domain::digest::Digest;

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

    #[test]
    fn a_build_is_known_until_it_ends() {
        let builds = Arc::new(Builds::default());
        let (building, id) = view(1, DeploymentStatus::Building);
        assert_eq!(builds.phase(id), None);
        let first = builds.begin(&building, id);
        first.reached(BuildPhase::Loading);
        assert_eq!(builds.phase(id), Some(BuildPhase::Loading));
        let second = builds.begin(&building, id);
        // The one before says nothing any more.
        first.reached(BuildPhase::Starting);
        drop(first);
        assert_eq!(builds.phase(id), Some(BuildPhase::Compiling));
        drop(second);
        assert_eq!(builds.phase(id), None);
    }

    #[test]
    fn a_build_is_stopped_by_what_came_after_its_begin() {
        use DeploymentStatus as S;
        let builds = Arc::new(Builds::default());
        let (building, id) = view(5, S::Building);
        let build = builds.begin(&building, id);
        for wanted in [S::Building, S::Active] {
            builds.stop_unwanted(&view(6, wanted).0);
        }
        // An older view, from before it was taken up again.
        builds.stop_unwanted(&view(4, S::BuildStopped).0);
        assert!(!build.stop.is_cancelled());
        builds.stop_unwanted(&view(6, S::BuildStopped).0);
        assert!(build.stop.is_cancelled());

        let build = builds.begin(&building, id);
        let (mut deleted, _) = view(6, S::Building);
        deleted.deployments.clear();
        builds.stop_unwanted(&deleted);
        assert!(build.stop.is_cancelled());

        let build = builds.begin(&building, id);
        builds.stop_all(building.model.id);
        assert!(build.stop.is_cancelled());
    }
}
