//! Builds what is BUILDING: preflight of the bundle, then one commit that says how it ended and lets the deployment into
//! the environment that it was pushed for. Notes when a deployment that is switched off has finished its last request.
//!
//! Handlers store what is wanted and wait; a build that a crash, or a store that is gone, cut off is begun again because
//! the deployment still says BUILDING.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::{DeploymentId, ModelId};
use tokio::sync::mpsc;

use crate::catalog::cache::Cache;
use crate::catalog::informer::{Changes, Observer};
use crate::controllers::build_admission::{Admission, BuildAdmission};
use crate::controllers::leadership::{Leadership, Role};
use crate::domain::changes::{Done, Refusal};
use crate::domain::model::{ModelView, Target};
use crate::registry::{Registry, RegistryError};
use crate::serving::build_tracker::{Build, BuildError, BuildTracker, Mark};
use crate::serving::reconciler::Reconciler;
use crate::serving::{ServeError, Serving};
use crate::work_queue::WorkQueue;

/// Models that are looked at at once.
const MAX_AT_ONCE: usize = 8;
/// When a node tries again what could not be stored.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// When a node looks again at a deployment whose cache says BUILDING although the store does not: soon it has read more.
const LAG_DELAY: Duration = Duration::from_secs(1);

/// Builds deployments and switches them off.
pub struct DeploymentController {
    registry: Registry,
    cache: Arc<Cache>,
    serving: Arc<Serving>,
    reconciler: Arc<Reconciler>,
    leadership: Arc<Leadership>,
    admission: BuildAdmission,
    models: WorkQueue<ModelId>,
}

/// What became of a build.
enum Built {
    /// Its result is stored.
    Stored,
    /// The store says that there is nothing to build.
    NotNeeded,
}

impl DeploymentController {
    /// Builds what this cache shows, as long as [`Self::run`] runs.
    pub fn new(
        registry: Registry,
        cache: Arc<Cache>,
        serving: Arc<Serving>,
        reconciler: Arc<Reconciler>,
        leadership: Arc<Leadership>,
    ) -> Self {
        Self {
            registry,
            cache,
            serving,
            reconciler,
            leadership,
            admission: BuildAdmission::default(),
            models: WorkQueue::default(),
        }
    }

    /// Before the first run after a crash: the node ended while it built what the cache shows as BUILDING now.
    pub fn expect_cut_off(&self) {
        for view in self.cache.models() {
            let deployments = view.deployments.values();
            let cut_off = deployments.filter(|one| one.status.is_unfinished());
            self.admission.expect(cut_off.map(|one| one.id));
        }
    }

    /// Runs for as long as the node does. `drained` tells of models of which a deployment has finished its last request.
    pub async fn run(self: Arc<Self>, mut drained: mpsc::UnboundedReceiver<ModelId>) {
        let reconcile = |model| {
            let controller = self.clone();
            async move { controller.reconcile(model).await }
        };
        let wake = async {
            while let Some(model) = drained.recv().await {
                self.models.wake(model, self.cache.observed());
            }
        };
        tokio::join!(
            self.models.run(MAX_AT_ONCE, reconcile),
            wake,
            self.wake_when_elected()
        );
    }

    /// Looks at every model once this node begins to act.
    async fn wake_when_elected(&self) {
        let mut lease = None;
        loop {
            self.leadership.begins(Role::Builds, &mut lease).await;
            let rev = self.cache.observed();
            for view in self.cache.models() {
                self.models.wake(view.model.id, rev);
            }
        }
    }

    /// Waits until a deployment is not being built, and answers its model as it is then, served by this node. `before` is
    /// from before it was asked for.
    ///
    /// # Errors
    /// Why it was not built.
    pub async fn built(
        &self,
        model: ModelId,
        id: DeploymentId,
        before: Mark,
    ) -> Result<Arc<ModelView>, Arc<BuildError>> {
        let builds = self.builds();
        let (mut read, mut tracked) = (self.cache.subscribe(), builds.subscribe());
        loop {
            read.borrow_and_update();
            tracked.borrow_and_update();
            if builds.phase(id).is_none()
                && let Some(outcome) = self.outcome(model, id, before)
            {
                let view = outcome?;
                let rev = self.cache.observed();
                let applied = self.reconciler.applied(model, rev).await;
                return applied
                    .map(|()| view)
                    .map_err(|_| Arc::new(BuildError::Aborted));
            }
            // Neither ends before the controller.
            tokio::select! {
                _ = read.changed() => {}
                _ = tracked.changed() => {}
            }
        }
    }

