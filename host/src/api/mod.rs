//! The management API under `/v1`, and the router of everything that a node answers.

mod blobs;
mod deployments;
pub mod error;
mod models;
pub mod request_id;
mod status;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get};
use samovar_runtime::Runtime;

use crate::control::access::Access;
use crate::control::async_queue::AsyncQueue;
use crate::control::serving::Serving;
use crate::domain::api_key::Action;
use crate::gateway::{self, Gateway, refused};
use crate::registry::Registry;
use crate::state::blobs::Blobs;
use crate::telemetry::logs::Logs;
use error::ApiError;

/// Largest JSON body of a management request.
pub const MAX_JSON_BYTES: usize = 1 << 20;

/// What the management API works on.
#[derive(Clone)]
pub struct Api {
    /// Models and deployments as stored.
    pub registry: Registry,
    /// Files of bundles.
    pub blobs: Blobs,
    /// Models and deployments as served.
    pub serving: Arc<Serving>,
    /// Who may call.
    pub access: Arc<Access>,
    /// Requests that are answered later.
    pub async_queue: AsyncQueue,
    /// Logs of deployments.
    pub logs: Logs,
    /// What runs models.
    pub runtime: Arc<Runtime>,
    /// Pushes and deletions go one at a time, so that no push loses a blob to a deletion beside it.
    pub changes: Arc<tokio::sync::Mutex<()>>,
    /// When the node started.
    pub started: Instant,
}

/// Everything that a node answers.
pub fn router(api: Api) -> Router {
    let gateway = Gateway {
        serving: api.serving.clone(),
        access: api.access.clone(),
        async_queue: api.async_queue.clone(),
    };
    let management = Router::new()
        .route(
            "/blobs/{digest}",
            get(blobs::get).head(blobs::head).put(blobs::put),
        )
        .route("/models", get(models::list).post(models::push))
        .route("/models/{model}", get(models::show).delete(models::delete))
        .route(
            "/models/{model}/deployments",
            get(deployments::list).post(models::push_to),
        )
        .route(
            "/models/{model}/deployments/{deployment}",
            get(deployments::show).delete(deployments::delete),
        )
        .route(
            "/models/{model}/deployments/{deployment}/logs",
            get(deployments::logs),
        )
        .route("/backends", get(status::backends))
        .route("/status", get(status::status))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(middleware::from_fn_with_state(
            api.access.clone(),
            managers_only,
        ))
        .with_state(api);
    Router::new()
        .route("/models/{*path}", any(gateway::infer))
        .with_state(gateway)
        .nest("/v1", management)
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(error::render))
}

async fn managers_only(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let authorization = request.headers().get(header::AUTHORIZATION);
    access
        .check(
            authorization.map(header::HeaderValue::as_bytes),
            Action::Manage,
        )
        .map_err(|refusal| refused(&refusal))?;
    Ok(next.run(request).await)
}

async fn unknown(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::not_found(format!("there is nothing at {path}"))
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("this address does not take {}", request.method()),
    )
}
