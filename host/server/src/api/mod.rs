//! The management API under `/v1`, with its description at `/openapi.json`.

#![allow(unused_qualifications)] // the macros of utoipa qualify what they need not

mod api_keys;
mod audit;
mod blobs;
mod bundles;
mod change_limit;
mod deployments;
mod development;
mod environments;
pub mod error;
mod events;
pub mod extract;
pub mod health;
mod identity;
mod lifecycle;
mod logs;
mod metrics;
pub(crate) mod models;
mod openapi;
mod openapi_inference;
mod permission;
mod promotion_shape;
mod promotions;
mod replicas;
pub mod request_id;
mod secrets;
mod shapes;
mod status;
mod tar;
mod teams;
mod usage;
mod webhook_secrets;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use samovar_runtime::Runtime;
use samovar_store::blobs::Blobs;
use samovar_types::error::ErrorCode;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::control::access::Access;
use crate::control::async_queue::AsyncQueue;
use crate::controllers::blob_gc::BlobGc;
use crate::controllers::deployment::DeploymentController;
use crate::controllers::dev_reload::DevReload;
use crate::controllers::guest_secrets::GuestSecretsController;
use crate::domain::audit::Author;
use crate::events::bus::EventBus;
use crate::registry::{Registry, Secrets, WebhookSecrets};
use crate::server::table::Connections;
use crate::serving::Serving;
use crate::serving::guest_secrets::GuestSecrets;
use crate::serving::reconciler::Reconciler;
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
    /// Secrets as stored.
    pub secrets: Secrets,
    /// Secrets as guests read them.
    pub guest_secrets: Arc<GuestSecrets>,
    /// What webhooks are signed with.
    pub webhook_secrets: WebhookSecrets,
    /// What brings changed secrets to guests.
    pub secrets_controller: Arc<GuestSecretsController>,
    /// What serves the catalog.
    pub reconciler: Arc<Reconciler>,
    /// What builds deployments.
    pub deployments: Arc<DeploymentController>,
    /// Files of bundles.
    pub blobs: Blobs,
    /// Models and deployments as served.
    pub serving: Arc<Serving>,
    /// Who may call.
    pub access: Arc<Access>,
    /// Requests that are answered later.
    pub async_queue: AsyncQueue,
    /// What happens.
    pub bus: Arc<EventBus>,
    /// Logs of deployments.
    pub logs: Logs,
    /// What deployments use.
    pub usage: Arc<Usage>,
    /// What runs models.
    pub runtime: Arc<Runtime>,
    /// What deletes blobs that are needed no longer.
    pub blob_gc: BlobGc,
    /// What swaps the bundle of development deployments.
    pub dev_reload: DevReload,
    /// Whether requests should be sent to the node.
    pub readiness: health::Readiness,
    /// Connections of clients.
    pub connections: Arc<Connections>,
    /// How many files the process may have open; `None` is no limit.
    pub open_files: Option<u64>,
    /// When the node started.
    pub started: Instant,
}

/// What routes share. Handlers get it as [`extract::State`], bound to whoever calls.
#[derive(Clone)]
pub struct Shared(Api);

impl Shared {
    /// The API as this author changes what is stored.
    fn by(&self, author: Author) -> Api {
        let Self(api) = self;
        Api {
            registry: api.registry.by(author.clone()),
            secrets: api.secrets.by(author.clone()),
            webhook_secrets: api.webhook_secrets.by(author.clone()),
            dev_reload: api.dev_reload.by(author),
            ..api.clone()
        }
    }
}

/// The management API, and what belongs to neither it nor a model.
pub fn router(api: Api) -> Router {
    let (management, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(blobs::router())
        .merge(models::router())
        .merge(deployments::router())
        .merge(development::router())
        .merge(lifecycle::router())
        .merge(logs::router())
        .merge(bundles::router())
        .merge(environments::router())
        .merge(promotions::router())
        .merge(replicas::router())
        .merge(secrets::router())
        .merge(webhook_secrets::router())
        .merge(api_keys::router())
        .merge(identity::router())
        .merge(status::router())
        .merge(metrics::router())
        .merge(usage::router())
        .merge(teams::router())
        .merge(audit::router())
        .merge(events::router())
        .split_for_parts();
    // Drawn once: it is the same for every caller.
    let document = axum::Json(openapi::complete(document));
    let readiness = api.readiness.clone();
    let management = management
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(Extension(change_limit::ChangeLimit::default()))
        .layer(Extension(api.access.clone()))
        .with_state(Shared(api));
    Router::new()
        .merge(management)
        .route(
            "/openapi.json",
            get(move || std::future::ready(document.clone())),
        )
        .merge(health::router(readiness))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

async fn unknown(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::not_found(format!("there is nothing at {path}"))
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::MethodNotAllowed,
        format!("this address does not take {}", request.method()),
    )
}
