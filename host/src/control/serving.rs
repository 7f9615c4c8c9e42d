//! The deployments that this node serves, each with its pool: routed to from memory, never from the store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use samovar_runtime::backend::{BackendChoice, Target as GraphTargetChoice};
use samovar_runtime::graphs::GraphSpec;
use samovar_runtime::{
    Capabilities, ComponentFile, Counts, DeploymentSpec, Limits, Pool, PoolSettings, RunError,
    Runtime,
};

use crate::domain::bundle::{Bundle, Graph, GraphBackend, GraphTarget};
use crate::domain::deployment::Deployment;
use crate::domain::digest::Digest;
use crate::domain::model::{ModelView, Target, Unresolved};
use crate::ids::Id;
use crate::state::blobs::{BlobError, Blobs};
use crate::telemetry::logs::Logs;

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
}

/// A deployment with its replicas.
pub struct Served {
    /// Its id.
    pub id: Id,
    /// Its replicas.
    pub pool: Arc<Pool>,
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

struct ServedModel {
    view: ModelView,
    deployments: HashMap<Id, Arc<Served>>,
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
    folder: PathBuf,
    limits: NodeLimits,
    routes: RwLock<Routes>,
}

impl Serving {
    /// Serves nothing yet. Files of bundles are laid out under `folder`.
    pub fn new(
        runtime: Arc<Runtime>,
        blobs: Blobs,
        logs: Logs,
        folder: PathBuf,
        limits: NodeLimits,
    ) -> Self {
        Self {
            runtime,
            blobs,
            logs,
            folder,
            limits,
            routes: RwLock::default(),
        }
    }

    /// Finds out whether a bundle can be served: compiles its component, loads its graphs, starts a replica.
    ///
    /// What was loaded stays in memory until the answer is dropped, so that the deployment that follows starts warm.
    ///
    /// # Errors
    /// What is wrong with the bundle.
    pub async fn rehearse(&self, bundle: &Bundle) -> Result<Arc<Pool>, ServeError> {
        let id = Id::new();
        let spec = self.spec(bundle, &id.to_string(), &bundle.name).await?;
        self.runtime.admit(&spec.component).await?;
        for graph in &spec.graphs {
            let admitted = self.runtime.admit_graph(graph).await;
            admitted.map_err(|source| ServeError::Graph {
                name: graph.name.clone(),
                source,
            })?;
        }
        let files = spec.capabilities.files.clone();
        let pool = self.runtime.pool(spec);
        let started = pool.prewarm(1).await.map_err(ServeError::Start);
        if let Some(files) = files {
            let _ = tokio::fs::remove_dir_all(files).await;
        }
        started.map(|()| pool)
    }

    /// Serves a model as it is now; keeps the replicas of deployments that it had before.
    ///
    /// # Errors
    /// When a deployment's blobs or files are not in place; the others are served.
    pub async fn set(&self, view: ModelView) -> Result<(), ServeError> {
        let mut deployments = HashMap::new();
        let mut failed = Ok(());
        for deployment in view.deployments.values() {
            let before = self.with(|routes| {
                let model = routes.models.get(&view.model.id)?;
                model.deployments.get(&deployment.id).cloned()
            });
            let served = match before {
                Some(served) => served,
                None => match self.serve(&view, deployment).await {
                    Ok(served) => Arc::new(served),
                    Err(error) => {
                        tracing::error!(deployment = %deployment.id, %error, "cannot be served");
                        failed = Err(error);
                        continue;
                    }
                },
            };
            deployments.insert(deployment.id, served);
        }
        let mut routes = self.write();
        routes.names.insert(view.model.name.clone(), view.model.id);
        routes
            .models
            .insert(view.model.id, ServedModel { view, deployments });
        failed
    }

    /// Serves a deployment no longer; running requests finish first.
    pub async fn remove(&self, model: Id, deployment: Id) {
        let served = {
            let mut routes = self.write();
            routes.models.get_mut(&model).and_then(|model| {
                model.view.deployments.remove(&deployment);
                model.deployments.remove(&deployment)
            })
        };
        if let Some(served) = served {
            served.pool.drain().await;
        }
        let folder = self.folder.join(deployment.as_str());
        let _ = tokio::fs::remove_dir_all(folder).await;
        self.logs.delete(deployment.as_str());
    }

    /// Serves a model no longer.
    pub async fn remove_model(&self, view: &ModelView) {
        {
            let mut routes = self.write();
            routes.names.remove(&view.model.name);
        }
        for id in view.deployments.keys() {
            self.remove(view.model.id, *id).await;
        }
        self.write().models.remove(&view.model.id);
    }

    /// Forgets the compiled form of a component that no deployment has any more.
    pub async fn forget(&self, component: Digest) {
        self.runtime.forget(&component.to_string()).await;
    }

    /// The id of a model, by id or name.
    pub fn model_id(&self, id_or_name: &str) -> Option<Id> {
        self.with(|routes| routes.model_id(id_or_name))
    }

    /// The deployment that a target means.
    ///
    /// # Errors
    /// When the target means none.
    pub fn resolve(&self, model: Id, target: Target<'_>) -> Result<Arc<Served>, Unresolved> {
        let none = || Unresolved::NoDeployment {
            model: model.to_string(),
            id: String::new(),
        };
        self.with(|routes| {
            let model = routes.models.get(&model).ok_or_else(none)?;
            let deployment = model.view.resolve(target)?;
            model
                .deployments
                .get(&deployment.id)
                .cloned()
                .ok_or_else(none)
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
            Ok(Room {
                max_replica: found.bundle.autoscaling.max_replica as usize,
                counts: served
                    .as_ref()
                    .map_or_else(Counts::default, |one| one.pool.counts()),
                served,
            })
        })
    }

