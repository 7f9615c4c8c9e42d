//! Deployments: list, show, logs, delete.

use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, Query};
use super::shapes::DeploymentShape;
use crate::domain::deployment::Deployment;
use crate::domain::model::{ModelView, Target};
use crate::ids::Id;
use crate::telemetry::logs::{LogQuery, MAX_LINES, StoredLine};

/// The longest window of one question for logs, in milliseconds: 7 days.
const MAX_LOG_WINDOW_MS: i64 = 7 * 24 * 3600 * 1000;
const DEFAULT_LOG_WINDOW_MS: i64 = 30 * 60 * 1000;
const DEFAULT_LOG_LINES: usize = 500;

/// The routes of deployments.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, delete))
        .routes(routes!(logs))
}

/// All deployments of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deployments {
    /// The oldest first.
    pub deployments: Vec<DeploymentShape>,
}

/// A deployment that is deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentDeleted {
    /// Its id.
    pub id: Id,
    /// Always true.
    pub deleted: bool,
    /// Its model.
    pub model_id: Id,
}

/// Lines of a log.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLines {
    /// In the order that was asked for.
    pub logs: Vec<StoredLine>,
}

/// List the deployments of a model.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments", params(("model" = String, Path)),
    responses((status = 200, body = Deployments))
)]
async fn list(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<Deployments>, ApiError> {
    let view = api.registry.model(&model).await?;
    let mut deployments: Vec<&Deployment> = view.deployments.values().collect();
    deployments.sort_by_key(|deployment| (deployment.created_at, deployment.id));
    let shown = deployments
        .into_iter()
        .map(|deployment| DeploymentShape::of(&api, &view, deployment));
    Ok(Json(Deployments {
        deployments: shown.collect(),
    }))
}

/// Show a deployment, by id or as `production` or `development`.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = DeploymentShape))
)]
async fn show(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<DeploymentShape>, ApiError> {
    let view = api.registry.model(&model).await?;
    let deployment = find(&view, &deployment)?;
    Ok(Json(DeploymentShape::of(&api, &view, deployment)))
}

/// Delete a deployment that is behind no environment.
#[utoipa::path(
    delete, path = "/v1/models/{model}/deployments/{deployment}",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = DeploymentDeleted))
)]
async fn delete(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<DeploymentDeleted>, ApiError> {
    let task = tokio::spawn(async move {
        let view = api.registry.model(&model).await?;
        let id = find(&view, &deployment)?.id;
        let changed = api
            .registry
            .change(&model, |view| view.delete_deployment(id))
            .await?;
        let deleted = changed.value;
        let model_id = deleted.model_id;
        let served = api.serving.served(model_id, id);
        api.builder.apply(changed.view).await?;
        // The requests that are there may still need what it alone has.
        tokio::spawn(async move {
            api.serving.retire(served.into_iter().collect()).await;
            api.serving.clear(id);
            if let Err(error) = api.garbage.collect([&deleted.bundle]).await {
                tracing::warn!(%error, "blobs that nobody names stay until a later start");
            }
        });
        Ok(Json(DeploymentDeleted {
            id,
            deleted: true,
            model_id,
        }))
    });
    task.await.map_err(ApiError::internal)?
}

/// What may be asked of a log.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogsQuery {
    /// From here; 30 minutes before the end without it. The window is 7 days at most.
    start_epoch_millis: Option<i64>,
    /// To here; now without it.
    end_epoch_millis: Option<i64>,
    /// Oldest or newest first.
    #[param(inline)]
    direction: Option<Direction>,
    /// Lines at most, 1 to 1000; 500 without it.
    limit: Option<usize>,
    /// DEBUG, INFO, WARNING or ERROR.
    min_level: Option<String>,
    /// Only of this replica.
    replica: Option<String>,
    /// Only of this request.
    request_id: Option<String>,
    /// Only with this text.
    includes: Option<String>,
}

/// The order of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Asc,
    Desc,
}

/// Read the log of a deployment.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}/logs",
    params(("model" = String, Path), ("deployment" = String, Path), LogsQuery),
    responses((status = 200, body = LogLines))
)]
async fn logs(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    Query(asked): Query<LogsQuery>,
) -> Result<Json<LogLines>, ApiError> {
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
    Ok(Json(LogLines { logs: lines }))
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
pub(super) fn find<'v>(view: &'v ModelView, text: &str) -> Result<&'v Deployment, ApiError> {
    let target = match text {
        "production" => Target::Environment(text),
        "development" => Target::Development,
        id => Target::Deployment(id),
    };
    view.find(target)
        .map_err(|e| ApiError::not_found(e.to_string()))
}
