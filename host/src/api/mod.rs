//! The management API under `/v1`, and the router of everything that a node answers.

#![allow(unused_qualifications)] // the macros of utoipa qualify what they need not

mod blobs;
mod deployments;
pub mod error;
pub mod extract;
mod models;
mod openapi;
pub mod request_id;
mod shapes;
mod status;
mod usage;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get};
use samovar_runtime::Runtime;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::control::access::Access;
use crate::control::serving::Serving;
use crate::domain::api_key::Action;
use crate::gateway::{self, Gateway, refused};
use crate::registry::Registry;
use crate::state::blobs::Blobs;
use crate::telemetry::logs::Logs;
use crate::telemetry::usage::Usage;
use error::ApiError;
use openapi::Document;

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
    /// Logs of deployments.
    pub logs: Logs,
    /// What deployments use.
    pub usage: Arc<Usage>,
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
    };
    let (management, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(blobs::router())
        .merge(models::router())
        .merge(deployments::router())
        .merge(status::router())
        .merge(usage::router())
        .split_for_parts();
    // Drawn once: it is the same for every caller.
    let document = axum::Json(openapi::complete(document));
    let management = management
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_JSON_BYTES))
        .route_layer(middleware::from_fn_with_state(
            api.access.clone(),
            managers_only,
        ))
        .with_state(api);
    Router::new()
        .route("/models/{*path}", any(gateway::infer))
        .with_state(gateway)
        .merge(management)
        .route(
            "/openapi.json",
            get(move || std::future::ready(document.clone())),
        )
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
