//! The deployments that this node serves, each with its pool: routed to from memory, never from the store.

pub mod blob_pins;
pub mod build_tracker;
pub mod drains;
mod engines;
mod error;
mod files;
pub mod graphs;
pub mod guest_secrets;
pub mod layout;
mod observed;
mod preflight;
pub mod reconciler;
mod route_table;
mod spec;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use samovar_runtime::{Pool, PoolCounts, Runtime};
use samovar_store::blobs::Blobs;
use samovar_types::digest::Digest;
use samovar_types::id::{DeploymentId, ModelId};
use samovar_types::origins::Origin;
use samovar_types::usage::Owner;
use tokio::sync::watch;

use crate::control::trial::{self, Trial};
use crate::domain::deployment::Deployment;
use crate::domain::model::{ModelView, Target, Unresolved};
use crate::telemetry::logs::Logs;
use crate::telemetry::meters::Meters;
use blob_pins::{BlobPin, BlobPins};
use build_tracker::BuildTracker;
use drains::Drains;
pub use error::ServeError;
use guest_secrets::GuestSecrets;
use layout::Layout;
pub use observed::Awake;
use preflight::Preflights;
pub use preflight::{PreflightTimings, Preflighted};
pub use route_table::{RouteTable, Routed, ServedModel};

/// Settings that hold for every deployment of the node.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Requests of one deployment that may wait for a replica.
    pub max_queued_requests: usize,
    /// Requests after which a replica is replaced.
    pub max_requests_per_replica: Option<u64>,
    /// How long running requests may take after their deployment has ended or their replica was stopped.
    pub drain_timeout: Duration,
    /// Where graphs run.
    pub engines: EngineMode,
}

/// Where graphs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineMode {
    /// In one process for each backend.
    Shared,
    /// In processes of each deployment's own.
    PerDeployment,
    /// In the node's own process.
    InProcess,
}

/// A deployment with its replicas. Every request holds it until the head of its response is there. Once no route leads to it
/// any more, it drains after the last request has dropped it.
pub struct Served {
    /// Its id.
    pub id: DeploymentId,
    /// Its replicas.
    pub pool: Arc<Pool>,
    /// What they run.
    bundle_digest: Digest,
    /// What they see at `/`.
    files: Option<Arc<Layout>>,
    /// Keeps the bundle's blobs until the last request has finished.
    pin: Arc<BlobPin>,
    /// Closed when the last holder drops the deployment.
    held: watch::Sender<()>,
}

/// What a deployment has room for.
pub struct Room {
    /// The deployment; nothing when it is known but could not be served.
    pub served: Option<Arc<Served>>,
    /// Replicas it may have.
    pub max_replica: usize,
    /// Replicas and waiting requests it has.
    pub counts: PoolCounts,
}

/// What serving needs of the node.
pub struct ServingParts {
    /// What runs components.
    pub runtime: Arc<Runtime>,
    /// Files of bundles.
    pub blobs: Blobs,
    /// Which of them are needed.
    pub pins: BlobPins,
    /// Logs of deployments.
    pub logs: Logs,
    /// What deployments use.
    pub meters: Arc<Meters>,
    /// Secrets as guests read them.
    pub secrets: Arc<GuestSecrets>,
    /// Deployments whose last requests still run.
    pub drains: Drains,
    /// Files of bundles are laid out under it.
    pub folder: PathBuf,
    /// Settings that hold for every deployment.
    pub limits: NodeLimits,
}

/// What the node serves. The reconciler alone changes which models that are.
pub struct Serving {
    parts: ServingParts,
    table: ArcSwap<RouteTable>,
    /// Whether an environment was seen that allows origins, so that servers without one look for none.
    allows_origins: AtomicBool,
    preflights: Preflights,
    builds: Arc<BuildTracker>,
}

impl Serving {
    /// Serves nothing yet.
    pub fn new(parts: ServingParts) -> Self {
        Self {
            parts,
            table: ArcSwap::default(),
            allows_origins: AtomicBool::new(false),
            preflights: Preflights::default(),
            builds: Arc::default(),
        }
    }

    /// How long running requests may take after their deployment has ended or their replica was stopped.
    pub fn drain_timeout(&self) -> Duration {
        self.parts.limits.drain_timeout
    }

    /// The builds of this node.
    pub fn builds(&self) -> &Arc<BuildTracker> {
        &self.builds
    }

    /// Deployments whose last requests still run.
    pub fn drains(&self) -> &Drains {
        &self.parts.drains
    }

