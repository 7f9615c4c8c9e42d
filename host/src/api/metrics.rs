//! What is counted, for Prometheus.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::State;
use crate::telemetry::metrics;

/// The route.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new().routes(routes!(node_metrics))
}

/// Show what this node counted since its start, in the text format of OpenMetrics.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"))
)]
async fn node_metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    let text = metrics::text(api.serving.measured()).map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
