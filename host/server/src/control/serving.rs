//! The deployments that this node serves, each with its pool: routed to from memory, never from the store.

mod engines;
mod files;
pub mod graphs;
pub mod layout;
mod observed;
mod rehearsal;
mod route;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use samovar_runtime::{
    Capabilities, ComponentFile, Counts, DeploymentSpec, Limits, Pool, PoolSettings, RunError,
    Runtime,
};
use samovar_store::blobs::{BlobError, Blobs};
use samovar_types::bundle::{Bundle, Isolation};
use samovar_types::digest::Digest;
use samovar_types::id::Id;
use samovar_types::origins::Origin;
use samovar_types::settings::BackpressurePolicy;
use samovar_types::usage::Owner;
use tokio::sync::watch;

use crate::control::builds::Builds;
use crate::control::gone::Gone;
use crate::control::secrets::{GuestSecrets, SecretsError};
use crate::control::trial::{self, Trial};
use crate::domain::deployment::Deployment;
use crate::domain::model::{ModelView, Target, Unresolved};
use crate::telemetry::logs::Logs;
use crate::telemetry::meters::Meters;
use files::BundleFiles;
use layout::Layout;
pub use observed::Awake;
use rehearsal::Rehearsals;
pub use rehearsal::{RehearsalTimings, Rehearsed};
pub use route::Routed;
use route::ServedModel;

