//! What the node is and what it can run on.

use std::path::PathBuf;

use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::{Json, State};

/// The routes of the node itself.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(backends))
        .routes(routes!(status))
}

/// What runs graphs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Backend {
    /// `rten` or `onnxruntime`.
    pub name: &'static str,
    /// Its version.
    pub version: Option<String>,
    /// Where it was found; null when it is part of the server.
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
    /// `cpu` and `gpu`, as far as it has them.
    pub targets: Vec<&'static str>,
    /// Whether it can be used.
    pub available: bool,
    /// Why not, and what would help.
    pub reason: Option<String>,
}

/// What runs graphs on this node.
#[derive(Debug, Serialize, ToSchema)]
pub struct Backends {
    /// The built-in one is always among them.
    pub backends: Vec<Backend>,
}

/// A graph in memory.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoadedGraph {
    /// Its name in the manifest.
    pub name: String,
    /// What runs it.
    pub backend: &'static str,
    /// Bytes of its file.
    pub size: u64,
}

/// How a node is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// Its release.
    pub version: &'static str,
    /// Since its start.
    pub uptime_ms: u64,
    /// Models.
    pub models: usize,
    /// Deployments of all models.
    pub deployments: usize,
    /// Replicas of all deployments.
    pub active_replicas: usize,
    /// Graphs in memory.
    pub loaded_graphs: Vec<LoadedGraph>,
    /// `pooling` or `ondemand`.
    pub allocator: String,
    /// What runs graphs.
    pub backends: Vec<Backend>,
}

/// List what runs graphs on this node.
#[utoipa::path(get, path = "/v1/backends", responses((status = 200, body = Backends)))]
async fn backends(State(api): State<Api>) -> Json<Backends> {
    Json(Backends {
        backends: found(&api),
    })
}

/// Show how the node is.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(api): State<Api>) -> Json<Status> {
    let (models, deployments, active_replicas) = api.serving.counts();
    let graphs = api.runtime.graphs().into_iter();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: u64::try_from(api.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        models,
        deployments,
        active_replicas,
        loaded_graphs: graphs
            .map(|graph| LoadedGraph {
                name: graph.name,
                backend: graph.backend,
                size: graph.bytes,
            })
            .collect(),
        allocator: format!("{:?}", api.runtime.allocator()).to_lowercase(),
        backends: found(&api),
    })
}

fn found(api: &Api) -> Vec<Backend> {
    let backends = api.runtime.backends().into_iter();
    backends
        .map(|backend| Backend {
            available: backend.reason.is_none(),
            name: backend.name,
            version: backend.version,
            path: backend.path,
            targets: backend.targets,
            reason: backend.reason,
        })
        .collect()
}
