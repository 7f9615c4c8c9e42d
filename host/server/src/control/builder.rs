//! Builds deployments: compiles the component, loads the graphs, starts a replica, and notes how that ended. A build
//! that a crash cut off is taken up again by the next start.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::Id;

pub use crate::control::builds::BuildError;
use crate::control::builds::{Begun, Build, Outcome, Pending};
use crate::control::recovery::{Admission, Recovery};
use crate::control::serving::{ServeError, Served, Serving};
use crate::domain::changes::Done;
use crate::domain::model::{ModelView, Target};
use crate::registry::{Registry, RegistryError};

/// How long a node waits before it tries something again that could not be stored.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// What carries changes out.
#[derive(Clone)]
pub struct Builder {
    /// Where deployments are stored.
    pub registry: Registry,
    /// Where they are served.
    pub serving: Arc<Serving>,
    applying: Arc<tokio::sync::Mutex<()>>,
    recovery: Arc<Recovery>,
    draining: Arc<Mutex<BTreeSet<Id>>>,
}

impl Builder {
    /// Carries changes of that registry out.
    pub fn new(registry: Registry, serving: Arc<Serving>) -> Self {
        Self {
            registry,
            serving,
            applying: Arc::default(),
            recovery: Arc::default(),
            draining: Arc::default(),
        }
    }

    /// Builds a deployment and serves it, then lets it into the environment that it was pushed for. The work goes on when
    /// this is dropped.
    ///
    /// # Errors
    /// What is wrong with the bundle; the deployment says it too.
    pub async fn build(&self, view: &ModelView, id: Id) -> Outcome {
        self.start_build(view, id).outcome().await
    }

    /// Builds the deployments of a model that are to be built, unless somebody does already.
    pub fn build_unfinished(&self, view: &ModelView) {
        let deployments = view.deployments.values();
        for deployment in deployments.filter(|one| one.status.is_unfinished()) {
            drop(self.start_build(view, deployment.id));
        }
    }

    fn start_build(&self, view: &ModelView, id: Id) -> Pending {
        let build = match self.serving.builds().begin(view, id) {
            Begun::Joined(pending) => return pending,
            Begun::New(build) => build,
        };
        let pending = build.pending();
        let (builder, view) = (self.clone(), view.clone());
        tokio::spawn(async move { builder.carry_out(view, id, build).await });
        pending
    }