    /// Where requests go now.
    pub fn table(&self) -> Guard<Arc<RouteTable>> {
        self.table.load()
    }

    /// Serves a model as it is now. Replicas of deployments that it had before stay; deployments that it has no longer
    /// finish their requests in the background. Answers how many deployments cannot be served; the others are.
    pub(super) async fn apply(&self, view: Arc<ModelView>) -> usize {
        let id = view.model.id;
        let before = self.table.load().get(id).cloned();
        let leaving = before.as_ref().map(|one| one.deployments.clone());
        let mut leaving = leaving.unwrap_or_default();
        let mut deployments = HashMap::new();
        let mut broken = HashMap::new();
        for deployment in view.deployments.values().filter(|one| one.status.serves()) {
            let known = before
                .as_ref()
                .and_then(|one| one.deployments.get(&deployment.id));
            let known = known.filter(|served| served.bundle_digest == deployment.bundle_digest);
            let served = match known {
                Some(served) => Ok(served.clone()),
                // New, or with another bundle than before: the requests that are there finish on the old one.
                None => self.serve(&view, deployment).await,
            };
            match served {
                Ok(served) => {
                    self.refresh(&view, deployment, &served);
                    if known.is_some() {
                        leaving.remove(&deployment.id);
                    }
                    deployments.insert(deployment.id, served);
                }
                Err(error) => {
                    let reason = error.to_string();
                    let before = before
                        .as_ref()
                        .and_then(|one| one.broken.get(&deployment.id));
                    // It is tried again and again; the same reason is no news.
                    if before != Some(&reason) {
                        tracing::error!(deployment = %deployment.id, reason, "deployment cannot be served");
                    }
                    broken.insert(deployment.id, reason);
                }
            }
        }
        let failed = broken.len();
        let mut environments = view.environments.values();
        if environments.any(|one| !one.allowed_origins.is_empty()) {
            self.allows_origins.store(true, Ordering::Relaxed);
        }
        let trials = before.as_ref().map(|one| one.trials.clone());
        let model = Arc::new(ServedModel {
            trials: trial::follow(trials.unwrap_or_default(), &view),
            view,
            deployments,
            broken,
        });
        self.table.rcu(|table| table.with(model.clone()));
        for served in leaving.into_values() {
            self.drain_one(id, served);
        }
        if let Some(before) = before {
            let stored =
                |deployment: &&DeploymentId| model.view.deployments.contains_key(deployment);
            let deleted = before.view.deployments.keys().filter(|one| !stored(one));
            deleted.for_each(|deployment| self.clear(*deployment));
        }
        failed
    }

    /// Serves a model no longer; running requests finish in the background.
    pub(super) fn remove(&self, id: ModelId) {
        let Some(model) = self.table.load().get(id).cloned() else {
            return;
        };
        self.table.rcu(|table| table.without(id));
        model.trials.values().for_each(|trial| trial.end());
        for served in model.deployments.values() {
            self.drain_one(id, served.clone());
        }
        for deployment in model.view.deployments.keys() {
            self.clear(*deployment);
        }
    }

    /// Brings settings and names to a deployment that may have been served before.
    fn refresh(&self, view: &ModelView, deployment: &Deployment, served: &Served) {
        let settings = self.pool_settings(deployment);
        if served.pool.settings() != settings {
            served.pool.set_settings(settings);
        }
        let owner = owner(view, deployment);
        self.parts.meters.watch(owner, served.pool.metrics());
    }

    /// Lets the requests finish that a deployment has which is served no longer, and drops its replicas. What is running
    /// after the drain time is stopped.
    fn drain_one(&self, model: ModelId, served: Arc<Served>) {
        let time = self.drain_timeout();
        let drain = self.parts.drains.begin(model, served.id);
        let (pool, files, pin) = (
            served.pool.clone(),
            served.files.clone(),
            served.pin.clone(),
        );
        let mut held = served.held.subscribe();
        drop(served);
        tokio::spawn(async move {
            let begun = Instant::now();
            let released = async { while held.changed().await.is_ok() {} };
            let _ = tokio::time::timeout(time, released).await;
            pool.drain(time.saturating_sub(begun.elapsed())).await;
            drop((files, pin));
            drop(drain);
        });
    }

    /// Takes away what a deleted deployment leaves on this node, once its last request has finished.
    fn clear(&self, deployment: DeploymentId) {
        let (drains, logs) = (self.parts.drains.clone(), self.parts.logs.clone());
        tokio::spawn(async move {
            drains.ended(&[deployment]).await;
            logs.delete(deployment.as_str());
        });
    }

