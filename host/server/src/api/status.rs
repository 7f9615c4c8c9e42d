//! What the node is and what it can run on.

use samovar_runtime::Barrier;
use samovar_runtime::backend::{self, Gpu};
use samovar_types::api::status::{
    Backend, Confinement, Connections, Device, Engine, GraphMemory, ListBackendsResponse,
    LoadedGraph, StatusResponse, UnreadableDocument,
};
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

/// List what runs graphs on this node.
#[utoipa::path(get, path = "/v1/backends", responses((status = 200, body = ListBackendsResponse)))]
async fn backends(State(api): State<Api>) -> Json<ListBackendsResponse> {
    let gpus = api.runtime.gpus();
    let device = |(gpu, used): (Gpu, u64)| Device {
        name: backend::Device::Cuda(gpu.number).to_string(),
        model: gpu.name,
        memory_bytes: gpu.memory_bytes,
        free_memory_bytes: gpu.free_bytes,
        graph_memory_bytes: used,
        driver_version: gpu.driver,
        available: gpus.reason.is_none(),
        reason: gpus.reason.clone(),
    };
    Json(ListBackendsResponse {
        backends: found(&api),
        devices: gpus.gpus.into_iter().map(device).collect(),
        devices_reason: gpus.reason.clone(),
        confinement: confinement(&api),
    })
}

/// Show how the node is.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = StatusResponse)))]
async fn status(State(api): State<Api>) -> Json<StatusResponse> {
    let (models, deployments, active_replicas) = api.serving.counts();
    let graphs = api.runtime.graphs().into_iter();
    Json(StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: u64::try_from(api.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        models,
        deployments,
        active_replicas,
        loaded_graphs: graphs
            .map(|graph| LoadedGraph {
                name: graph.name,
                backend: graph.backend.to_owned(),
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
        name: one.backend.to_owned(),
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
            name: backend.name.to_owned(),
            version: backend.version,
            path: backend.path,
            targets: backend.targets.into_iter().map(str::to_owned).collect(),
            reason: backend.reason,
        })
        .collect()
}
