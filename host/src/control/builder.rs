//! Builds deployments: compiles the component, loads the graphs, starts a replica, and notes how that ended. A build
//! that a crash cut off is taken up again by the next start.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::control::recovery::{Admission, Recovery};
use crate::control::serving::{ServeError, Served, Serving};
use crate::domain::changes::Done;
use crate::domain::deployment::DeploymentStatus;
use crate::domain::model::{ModelView, Target};
use crate::ids::Id;
use crate::registry::{Registry, RegistryError};

/// Why a deployment was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The deployment was switched off or deleted meanwhile.
    #[error("the build was stopped: the deployment was deactivated or deleted meanwhile")]
    Stopped,
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

    /// Builds a deployment and serves it, then lets it into the environment that it was pushed for.
    ///
    /// # Errors
    /// What is wrong with the bundle; the deployment says it too.
    pub async fn build(&self, view: &ModelView, id: Id) -> Result<ModelView, BuildError> {
        let deployment = view.deployment(id).map_err(RegistryError::from)?;
        let admission = self.recovery.admit(&self.registry, view.model.id, id);
        let _turn = match admission.await? {
            Admission::Begins(turn) => turn,
            Admission::Failed(view) => {
                self.apply(*view).await?;
                return Err(BuildError::EndedNode);
            }
        };
        let build = self.serving.builds().begin(view, id);
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
        drop((rehearsed, build));
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
            let id = draining.id;
            let noted = self
                .registry
                .change(model.as_str(), |view| view.deactivated(id))
                .await;
            match noted {
                Ok(changed) => {
                    if let Err(error) = self.serving.set(changed.view).await {
                        tracing::error!(%error, "a model cannot be served");
                    }
                }
                Err(error) => {
                    tracing::warn!(deployment = %id, %error, "is off, but that is not stored");
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
            let unfinished = view
                .deployments
                .values()
                .filter(|one| one.status.is_unfinished());
            for deployment in unfinished {
                let (builder, view, id) = (self.clone(), view.clone(), deployment.id);
                tokio::spawn(async move {
                    if let Err(error) = builder.build(&view, id).await {
                        tracing::warn!(deployment = %id, %error, "is not built");
                    }
                });
            }
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

/// Whether the component or its start is to blame.
fn failed_status(error: &ServeError) -> DeploymentStatus {
    match error {
        ServeError::Component(_) => DeploymentStatus::BuildFailed,
        ServeError::Graph { .. } | ServeError::Start(_) | ServeError::Secrets(_) => {
            DeploymentStatus::DeployFailed
        }
        ServeError::Blob(_) | ServeError::Files { .. } => DeploymentStatus::Failed,
    }
}