    /// How the build of a deployment ended, if it did.
    fn outcome(
        &self,
        model: ModelId,
        id: DeploymentId,
        before: Mark,
    ) -> Option<Result<Arc<ModelView>, Arc<BuildError>>> {
        let view = self.cache.model(model);
        let deployment = view.as_ref().and_then(|view| view.deployments.get(&id));
        let (Some(view), Some(deployment)) = (&view, deployment) else {
            return Some(Err(Arc::new(BuildError::Stopped)));
        };
        let status = deployment.status;
        if status.is_unfinished() {
            let failure = self.builds().failure_after(id, before);
            // It is tried again, which this caller does not wait for. Any other failure is of a build that came before.
            let store_failed = |error: &Arc<BuildError>| matches!(**error, BuildError::Registry(_));
            return failure.filter(store_failed).map(Err);
        }
        if status.is_off() || status == DeploymentStatus::BuildStopped {
            return Some(Err(Arc::new(BuildError::Stopped)));
        }
        if status.has_failed() {
            let stored = || {
                let reason = deployment.status_reason.clone().unwrap_or_default();
                Arc::new(BuildError::Stored { status, reason })
            };
            return Some(Err(self.builds().failure(id).unwrap_or_else(stored)));
        }
        Some(Ok(view.clone()))
    }

    fn builds(&self) -> &Arc<BuildTracker> {
        self.serving.builds()
    }

    async fn reconcile(self: Arc<Self>, model: ModelId) -> Option<Duration> {
        let view = self.cache.model(model);
        self.builds().stop_unwanted(model, view.as_deref());
        let view = view?;
        let due = due(&view);
        if due.is_empty() {
            return None;
        }
        let Some(lease) = self.leadership.lease(Role::Builds) else {
            // Another node acts, or this one soon does.
            return Some(RETRY_DELAY);
        };
        let registry = self.registry.fenced(lease);
        let mut again = None;
        for (id, status) in due {
            if status.is_unfinished() {
                self.start_build(&registry, model, id);
            } else if !self.note_deactivated(&registry, model, id).await {
                again = Some(RETRY_DELAY);
            }
        }
        again
    }

    /// Builds a deployment, unless this node does.
    fn start_build(self: &Arc<Self>, registry: &Registry, model: ModelId, id: DeploymentId) {
        let Some(build) = self.builds().begin(model, id) else {
            return;
        };
        let (controller, registry) = (self.clone(), registry.clone());
        tokio::spawn(async move {
            let pause = controller.carry_out(&registry, model, id, build).await;
            tokio::time::sleep(pause).await;
            // What became BUILDING again meanwhile is built again.
            let rev = controller.cache.observed();
            controller.models.wake(model, rev);
        });
    }

    /// Builds a deployment, and says after which time to look at it again.
    async fn carry_out(
        &self,
        registry: &Registry,
        model: ModelId,
        id: DeploymentId,
        build: Build,
    ) -> Duration {
        let built = AssertUnwindSafe(self.build(registry, model, id, &build));
        let built = match built.catch_unwind().await {
            Ok(built) => built,
            Err(_) => self.note_panic(registry, model, id).await,
        };
        let pause = match &built {
            Ok(Built::Stored) | Err(BuildError::Stopped) => Duration::ZERO,
            Ok(Built::NotNeeded) => LAG_DELAY,
            Err(BuildError::Registry(_)) => RETRY_DELAY,
            Err(_) => Duration::ZERO,
        };
        if let Err(error) = &built {
            tracing::warn!(deployment = %id, %error, "deployment build failed");
        }
        build.end(built.map(drop).map_err(Arc::new));
        pause
    }

    async fn build(
        &self,
        registry: &Registry,
        model: ModelId,
        id: DeploymentId,
        build: &Build,
    ) -> Result<Built, BuildError> {
        // The cache may be behind: what the store says decides.
        let view = registry.model(model.as_str()).await?;
        let deployment = view.deployment(id).map_err(RegistryError::from)?;
        if !deployment.status.is_unfinished() {
            return Ok(Built::NotNeeded);
        }
        let admission = self.admission.admit(registry, model, id);
        let _turn = match admission.await? {
            Admission::Begins(turn) => turn,
            Admission::Failed(rev) => {
                // However far this node has read, the build has failed.
                let _ = self.reconciler.applied(model, rev).await;
                return Err(BuildError::EndedNode);
            }
        };
        let preflight = self
            .serving
            .preflight(&view, deployment, |phase| build.reached(phase));
        let preflighted = tokio::select! {
            biased;
            () = build.stopped() => return Err(BuildError::Stopped),
            preflighted = preflight => preflighted,
        };
        let (status, reason) = match &preflighted {
            Ok(_) => (DeploymentStatus::Active, None),
            Err(error) => (failed_status(error), Some(error.to_string())),
        };
        let now = Timestamp::now();
        let changed = registry
            .change(model.as_str(), |view| {
                end_build(view, id, status, reason.clone(), now)
            })
            .await?;
        // Until it is served, which takes the replica over.
        if let Err(error) = self.reconciler.applied(model, changed.rev).await {
            tracing::warn!(deployment = %id, %error, "deployment is built");
        }
        let preflighted = preflighted?;
        self.warm(model, id).await?;
        drop(preflighted);
        Ok(Built::Stored)
    }