/// Why a bundle cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A blob of it is gone.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Its component is refused.
    #[error(transparent)]
    Component(#[from] Arc<samovar_runtime::ArtifactError>),
    /// One of its graphs does not load.
    #[error("graph `{name}`: {source}")]
    Graph {
        /// Its name in the manifest.
        name: String,
        /// What the backends say.
        source: samovar_runtime::graphs::GraphError,
    },
    /// Its secrets cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// It wants engines for itself, and the node runs graphs in its own process.
    #[error(
        "`isolation = \"deployment\"` asks for a process of its own for the model's graphs, and this server runs all graphs in \
         its own process: start it with `--engines shared` in place of `--engines in-process`, or take `isolation` out of \
         samovar.toml"
    )]
    NoIsolation,
    /// Its first replica does not start.
    #[error(transparent)]
    Start(RunError),
    /// Its files cannot be laid out.
    #[error("cannot lay out the bundle's files in {path}: {source}")]
    Files {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Settings that hold for every deployment of the node.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Requests of one deployment that may wait for a replica.
    pub max_queued_requests: usize,
    /// Requests after which a replica is replaced.
    pub max_requests_per_replica: Option<u64>,
    /// How long requests may go on whose deployment has ended, or whose replica was told to stop.
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

/// A deployment with its replicas. Every request holds it until the head of its answer is there; once it is routed to no
/// longer, the last to let go of it lets it end.
pub struct Served {
    /// Its id.
    pub id: Id,
    /// Its replicas.
    pub pool: Arc<Pool>,
    /// What they run.
    bundle_digest: Digest,
    /// What they see at `/`.
    files: Option<Arc<Layout>>,
    /// Gone when nobody holds it any more.
    held: watch::Sender<()>,
}

/// What a deployment has room for.
pub struct Room {
    /// The deployment; nothing when it is known but could not be served.
    pub served: Option<Arc<Served>>,
    /// Replicas it may have.
    pub max_replica: usize,
    /// Replicas and waiting requests it has.
    pub counts: Counts,
}

#[derive(Default)]
struct Routes {
    models: HashMap<Id, ServedModel>,
    names: HashMap<String, Id>,
}

/// What the node serves.
pub struct Serving {
    runtime: Arc<Runtime>,
    blobs: Blobs,
    logs: Logs,
    meters: Arc<Meters>,
    secrets: Arc<GuestSecrets>,
    folder: PathBuf,
    limits: NodeLimits,
    routes: RwLock<Routes>,
    /// Whether an environment was seen that allows origins, so that servers without one look for none.
    allows_origins: AtomicBool,
    rehearsals: Rehearsals,
    setting: tokio::sync::Mutex<()>,
    builds: Arc<Builds>,
    gone: Gone,
}

impl Serving {
    /// Serves nothing yet. Files of bundles are laid out under `folder`.
    pub fn new(
        runtime: Arc<Runtime>,
        blobs: Blobs,
        logs: Logs,
        meters: Arc<Meters>,
        secrets: Arc<GuestSecrets>,
        folder: PathBuf,
        limits: NodeLimits,
    ) -> Self {
        Self {
            runtime,
            blobs,
            logs,
            meters,
            secrets,
            folder,
            limits,
            routes: RwLock::default(),
            allows_origins: AtomicBool::new(false),
            rehearsals: Rehearsals::default(),
            setting: tokio::sync::Mutex::default(),
            builds: Arc::default(),
            gone: Gone::default(),
        }
    }

    /// How long requests may go on whose deployment has ended, or whose replica was told to stop.
    pub fn drain_timeout(&self) -> Duration {
        self.limits.drain_timeout
    }

    /// The builds that go on here.
    pub fn builds(&self) -> &Arc<Builds> {
        &self.builds
    }

    /// Serves a model as it is now, unless a newer view of it is served already. Replicas of deployments that it had
    /// before stay; deployments that it has no longer finish their requests by themselves.
    ///
    /// Answers the deployments that it no longer serves.
    ///
    /// # Errors
    /// When a deployment's blobs or files are not in place; the others are served.
    pub async fn set(&self, view: ModelView) -> Result<Vec<Arc<Served>>, ServeError> {
        let _turn = self.setting.lock().await;
        if self.gone.has(&view.model.id) {
            return Ok(Vec::new());
        }
        let before = self.with(|routes| {
            let model = routes.models.get(&view.model.id)?;
            let newer = model.view.model.generation > view.model.generation;
            Some((newer, model.deployments.clone()))
        });
        let (newer, mut before) = before.unwrap_or_default();
        if newer {
            return Ok(Vec::new());
        }
        let mut deployments = HashMap::new();
        let mut broken = HashMap::new();
        let mut failed = Ok(());
        for deployment in view.deployments.values().filter(|one| one.status.serves()) {
            let known = before.remove(&deployment.id);
            let served = match known {
                Some(served) if served.bundle_digest == deployment.bundle_digest => served,
                // A bundle that was swapped: the requests that are there finish on the old one.
                other => {
                    before.extend(other.map(|served| (deployment.id, served)));
                    match self.serve(&view, deployment).await {
                        Ok(served) => served,
                        Err(error) => {
                            tracing::error!(deployment = %deployment.id, %error, "cannot be served");
                            broken.insert(deployment.id, error.to_string());
                            failed = Err(error);
                            continue;
                        }
                    }
                }
            };
            let settings = self.pool_settings(deployment);
            if served.pool.settings() != settings {
                served.pool.set_settings(settings);
            }
            // Also those that were here before: a name may be another now.
            self.meters
                .watch(owner(&view, deployment), served.pool.meter());
            deployments.insert(deployment.id, served);
        }
        {
            let mut routes = self.write();
            let id = view.model.id;
            routes
                .names
                .retain(|name, model| *model != id || *name == view.model.name);
            routes.names.insert(view.model.name.clone(), id);
            let mut environments = view.environments.values();
            if environments.any(|one| !one.allowed_origins.is_empty()) {
                self.allows_origins.store(true, Ordering::Relaxed);
            }
            let trials = routes.models.remove(&id).map(|model| model.trials);
            let model = ServedModel {
                trials: trial::follow(trials.unwrap_or_default(), &view),
                view,
                deployments,
                broken,
            };
            routes.models.insert(id, model);
        }
        failed.map(|()| before.into_values().collect())
    }

    /// Lets the requests finish that deployments have which are served no longer, and drops their replicas. What goes on
    /// after the drain time is stopped.
    pub async fn retire(&self, served: Vec<Arc<Served>>) {
        let time = self.limits.drain_timeout;
        let leaving = served.into_iter().map(|served| {
            let (pool, files) = (served.pool.clone(), served.files.clone());
            let mut held = served.held.subscribe();
            async move {
                let begun = Instant::now();
                let released = async { while held.changed().await.is_ok() {} };
                let _ = tokio::time::timeout(time, released).await;
                pool.drain(time.saturating_sub(begun.elapsed())).await;
                drop(files);
            }
        });
        futures::future::join_all(leaving).await;
    }

    /// Takes away what a deleted deployment leaves on this node.
    pub fn clear(&self, deployment: Id) {
        self.logs.delete(deployment.as_str());
    }

    /// Serves a model no longer; running requests finish first. Of two who remove the same one, each waits for its end.
    pub async fn remove_model(&self, view: &ModelView) {
        self.builds.stop_all(view.model.id);
        let turn = self.gone.turn(view.model.id);
        let _turn = turn.lock().await;
        let removed = {
            let _setting = self.setting.lock().await;
            self.gone.add(view.model.id);
            let mut routes = self.write();
            routes.names.remove(&view.model.name);
            routes.models.remove(&view.model.id)
        };
        let served = removed.into_iter().flat_map(|model| {
            model.trials.values().for_each(|trial| trial.end());
            model.deployments.into_values()
        });
        self.retire(served.collect()).await;
        for id in view.deployments.keys() {
            self.clear(*id);
        }
    }

    /// Forgets what was made of a file that no deployment has any more.
    pub async fn forget(&self, blob: Digest) {
        self.runtime.forget(&blob.to_string()).await;
    }

    /// The id of a model, by id or name.
    pub fn model_id(&self, id_or_name: &str) -> Option<Id> {
        self.with(|routes| routes.model_id(id_or_name))
    }

    /// The deployment that answers the next request to a target: while an environment moves to another deployment, one
    /// or the other. `header` gives the values of the request's headers.
    ///
    /// # Errors
    /// When the target means none.
    pub fn resolve<'h>(
        &self,
        model: Id,
        target: Target<'_>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Arc<Served>, Unresolved> {
        self.route(model, target, header)
            .map(|routed| routed.served)
    }

    /// The same with what is done beside while the environment moves.
    ///
    /// # Errors
    /// When the target means none.
    pub fn route<'h>(
        &self,
        model: Id,
        target: Target<'_>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Routed, Unresolved> {
        let none = || Unresolved::NoDeployment {
            model: model.to_string(),
            id: String::new(),
        };
        self.with(|routes| {
            let model = routes.models.get(&model).ok_or_else(none)?;
            model.route(target, header)
        })
    }

    /// The web pages that may call a target from a browser.
    pub fn allowed_origins(&self, model: &str, target: Target<'_>) -> Vec<Origin> {
        let Target::Environment(name) = target else {
            return Vec::new();
        };
        let found = self.with(|routes| {
            let model = routes.models.get(&routes.model_id(model)?)?;
            Some(model.view.environments.get(name)?.allowed_origins.clone())
        });
        found.unwrap_or_default()
    }

    /// Whether an environment of any model may be called by web pages.
    pub fn allows_any_origin(&self) -> bool {
        self.allows_origins.load(Ordering::Relaxed)
    }

    /// What this node has counted of a promotion that goes on to an environment.
    pub fn trial(&self, model: Id, environment: &str) -> Option<Arc<Trial>> {
        self.with(|routes| routes.models.get(&model)?.trials.get(environment).cloned())
    }

    /// The models of which an environment is moving.
    pub fn promoting(&self) -> Vec<ModelView> {
        let moves = |view: &&ModelView| {
            view.environments
                .values()
                .any(|one| one.in_progress().is_some())
        };
        self.with(|routes| {
            routes
                .models
                .values()
                .map(|model| &model.view)
                .filter(moves)
                .cloned()
                .collect()
        })
    }

    /// What the deployment has room for that a request was accepted for.
    ///
    /// # Errors
    /// When it is gone or switched off.
    pub fn room(&self, model: Id, deployment: Id) -> Result<Room, Unresolved> {
        self.with(|routes| {
            let gone = || Unresolved::NoDeployment {
                model: model.to_string(),
                id: deployment.to_string(),
            };
            let model = routes.models.get(&model).ok_or_else(gone)?;
            let target = Target::Deployment(deployment.as_str());
            let found = model.view.resolve(target)?;
            let served = model.deployments.get(&found.id).cloned();
            let trouble = served.as_ref().and_then(|one| one.pool.trouble());
            Ok(Room {
                max_replica: match trouble {
                    None => found.autoscaling().max_replica as usize,
                    // Those that are ready serve; after the pause one more is tried.
                    Some(trouble) => {
                        let ready = served.as_ref().map_or(0, |one| one.pool.presence().ready);
                        ready + usize::from(trouble.retry_after.is_zero())
                    }
                },
                counts: served
                    .as_ref()
                    .map_or_else(Counts::default, |one| one.pool.counts()),
                served,
            })
        })
    }

    /// Models, deployments and replicas now.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.with(|routes| {
            let served = || {
                routes
                    .models
                    .values()
                    .flat_map(|model| model.deployments.values())
            };
            let replicas = served().map(|served| {
                let counts = served.pool.counts();
                counts.idle + counts.busy
            });
            (routes.models.len(), served().count(), replicas.sum())
        })
    }

    /// Replaces idle replicas that read older values of their secrets.
    pub fn recycle(&self) {
        for served in self.all() {
            served.pool.recycle();
        }
    }

    /// Lets running requests finish for so long, and stops every replica.
    pub async fn drain(&self, time: Duration) {
        self.with(|routes| {
            let models = routes.models.values();
            let trials = models.flat_map(|model| model.trials.values());
            trials.for_each(|trial| trial.end());
        });
        let served = self.all();
        futures::future::join_all(served.iter().map(|served| served.pool.drain(time))).await;
    }

    fn all(&self) -> Vec<Arc<Served>> {
        self.with(|routes| {
            let models = routes.models.values();
            models
                .flat_map(|model| model.deployments.values().cloned())
                .collect()
        })
    }

    /// The deployment with the replica that its rehearsal started, or with none.
    async fn serve(
        &self,
        view: &ModelView,
        deployment: &Deployment,
    ) -> Result<Arc<Served>, ServeError> {
        let id = deployment.id;
        let served = match self.rehearsals.of(id, deployment.bundle_digest) {
            Some(rehearsed) => rehearsed,
            None => {
                let (spec, files) = self.spec(view, deployment).await?;
                Arc::new(self.served_by(deployment, spec, files))
            }
        };
        let (pool, minimum) = (served.pool.clone(), served.pool.settings().min_replica);
        if minimum > 0 {
            tokio::spawn(async move {
                if let Err(error) = pool.prewarm(minimum).await {
                    tracing::error!(deployment = %id, %error, "its minimum of replicas does not start");
                }
            });
        }
        Ok(served)
    }

    fn served_by(
        &self,
        deployment: &Deployment,
        spec: DeploymentSpec,
        files: Option<Arc<Layout>>,
    ) -> Served {
        Served {
            id: deployment.id,
            pool: self.runtime.pool(spec),
            bundle_digest: deployment.bundle_digest,
            files,
            held: watch::Sender::default(),
        }
    }

    async fn spec(
        &self,
        view: &ModelView,
        deployment: &Deployment,
    ) -> Result<(DeploymentSpec, Option<Arc<Layout>>), ServeError> {
        let (id, bundle) = (deployment.id, &deployment.bundle);
        let own_engine = match (self.limits.engines, bundle.isolation) {
            (EngineMode::InProcess, Isolation::Deployment) => return Err(ServeError::NoIsolation),
            (EngineMode::PerDeployment, _) | (EngineMode::Shared, Isolation::Deployment) => {
                Some(id.to_string())
            }
            (EngineMode::Shared | EngineMode::InProcess, Isolation::Shared) => None,
        };
        // Of the model, because each push is a deployment of its own.
        let owner = samovar_runtime::Owner::named(view.model.id.as_str());
        let component = ComponentFile {
            digest: bundle.component.digest.to_string(),
            path: self.blobs.local_path(bundle.component.digest).await?,
            owner,
        };
        let mut specs = Vec::with_capacity(bundle.graphs.len());
        for (name, graph) in &bundle.graphs {
            let mut spec = graphs::spec(owner, name, graph, &self.blobs).await?;
            spec.own_engine.clone_from(&own_engine);
            specs.push(spec);
        }
        let mut environment: Vec<(String, String)> = bundle
            .environment_variables
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        environment.push(("SAMOVAR_MODEL".into(), view.model.name.clone()));
        environment.push(("SAMOVAR_DEPLOYMENT_ID".into(), id.to_string()));
        let files = self.lay_out(bundle, id).await?.map(Arc::new);
        let name = &view.model.name;
        let check = BundleFiles::new(name, bundle, self.blobs.clone(), files.clone());
        let spec = DeploymentSpec {
            component,
            snapshot: bundle.snapshot.then(|| bundle.seen_by_init().to_string()),
            graphs: specs,
            own_engine,
            files: Some(Arc::new(check)),
            capabilities: Capabilities {
                environment,
                config: self.secrets.config(&bundle.secrets).await?,
                files: files.as_ref().map(|layout| layout.folder().to_owned()),
                network_allow: bundle.network.allow.iter().cloned().collect(),
                load_graphs_from_bytes: bundle.load_graphs_from_bytes,
            },
            limits: Limits {
                memory_bytes: bundle.limits.memory_bytes,
                timeout: Duration::from_millis(bundle.limits.timeout_ms),
                body_bytes: bundle.limits.body_bytes,
            },
            settings: self.pool_settings(deployment),
            log: self.logs.of(id.as_str()),
        };
        Ok((spec, files))
    }

    fn pool_settings(&self, deployment: &Deployment) -> PoolSettings {
        let autoscaling = deployment.autoscaling();
        PoolSettings {
            min_replica: autoscaling.min_replica as usize,
            max_replica: autoscaling.max_replica as usize,
            max_queued_requests: match deployment.backpressure {
                BackpressurePolicy::QueueOnFull => self.limits.max_queued_requests,
                BackpressurePolicy::RejectOnFull => 0,
            },
            max_requests_per_replica: [
                self.limits.max_requests_per_replica,
                deployment.bundle.limits.requests_per_replica.map(u64::from),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    /// Makes the folder that replicas see at `/`: links to the blobs, so that it costs no space.
    async fn lay_out(&self, bundle: &Bundle, id: Id) -> Result<Option<Layout>, ServeError> {
        if bundle.files.is_empty() {
            return Ok(None);
        }
        let mut files = Vec::with_capacity(bundle.files.len());
        for (path, blob) in &bundle.files {
            files.push((path.clone(), self.blobs.local_path(blob.digest).await?));
        }
        let made = Layout::make(&self.folder, id, files).await;
        made.map(Some)
            .map_err(|(path, source)| ServeError::Files { path, source })
    }

    fn with<T>(&self, read: impl FnOnce(&Routes) -> T) -> T {
        // Writers replace whole entries, so a panic of one leaves nothing half-made.
        read(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Routes> {
        self.routes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    fn model_id(&self, id_or_name: &str) -> Option<Id> {
        let by_id = id_or_name
            .parse()
            .ok()
            .filter(|id| self.models.contains_key(id));
        by_id.or_else(|| self.names.get(id_or_name).copied())
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
