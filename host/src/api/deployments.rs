//! Deployments: list, show, logs, delete.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::models::collect_garbage;
use crate::domain::deployment::{Deployment, DeploymentKind, DeploymentStatus};
use crate::domain::model::{ModelView, Target};
use crate::telemetry::logs::{LogQuery, MAX_LINES};

/// The longest window of one question for logs, in milliseconds: 7 days.
const MAX_LOG_WINDOW_MS: i64 = 7 * 24 * 3600 * 1000;
const DEFAULT_LOG_WINDOW_MS: i64 = 30 * 60 * 1000;
const DEFAULT_LOG_LINES: usize = 500;

/// `GET /v1/models/{model}/deployments`
pub async fn list(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let view = api.registry.model(&model).await?;
    let mut deployments: Vec<&Deployment> = view.deployments.values().collect();
    deployments.sort_by_key(|deployment| (deployment.created_at, deployment.id));
    let shown: Vec<Value> = deployments
        .into_iter()
        .map(|deployment| json(&api, &view, deployment))
        .collect();
    Ok(Json(json!({ "deployments": shown })))
}

/// `GET /v1/models/{model}/deployments/{deployment}`
pub async fn show(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let view = api.registry.model(&model).await?;
    Ok(Json(json(&api, &view, find(&view, &deployment)?)))
}

/// `DELETE /v1/models/{model}/deployments/{deployment}`
pub async fn delete(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let task = tokio::spawn(async move {
        let change = api.changes.lock().await;
        let view = api.registry.model(&model).await?;
        let id = find(&view, &deployment)?.id;
        let deleted = api.registry.delete_deployment(&model, id).await?;
        collect_garbage(&api, std::iter::once(&deleted.bundle)).await?;
        drop(change);
        api.serving.remove(deleted.model_id, id).await;
        Ok(Json(
            json!({ "id": id, "deleted": true, "model_id": deleted.model_id }),
        ))
    });
    task.await.map_err(ApiError::internal)?
}

/// What may be asked of a log.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    start_epoch_millis: Option<i64>,
    end_epoch_millis: Option<i64>,
    direction: Option<Direction>,
    limit: Option<usize>,
    min_level: Option<String>,
    replica: Option<String>,
    request_id: Option<String>,
    includes: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Asc,
    Desc,
}

/// `GET /v1/models/{model}/deployments/{deployment}/logs`
pub async fn logs(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(asked) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let view = api.registry.model(&model).await?;
    let id = find(&view, &deployment)?.id;
    let direction = asked.direction.unwrap_or(Direction::Asc);
    let query = log_query(asked, Timestamp::now())?;
    let mut lines = api
        .logs
        .read(id.as_str(), query)
        .await
        .map_err(ApiError::internal)?;
    if direction == Direction::Desc {
        lines.reverse();
    }
    Ok(Json(json!({ "logs": lines })))
}

fn log_query(asked: LogsQuery, now: Timestamp) -> Result<LogQuery, ApiError> {
    let bad = |text: String| ApiError::bad_request(text);
    // A line written in this very millisecond belongs to "until now".
    let end = asked
        .end_epoch_millis
        .unwrap_or(now.as_millisecond().saturating_add(1));
    let start = asked
        .start_epoch_millis
        .unwrap_or(end.saturating_sub(DEFAULT_LOG_WINDOW_MS));
    if start >= end || end.saturating_sub(start) > MAX_LOG_WINDOW_MS {
        return Err(bad(format!(
            "start_epoch_millis {start} to end_epoch_millis {end}: wanted a window of 1 to {MAX_LOG_WINDOW_MS} ms"
        )));
    }
    let limit = asked.limit.unwrap_or(DEFAULT_LOG_LINES);
    if !(1..=MAX_LINES).contains(&limit) {
        return Err(bad(format!(
            "limit: found {limit}, wanted 1 to {MAX_LINES}"
        )));
    }
    if let Some(level) = &asked.min_level
        && !["DEBUG", "INFO", "WARNING", "ERROR"].contains(&level.as_str())
    {
        return Err(bad("min_level: wanted DEBUG, INFO, WARNING or ERROR".into()));
    }
    let timestamp = |ms: i64| {
        Timestamp::from_millisecond(ms)
            .map_err(|_| bad(format!("{ms} is no time in milliseconds since 1970")))
    };
    Ok(LogQuery {
        start: timestamp(start)?,
        end: timestamp(end)?,
        min_level: asked.min_level,
        replica: asked.replica,
        request_id: asked.request_id,
        contains: asked.includes,
        limit,
    })
}