    /// Builds a deployment to its end, so that it never stays unfinished: when the result cannot be stored, or the build was
    /// stopped by an older wish, the deployment is looked at again.
    async fn carry_out(self, view: ModelView, id: Id, build: Build) {
        let model = view.model.id;
        let built = AssertUnwindSafe(self.try_build(&view, id, &build));
        let built = match built.catch_unwind().await {
            Ok(built) => built,
            Err(_) => self.note_panic(model, id).await,
        };
        if let Err(error) = &built {
            tracing::warn!(deployment = %id, %error, "deployment was not built");
        }
        let pause = match &built {
            Err(BuildError::Stopped) => Some(Duration::ZERO),
            Err(BuildError::Registry(error)) if passes(error) => Some(RETRY_DELAY),
            _ => None,
        };
        build.end(built.map_err(Arc::new));
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
            self.look_again(model, id).await;
        }
    }

    async fn note_panic(&self, model: Id, id: Id) -> Result<ModelView, BuildError> {
        let reason = "the server failed while it built this deployment: see its log";
        let noted = self.registry.change(model.as_str(), |view| {
            view.built(id, DeploymentStatus::Failed, Some(reason.to_owned()))
        });
        self.apply(noted.await?.view).await?;
        Err(BuildError::Aborted)
    }

    /// Builds a deployment once more if the store says that it is unfinished.
    async fn look_again(&self, model: Id, id: Id) {
        loop {
            match self.registry.model(model.as_str()).await {
                Ok(view) => {
                    let stored = view.deployments.get(&id);
                    if stored.is_some_and(|one| one.status.is_unfinished()) {
                        drop(self.start_build(&view, id));
                    }
                    return;
                }
                Err(error) if passes(&error) => tokio::time::sleep(RETRY_DELAY).await,
                Err(_) => return,
            }
        }
    }

    async fn try_build(
        &self,
        view: &ModelView,
        id: Id,
        build: &Build,
    ) -> Result<ModelView, BuildError> {
        let deployment = view.deployment(id).map_err(RegistryError::from)?;
        let admission = self.recovery.admit(&self.registry, view.model.id, id);
        let _turn = match admission.await? {
            Admission::Begins(turn) => turn,
            Admission::Failed(view) => {
                self.apply(*view).await?;
                return Err(BuildError::EndedNode);
            }
        };
        let rehearsal = self
            .serving
            .rehearse_telling(view, deployment, |phase| build.reached(phase));
        let rehearsed = tokio::select! {
            biased;
            () = build.stopped() => return Err(BuildError::Stopped),
            rehearsed = rehearsal => rehearsed,
        };
        let (status, reason) = match &rehearsed {
            Ok(_) => (DeploymentStatus::Active, None),
            Err(error) => (failed_status(error), Some(error.to_string())),
        };
        build.decided();
        let model = view.model.id.to_string();
        let changed = self.registry.change(&model, |view| {
            if view.built(id, status, reason.clone())? == Done::Unchanged
                || status != DeploymentStatus::Active
            {
                return Ok(());
            }
            let deployment = view.deployment(id)?;
            let how = deployment.promote_how;
            let Some(environment) = deployment.promote_to.clone() else {
                return Ok(());
            };
            // Deleted, or taken by another promotion meanwhile: the deployment is there, and can be promoted by hand.
            let free =
                |target: &crate::domain::environment::Environment| target.in_progress().is_none();
            if view.environments.get(&environment).is_some_and(free) {
                view.begin_promotion(&environment, id, how, Timestamp::now())?;
            }
            Ok(())
        });
        let changed = changed.await?;
        self.apply(changed.view.clone()).await?;
        let rehearsed = rehearsed?;
        self.warm(&changed.view, id).await?;
        drop(rehearsed);
        Ok(changed.view)
    }

    /// Serves a model as it was changed to; what it serves no longer ends in the background.
    ///
    /// # Errors
    /// When a deployment's files are not in place.
    pub async fn apply(&self, view: ModelView) -> Result<(), ServeError> {
        let model = view.model.id;
        self.serving.builds().stop_unwanted(&view);
        // Together, so that whoever takes a deployment away is the one who notes its end.
        let turn = self.applying.lock().await;
        let retired = self.serving.set(view.clone()).await?;
        let off = view
            .deployments
            .values()
            .filter(|one| one.status == DeploymentStatus::Deactivating);
        let deactivating: Vec<Draining> = off
            .filter_map(|one| Draining::begin(&self.draining, one.id))
            .collect();
        drop(turn);
        if retired.is_empty() && deactivating.is_empty() {
            return Ok(());
        }
        let builder = self.clone();
        tokio::spawn(async move { builder.finish(model, retired, deactivating).await });
        Ok(())
    }

    /// Lets requests finish, then notes which deployments are off for good.
    async fn finish(&self, model: Id, retired: Vec<Arc<Served>>, deactivating: Vec<Draining>) {
        self.serving.retire(retired).await;
        for draining in deactivating {
            self.note_deactivated(model, draining.id).await;
        }
    }

    /// Notes that a deployment is off for good, however long the store takes.
    async fn note_deactivated(&self, model: Id, id: Id) {
        loop {
            let noted = self
                .registry
                .change(model.as_str(), |view| view.deactivated(id))
                .await;
            match noted {
                Ok(changed) => {
                    if let Err(error) = self.serving.set(changed.view).await {
                        tracing::error!(%error, "model cannot be served");
                    }
                    return;
                }
                Err(error) if passes(&error) => {
                    tracing::warn!(deployment = %id, %error, "deactivation was not stored; trying again");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Err(error) => {
                    tracing::warn!(deployment = %id, %error, "deactivation was not stored");
                    return;
                }
            }
        }
    }

    /// Serves what is stored, and takes up the builds that the end of the node cut off: after a crash one by one.
    pub async fn recover(&self, views: Vec<ModelView>, after_crash: bool) {
        if after_crash {
            let deployments = views.iter().flat_map(|view| view.deployments.values());
            let cut_off = deployments.filter(|one| one.status.is_unfinished());
            self.recovery.expect(cut_off.map(|one| one.id));
        }
        for view in views {
            if let Err(error) = self.apply(view.clone()).await {
                tracing::error!(model = view.model.name, %error, "cannot be served whole");
            }
            self.build_unfinished(&view);
        }
    }

    async fn warm(&self, view: &ModelView, id: Id) -> Result<(), ServeError> {
        let target = Target::Deployment(id.as_str());
        if let Ok(served) = self.serving.resolve(view.model.id, target, |_| None) {
            served.pool.prewarm(1).await.map_err(ServeError::Start)?;
        }
        Ok(())
    }
}

/// A deployment that is switched off, whose last requests still run here; in the hands of whoever notes its end.
struct Draining {
    id: Id,
    all: Arc<Mutex<BTreeSet<Id>>>,
}

impl Draining {
    /// Nothing if somebody has it in hand already.
    fn begin(all: &Arc<Mutex<BTreeSet<Id>>>, id: Id) -> Option<Self> {
        // A set of ids: a panic leaves it whole.
        let mut draining = all.lock().unwrap_or_else(PoisonError::into_inner);
        draining.insert(id).then(|| Self {
            id,
            all: all.clone(),
        })
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let mut draining = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        draining.remove(&self.id);
    }
}

/// Whether it may go well the next time.
fn passes(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Store(_) | RegistryError::Contended)
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