    /// Replicas of a deployment now.
    pub fn replicas(&self, model: Id, deployment: Id) -> usize {
        self.with(|routes| {
            let model = routes.models.get(&model)?;
            let counts = model.deployments.get(&deployment)?.pool.counts();
            Some(counts.idle + counts.busy)
        })
        .unwrap_or(0)
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

    /// Lets running requests finish and stops every replica.
    pub async fn drain(&self) {
        let served: Vec<_> = self.with(|routes| {
            let models = routes.models.values();
            models
                .flat_map(|model| model.deployments.values().cloned())
                .collect()
        });
        futures::future::join_all(served.iter().map(|served| served.pool.drain())).await;
    }

    async fn serve(&self, view: &ModelView, deployment: &Deployment) -> Result<Served, ServeError> {
        let id = deployment.id;
        let spec = self
            .spec(&deployment.bundle, id.as_str(), &view.model.name)
            .await?;
        let pool = self.runtime.pool(spec);
        let minimum = deployment.bundle.autoscaling.min_replica as usize;
        if minimum > 0 {
            let pool = pool.clone();
            tokio::spawn(async move {
                if let Err(error) = pool.prewarm(minimum).await {
                    tracing::error!(deployment = %id, %error, "its minimum of replicas does not start");
                }
            });
        }
        Ok(Served { id, pool })
    }

    async fn spec(
        &self,
        bundle: &Bundle,
        id: &str,
        model: &str,
    ) -> Result<DeploymentSpec, ServeError> {
        let component = ComponentFile {
            digest: bundle.component.digest.to_string(),
            path: self.blobs.local_path(bundle.component.digest).await?,
        };
        let mut graphs = Vec::with_capacity(bundle.graphs.len());
        for (name, graph) in &bundle.graphs {
            let path = self.blobs.local_path(graph.digest).await?;
            graphs.push(graph_spec(name, graph, path));
        }
        let mut environment: Vec<(String, String)> = bundle
            .environment_variables
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        environment.push(("SAMOVAR_MODEL".into(), model.to_owned()));
        environment.push(("SAMOVAR_DEPLOYMENT_ID".into(), id.to_owned()));
        Ok(DeploymentSpec {
            component,
            graphs,
            capabilities: Capabilities {
                environment,
                config: Vec::new(),
                files: self.lay_out(bundle, id).await?,
                network_allow: bundle.network.allow.iter().cloned().collect(),
            },
            limits: Limits {
                memory_bytes: bundle.limits.memory_bytes,
                timeout: Duration::from_millis(bundle.limits.timeout_ms),
                body_bytes: bundle.limits.body_bytes,
            },
            settings: PoolSettings {
                min_replica: bundle.autoscaling.min_replica as usize,
                max_replica: bundle.autoscaling.max_replica as usize,
                scale_down_delay: Duration::from_secs(bundle.autoscaling.scale_down_delay.into()),
                max_queued_requests: self.limits.max_queued_requests,
                max_requests_per_replica: self.limits.max_requests_per_replica,
            },
            log: self.logs.of(id),
        })
    }

    /// Makes the folder that replicas see at `/`: links to the blobs, so that it costs no space.
    async fn lay_out(&self, bundle: &Bundle, id: &str) -> Result<Option<PathBuf>, ServeError> {
        if bundle.files.is_empty() {
            return Ok(None);
        }
        let folder = self.folder.join(id);
        for (path, blob) in &bundle.files {
            let source = self.blobs.local_path(blob.digest).await?;
            let target = folder.join(path);
            let placed = tokio::task::spawn_blocking(move || place(&source, &target)).await;
            placed
                .unwrap_or_else(|e| Err(std::io::Error::other(e)))
                .map_err(|source| ServeError::Files {
                    path: folder.clone(),
                    source,
                })?;
        }
        Ok(Some(folder))
    }

    fn with<T>(&self, read: impl FnOnce(&Routes) -> T) -> T {
        // Writers replace whole entries, so a panic of one leaves nothing half-made.
        read(
            &self
                .routes
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Routes> {
        self.routes
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
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

fn place(source: &Path, target: &Path) -> std::io::Result<()> {
    if target.exists() {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Another file system has no links to here.
    std::fs::hard_link(source, target).or_else(|_| std::fs::copy(source, target).map(drop))
}

fn graph_spec(name: &str, graph: &Graph, path: PathBuf) -> GraphSpec {
    GraphSpec {
        name: name.to_owned(),
        digest: graph.digest.to_string(),
        path,
        backend: match graph.backend {
            GraphBackend::Auto => BackendChoice::Auto,
            GraphBackend::Onnxruntime => BackendChoice::Onnxruntime,
            GraphBackend::Rten => BackendChoice::Rten,
        },
        target: match graph.target {
            GraphTarget::Auto => GraphTargetChoice::Auto,
            GraphTarget::Cpu => GraphTargetChoice::Cpu,
            GraphTarget::Gpu => GraphTargetChoice::Gpu,
        },
        threads: graph.threads as usize,
    }
}