    async fn warm(&self, model: ModelId, id: DeploymentId) -> Result<(), ServeError> {
        let target = Target::Deployment(id.as_str());
        if let Ok(served) = self.serving.resolve(model, target, |_| None) {
            served.pool.prewarm(1).await.map_err(ServeError::Start)?;
        }
        Ok(())
    }

    async fn note_panic(
        &self,
        registry: &Registry,
        model: ModelId,
        id: DeploymentId,
    ) -> Result<Built, BuildError> {
        let reason = "the server failed while it built this deployment: see its log";
        let noted = registry.change(model.as_str(), |view| {
            view.built(id, DeploymentStatus::Failed, Some(reason.to_owned()))
        });
        let rev = noted.await?.rev;
        // However far this node has read, the build has failed.
        let _ = self.reconciler.applied(model, rev).await;
        Err(BuildError::Aborted)
    }

    /// Notes that a deployment is off for good, once its last request here has finished. Answers whether that worked, or
    /// has to wait for a drain that wakes the controller when it ends.
    async fn note_deactivated(
        &self,
        registry: &Registry,
        model: ModelId,
        id: DeploymentId,
    ) -> bool {
        let rev = self.cache.observed();
        if self.reconciler.applied(model, rev).await.is_err() {
            return false;
        }
        if self.serving.drains().is_draining(id) {
            return true;
        }
        let noted = registry.change(model.as_str(), |view| view.deactivated(id));
        match noted.await {
            Ok(_) | Err(RegistryError::NoModel { .. } | RegistryError::Refused(_)) => true,
            Err(error) => {
                tracing::warn!(deployment = %id, %error, "deactivation was not stored; trying again");
                false
            }
        }
    }
}

impl Observer for DeploymentController {
    fn observe(&self, changes: &Changes) {
        for model in &changes.models {
            self.models.add(*model, changes.after, changes.rev);
        }
    }
}

/// The deployments that are to be built, or switched off for good.
fn due(view: &ModelView) -> Vec<(DeploymentId, DeploymentStatus)> {
    let deployments = view.deployments.values();
    let statuses = deployments.map(|one| (one.id, one.status));
    let is_due = |status: DeploymentStatus| {
        status.is_unfinished() || status == DeploymentStatus::Deactivating
    };
    statuses.filter(|(_, status)| is_due(*status)).collect()
}

/// Notes how the build of a deployment ended. One that works begins to move into the environment that it was pushed for.
fn end_build(
    view: &mut ModelView,
    id: DeploymentId,
    status: DeploymentStatus,
    reason: Option<String>,
    now: Timestamp,
) -> Result<(), Refusal> {
    if view.built(id, status, reason)? == Done::Unchanged || status != DeploymentStatus::Active {
        return Ok(());
    }
    let deployment = view.deployment(id)?;
    let how = deployment.promote_how;
    let Some(environment) = deployment.promote_to.clone() else {
        return Ok(());
    };
    // Deleted, or taken by another promotion meanwhile: the deployment is there, and can be promoted by hand.
    let target = view.environments.get(&environment);
    if target.is_some_and(|one| one.in_progress().is_none()) {
        view.begin_promotion(&environment, id, how, now)?;
    }
    Ok(())
}

/// Whether the component or its start is to blame.
fn failed_status(error: &ServeError) -> DeploymentStatus {
    match error {
        ServeError::Component(error) if error.blames_component() => DeploymentStatus::BuildFailed,
        ServeError::Component(_) => DeploymentStatus::Failed,
        ServeError::Graph { .. }
        | ServeError::NoIsolation
        | ServeError::Start(_)
        | ServeError::Secrets(_) => DeploymentStatus::DeployFailed,
        ServeError::Blob(_) | ServeError::Files { .. } => DeploymentStatus::Failed,
    }
}
