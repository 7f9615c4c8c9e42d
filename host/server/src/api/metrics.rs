//! What is counted, for Prometheus.

use axum::Extension;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::State;
use super::permission::{Action, Needs as _};
use crate::control::access::Caller;
use crate::telemetry::metrics;

/// The route.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new().routes(routes!(node_metrics).needs(Action::ExportMetrics))
}

/// Show what this node counted since its start, in the text format of OpenMetrics. A key that is limited to some models reads
/// theirs alone, and nothing of the engines.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"))
)]
async fn node_metrics(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let mut measured = api.serving.measured();
    measured.retain(|one| caller.may_read_metrics_of(one.model_id));
    let engines = match caller.may_read_metrics_of_node() {
        true => api.serving.measured_engines(),
        false => None,
    };
    let text = metrics::text(measured, engines).map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
