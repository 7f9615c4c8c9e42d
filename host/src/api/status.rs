//! What the node is and what it can run on.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;

/// `GET /v1/backends`
pub async fn backends(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "backends": shown(&api) }))
}

/// `GET /v1/status`
pub async fn status(State(api): State<Api>) -> Json<Value> {
    let (models, deployments, active_replicas) = api.serving.counts();
    let graphs: Vec<Value> = api
        .runtime
        .graphs()
        .into_iter()
        .map(|graph| json!({ "name": graph.name, "backend": graph.backend, "size": graph.bytes }))
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(api.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "models": models,
        "deployments": deployments,
        "active_replicas": active_replicas,
        "loaded_graphs": graphs,
        "allocator": format!("{:?}", api.runtime.allocator()).to_lowercase(),
        "backends": shown(&api),
    }))
}

fn shown(api: &Api) -> Vec<Value> {
    let backends = api.runtime.backends().into_iter();
    backends
        .map(|backend| {
            json!({
                "name": backend.name,
                "version": backend.version,
                "path": backend.path,
                "targets": backend.targets,
                "available": backend.reason.is_none(),
                "reason": backend.reason,
            })
        })
        .collect()
}
