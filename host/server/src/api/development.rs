//! The development deployment: pushed once, then reloaded.

use std::sync::Arc;

use axum::http::StatusCode;
use samovar_types::api::development::{ReloadRequest, ReloadResponse, ReloadStatus, ReloadTimings};
use samovar_types::api::models::{PushRequest, PushResponse};
use samovar_types::error::ErrorCode;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::permission::{Action, Needs as _};
use super::shapes::deployment_response;
use super::shapes::model_response;
use crate::controllers::blob_gc::BlobGcError;
use crate::controllers::dev_reload::{ReloadError, Reloaded};
use crate::domain::changes::{Done, Reload};
use crate::domain::deployment::DeploymentKind;
use crate::registry::{Push, PushTo};

/// The routes.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new().routes(routes!(reload).needs(Action::Manage))
}

fn timings(reloaded: &Reloaded) -> ReloadTimings {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    ReloadTimings {
        compile_ms: ms(reloaded.preflight.compile),
        graphs_ms: ms(reloaded.preflight.graphs),
        start_ms: ms(reloaded.preflight.start),
        switch_ms: ms(reloaded.switch),
    }
}

/// Swap the bundle of the development deployment. It answers when the new code serves; requests that are there finish on
/// the old one. When the new code does not work, the old one goes on serving and nothing of the new one is kept.
#[utoipa::path(
    put, path = "/v1/models/{model}/deployments/development/bundle", params(("model" = String, Path)),
    request_body = ReloadRequest, responses((status = 200, body = ReloadResponse))
)]
async fn reload(
    State(api): State<Api>,
    Path(model): Path<String>,
    Json(request): Json<ReloadRequest>,
) -> Result<Json<ReloadResponse>, ApiError> {
    let reload = Reload {
        bundle: request.bundle,
        labels: request.labels,
    };
    reload.bundle.validate()?;
    let reloaded = api.dev_reload.reload(&model, reload).await?;
    let deployment = reloaded.view.deployment(reloaded.id)?;
    Ok(Json(ReloadResponse {
        status: match reloaded.done {
            Done::Changed => ReloadStatus::Reloaded.into(),
            Done::Unchanged => ReloadStatus::Unchanged.into(),
        },
        deployment: deployment_response(&api, &reloaded.view, deployment),
        timings: timings(&reloaded),
    }))
}

impl Api {
    /// Makes the development deployment of a model, or reloads the one that there is.
    pub(super) async fn push_development(
        &self,
        to: PushTo,
        request: PushRequest,
    ) -> Result<PushResponse, ApiError> {
        let push = Push {
            to,
            bundle: request.bundle,
            kind: DeploymentKind::Development,
            deployment_name: request.deployment_name,
            environment: request.environment,
            labels: request.labels.clone().unwrap_or_default(),
        };
        let pin = self.blob_gc.pin(&push.bundle).await?;
        let (view, id) = match self.build_pushed(push.clone(), pin).await {
            Err(error) if error.code == ErrorCode::DevelopmentExists => {
                let reload = Reload {
                    bundle: push.bundle,
                    labels: request.labels,
                };
                let reloaded = self.dev_reload.reload(push.to.text(), reload).await?;
                (Arc::new(reloaded.view), reloaded.id)
            }
            pushed => pushed?,
        };
        Ok(PushResponse {
            model: model_response(&view),
            deployment: deployment_response(self, &view, view.deployment(id)?),
        })
    }
}

impl From<BlobGcError> for ApiError {
    fn from(error: BlobGcError) -> Self {
        let text = error.to_string();
        match error {
            BlobGcError::Missing { missing } => {
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                Self::conflict(ErrorCode::MissingBlobs, text)
                    .with_detail(json!({ "missing": names }))
            }
            BlobGcError::Blobs(error) => error.into(),
            BlobGcError::Registry(error) => error.into(),
            BlobGcError::Behind { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StoreUnavailable,
                text,
            ),
        }
    }
}

impl From<ReloadError> for ApiError {
    fn from(error: ReloadError) -> Self {
        let text = error.to_string();
        match error {
            ReloadError::NoDevelopment(_) | ReloadError::Deleted => Self::not_found(text),
            ReloadError::Blobs(error) => error.into(),
            ReloadError::Refused { source, .. } => {
                let mut answer = Self::from(source);
                // What is no fault of the bundle is told by the server's log alone.
                if answer.status.is_client_error() {
                    answer.message = text;
                }
                answer
            }
            ReloadError::Registry(error) => error.into(),
            ReloadError::NotApplied(error) => error.into(),
            ReloadError::TooMany => Self::conflict(ErrorCode::ReloadInProgress, text),
        }
    }
}