/// A deployment by its id, or `production` or `development`.
fn find<'v>(view: &'v ModelView, text: &str) -> Result<&'v Deployment, ApiError> {
    let target = match text {
        "production" => Target::Environment(text),
        "development" => Target::Development,
        id => Target::Deployment(id),
    };
    view.find(target)
        .map_err(|e| ApiError::not_found(e.to_string()))
}

/// A deployment as the API shows it.
pub(super) fn json(api: &Api, view: &ModelView, deployment: &Deployment) -> Value {
    let replicas = api.serving.replicas(view.model.id, deployment.id);
    let environment = view
        .environment_of(deployment.id)
        .map(|environment| environment.name.as_str());
    json!({
        "id": deployment.id,
        "created_at": deployment.created_at,
        "name": deployment.name,
        "model_id": deployment.model_id,
        "is_production": environment == Some("production"),
        "is_development": deployment.kind == DeploymentKind::Development,
        "status": shown_status(deployment.status, replicas),
        "status_reason": deployment.status_reason,
        "active_replica_count": replicas,
        "autoscaling_settings": deployment.bundle.autoscaling,
        "instance_type_name": "cpu",
        "environment": environment,
        "labels": deployment.labels,
        "bundle_digest": deployment.bundle_digest,
    })
}

/// What is stored says that it may run; whether it does is seen from its replicas.
fn shown_status(stored: DeploymentStatus, replicas: usize) -> DeploymentStatus {
    match stored {
        DeploymentStatus::Active if replicas == 0 => DeploymentStatus::ScaledToZero,
        // The node stopped between storing a deployment and noting that it is ready; it was rehearsed before.
        DeploymentStatus::Building if replicas > 0 => DeploymentStatus::Active,
        DeploymentStatus::Building => DeploymentStatus::ScaledToZero,
        other => other,
    }
}

impl From<crate::registry::RegistryError> for ApiError {
    fn from(error: crate::registry::RegistryError) -> Self {
        use crate::registry::RegistryError as E;
        let text = error.to_string();
        match error {
            E::NoModel { .. } | E::NoDeployment { .. } | E::NoEnvironment { .. } => {
                Self::not_found(text)
            }
            E::LastAdminKey { .. } => Self::conflict("last_admin_key", text),
            E::EnvironmentTaken { .. } | E::InUse { .. } => Self::conflict("in_use", text),
            E::Invalid(_) => Self::bad_request(text),
            E::TooMany { .. } => Self::conflict("too_many", text),
            E::Contended => Self::conflict("conflict", text),
            E::Unreadable { .. } | E::Vault(_) => Self::internal(text),
            E::Store(_) => {
                tracing::error!(error = text, "the store failed");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", text)
            }
        }
    }
}

impl From<crate::domain::settings::InvalidSetting> for ApiError {
    fn from(error: crate::domain::settings::InvalidSetting) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<crate::state::blobs::BlobError> for ApiError {
    fn from(error: crate::state::blobs::BlobError) -> Self {
        use crate::state::blobs::BlobError as E;
        let text = error.to_string();
        match error {
            E::NotFound { .. } => Self::not_found(text),
            E::WrongDigest { .. } => Self::new(StatusCode::BAD_REQUEST, "wrong_digest", text),
            E::WrongSize { .. } => Self::bad_request(text),
            E::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", text)
            }
            _ => {
                tracing::error!(error = text, "blobs failed");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", text)
            }
        }
    }
}

impl From<crate::control::secrets::SecretsError> for ApiError {
    fn from(error: crate::control::secrets::SecretsError) -> Self {
        use crate::control::secrets::SecretsError as E;
        let text = error.to_string();
        match error {
            E::Missing { names } => {
                Self::conflict("missing_secrets", text).with_detail(json!({ "missing": names }))
            }
            E::Registry(cause) => cause.into(),
        }
    }
}

impl From<crate::control::serving::ServeError> for ApiError {
    fn from(error: crate::control::serving::ServeError) -> Self {
        use crate::control::serving::ServeError as E;
        let text = error.to_string();
        match error {
            E::Blob(blob) => blob.into(),
            E::Files { .. } => Self::internal(text),
            E::Secrets(cause) => cause.into(),
            E::Component(ref cause)
                if matches!(**cause, samovar_runtime::ArtifactError::Refused(_)) =>
            {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "component_refused", text)
            }
            E::Component(_) => Self::internal(text),
            E::Graph { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "graph_refused", text),
            E::Start(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "model_not_ready", text),
        }
    }
}