    /// Forgets what was made of a file that no deployment has any more.
    pub async fn forget(&self, blob: Digest) {
        self.parts.runtime.forget(&blob.to_string()).await;
    }

    /// The deployment that answers the next request to a target: while an environment moves to another deployment, one
    /// or the other. `header` gives the values of the request's headers.
    ///
    /// # Errors
    /// When the target means none.
    pub fn resolve<'h>(
        &self,
        model: ModelId,
        target: Target<'_>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Arc<Served>, Unresolved> {
        let table = self.table.load();
        let model = table.get(model).ok_or_else(|| Unresolved::NoDeployment {
            model: model.to_string(),
            id: String::new(),
        })?;
        model.route(target, header).map(|routed| routed.served)
    }

    /// The web pages that may call a target from a browser.
    pub fn allowed_origins(&self, model: &str, target: Target<'_>) -> Vec<Origin> {
        let Target::Environment(name) = target else {
            return Vec::new();
        };
        let table = self.table.load();
        let environment = table
            .model(model)
            .and_then(|one| one.view.environments.get(name));
        environment
            .map(|one| one.allowed_origins.clone())
            .unwrap_or_default()
    }

    /// Whether an environment of any model may be called by web pages.
    pub fn allows_any_origin(&self) -> bool {
        self.allows_origins.load(Ordering::Relaxed)
    }

    /// What this node has counted of a promotion to an environment that is in progress.
    pub fn trial(&self, model: ModelId, environment: &str) -> Option<Arc<Trial>> {
        self.table
            .load()
            .get(model)?
            .trials
            .get(environment)
            .cloned()
    }

    /// The models of which an environment is moving.
    pub fn promoting(&self) -> Vec<Arc<ModelView>> {
        let moves = |view: &&Arc<ModelView>| {
            view.environments
                .values()
                .any(|one| one.in_progress().is_some())
        };
        let table = self.table.load();
        let views = table.models().map(|model| &model.view);
        views.filter(moves).cloned().collect()
    }

    /// What the deployment has room for that a request was accepted for.
    ///
    /// # Errors
    /// When it is gone or switched off.
    pub fn room(&self, model: ModelId, deployment: DeploymentId) -> Result<Room, Unresolved> {
        let gone = || Unresolved::NoDeployment {
            model: model.to_string(),
            id: deployment.to_string(),
        };
        let table = self.table.load();
        let model = table.get(model).ok_or_else(gone)?;
        let target = Target::Deployment(deployment.as_str());
        let found = model.view.resolve(target)?;
        let served = model.deployments.get(&found.id).cloned();
        let trouble = served.as_ref().and_then(|one| one.pool.unavailable());
        Ok(Room {
            max_replica: match trouble {
                None => found.autoscaling().max_replica as usize,
                // Those that are ready serve; after the pause one more is tried.
                Some(trouble) => {
                    let ready = served.as_ref().map_or(0, |one| one.pool.readiness().ready);
                    ready + usize::from(trouble.retry_after.is_zero())
                }
            },
            counts: served
                .as_ref()
                .map_or_else(PoolCounts::default, |one| one.pool.counts()),
            served,
        })
    }

    /// Models, deployments and replicas now.
    pub fn counts(&self) -> (usize, usize, usize) {
        let served = self.all();
        let replicas = served.iter().map(|served| {
            let counts = served.pool.counts();
            counts.idle + counts.busy
        });
        (
            self.table.load().models().count(),
            served.len(),
            replicas.sum(),
        )
    }

    /// Replaces idle replicas that read older values of their secrets.
    pub fn recycle(&self) {
        for served in self.all() {
            served.pool.recycle();
        }
    }

    /// Lets running requests finish for so long, and stops every replica.
    pub async fn drain(&self, time: Duration) {
        for model in self.table.load().models() {
            model.trials.values().for_each(|trial| trial.end());
        }
        let served = self.all();
        futures::future::join_all(served.iter().map(|served| served.pool.drain(time))).await;
    }

    fn all(&self) -> Vec<Arc<Served>> {
        let table = self.table.load();
        let served = table.models().flat_map(|model| model.deployments.values());
        served.cloned().collect()
    }
}

fn owner(view: &ModelView, deployment: &Deployment) -> Owner {
    Owner {
        model_id: view.model.id,
        model_name: view.model.name.clone(),
        deployment_id: deployment.id,
        deployment_name: deployment.name.clone(),
    }
}
