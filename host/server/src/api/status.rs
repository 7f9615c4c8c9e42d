//! What the node is and what it can run on.

use std::path::PathBuf;

use samovar_runtime::Barrier;
use samovar_runtime::backend::{self, Card};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::{Json, State};
use super::permission::{Action, Needs as _};

/// The routes of the node itself.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(backends).needs(Action::Manage))
        .routes(routes!(status).needs(Action::Manage))
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
    /// The cards of the node.
    pub devices: Vec<Device>,
    /// Why graphs cannot use a card, if they cannot, and what would help.
    pub devices_reason: Option<String>,
    /// What confines the processes that run graphs, and what does not; empty when graphs run in the server's own process.
    pub confinement: Vec<Confinement>,
}

/// A barrier around a process that runs graphs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Confinement {
    /// `rlimits`, `no_new_privs`, `landlock` or `seccomp`.
    pub name: String,
    /// Whether it is in force.
    pub active: bool,
    /// The version of it that is in force, where it has versions.
    pub version: Option<u32>,
    /// Why it is not in force, or what this version of it does not confine.
    pub reason: Option<String>,
}

/// A card.
#[derive(Debug, Serialize, ToSchema)]
pub struct Device {
    /// What a graph's `device` says: `cuda:0` and so on.
    pub name: String,
    /// What it is, as its maker calls it.
    pub model: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of that which nobody uses.
    pub free_memory_bytes: u64,
    /// Bytes that graphs of this node take.
    pub graph_memory_bytes: u64,
    /// Version of its driver.
    pub driver_version: String,
    /// Whether graphs can use it.
    pub available: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// A graph in memory.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoadedGraph {
    /// Its name in the manifest.
    pub name: String,
    /// What runs it.
    pub backend: &'static str,
    /// What it runs on: `cpu`, or `cuda:0` and so on.
    pub device: String,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of memory that it takes in its engine, with the most that runs were seen to take; null while it is not loaded
    /// there.
    pub memory_bytes: Option<u64>,
}

/// The memory that all graphs take together.
#[derive(Debug, Serialize, ToSchema)]
pub struct GraphMemory {
    /// Bytes that they may take, as `samovar serve --memory` says.
    pub limit_bytes: u64,
    /// Bytes that they take.
    pub used_bytes: u64,
}

/// A process that runs graphs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Engine {
    /// The backend that it was started for.
    pub name: &'static str,
    /// The deployment that has it for itself; null when it is shared.
    pub deployment_id: Option<String>,
    /// Whether it runs one graph alone, because engines ended that this graph ran in.
    pub suspect: bool,
    /// Its process.
    pub process: Option<u32>,
    /// How many graphs it has loaded.
    pub graphs: usize,
    /// What confines it: `rlimits`, `no_new_privs`, `landlock` with its version, `seccomp`.
    pub confined_by: Vec<String>,
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
    /// The memory that they take together; null when graphs run in the server's own process.
    pub graph_memory: Option<GraphMemory>,
    /// The processes that run graphs; none when graphs run in the server's own, or when none is loaded.
    pub engines: Vec<Engine>,
    /// What confines such processes on this machine, as of each engine; `GET /v1/backends` says what does not, and why.
    pub confined_by: Vec<String>,
    /// `pooling` or `ondemand`.
    pub allocator: String,
    /// What runs graphs.
    pub backends: Vec<Backend>,
    /// Stored documents that cannot be read and are passed over.
    pub unreadable_documents: Vec<UnreadableDocument>,
    /// Connections of clients.
    pub connections: Connections,
    /// Files and sockets that the process may have open; null for no limit.
    pub open_files_limit: Option<u64>,
}

/// A stored document that cannot be read.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnreadableDocument {
    /// Its key in the store, which says what it is of.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Connections of clients.
#[derive(Debug, Serialize, ToSchema)]
pub struct Connections {
    /// Open now, this one included.
    pub open: usize,
    /// Open at most.
    pub max: usize,
}

/// List what runs graphs on this node.
#[utoipa::path(get, path = "/v1/backends", responses((status = 200, body = Backends)))]
async fn backends(State(api): State<Api>) -> Json<Backends> {
    let cards = api.runtime.cards();
    let device = |(card, used): (Card, u64)| Device {
        name: backend::Device::Cuda(card.number).to_string(),
        model: card.name,
        memory_bytes: card.memory_bytes,
        free_memory_bytes: card.free_bytes,
        graph_memory_bytes: used,
        driver_version: card.driver,
        available: cards.reason.is_none(),
        reason: cards.reason.clone(),
    };
    Json(Backends {
        backends: found(&api),
        devices: cards.cards.into_iter().map(device).collect(),
        devices_reason: cards.reason.clone(),
        confinement: confinement(&api),
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
                device: graph.device.to_string(),
                size: graph.bytes,
                memory_bytes: graph.memory_bytes,
            })
            .collect(),
        graph_memory: api.runtime.graph_memory().map(|memory| GraphMemory {
            limit_bytes: memory.limit_bytes,
            used_bytes: memory.used_bytes,
        }),
        engines: engines(&api),
        confined_by: Barrier::names(&api.runtime.engine_barriers().unwrap_or_default()),
        allocator: format!("{:?}", api.runtime.allocator()).to_lowercase(),
        backends: found(&api),
        unreadable_documents: unreadable_documents(&api),
        connections: Connections {
            open: api.connections.open(),
            max: api.connections.max(),
        },
        open_files_limit: api.open_files,
    })
}

fn confinement(api: &Api) -> Vec<Confinement> {
    let barriers = api.runtime.engine_barriers().unwrap_or_default();
    let shown = |one: Barrier| Confinement {
        name: one.name,
        active: one.active,
        version: one.version,
        reason: one.reason,
    };
    barriers.into_iter().map(shown).collect()
}

fn engines(api: &Api) -> Vec<Engine> {
    let engines = api.runtime.engines().into_iter();
    let shown = |one: samovar_runtime::EngineInfo| Engine {
        name: one.backend,
        deployment_id: one.deployment,
        suspect: one.is_suspect,
        process: one.process,
        graphs: one.graphs,
        confined_by: one.confined_by,
    };
    engines.map(shown).collect()
}

fn unreadable_documents(api: &Api) -> Vec<UnreadableDocument> {
    let documents = api.registry.unreadable().list().into_iter();
    let shown = |one: crate::registry::UnreadableDocument| UnreadableDocument {
        key: one.key,
        reason: one.reason,
    };
    documents.map(shown).collect()
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
