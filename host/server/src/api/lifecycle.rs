//! The life of a deployment: renamed, switched off and on, retried, its settings and its replicas.

use std::sync::Arc;

use samovar_types::api::deployments::{
    BackpressureSettings, BackpressureUpdate, DeploymentResponse, RetryResponse, SwitchResponse,
    UpdateDeploymentRequest, UpdateSettingsResponse, UpdateStatus,
};
use samovar_types::id::DeploymentId;
use samovar_types::settings::AutoscalingUpdate;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::deployments::find;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::permission::{Action, Needs as _};
use super::shapes::deployment_response;
use crate::domain::changes::{Done, Refusal};
use crate::domain::model::ModelView;

/// The routes.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(update).needs(Action::Manage))
        .routes(routes!(activate).needs(Action::Manage))
        .routes(routes!(deactivate).needs(Action::Manage))
        .routes(routes!(retry).needs(Action::Manage))
        .routes(routes!(autoscaling).needs(Action::Manage))
        .routes(routes!(backpressure).needs(Action::Manage))
}

impl From<Done> for SwitchResponse {
    fn from(done: Done) -> Self {
        Self {
            success: true,
            no_op: done == Done::Unchanged,
        }
    }
}

impl From<Done> for UpdateSettingsResponse {
    fn from(done: Done) -> Self {
        match done {
            Done::Changed => Self {
                status: UpdateStatus::Accepted.into(),
                message: "the settings hold from now on".to_owned(),
            },
            Done::Unchanged => Self {
                status: UpdateStatus::Unchanged.into(),
                message: "the settings were so already".to_owned(),
            },
        }
    }
}

impl Api {
    /// Changes a deployment that is named by id or by `production` or `development`, and waits until this node serves it
    /// so.
    pub(super) async fn change_deployment<T: Send>(
        &self,
        model: &str,
        deployment: &str,
        mut change: impl FnMut(&mut ModelView, DeploymentId) -> Result<T, Refusal> + Send,
    ) -> Result<(ModelView, DeploymentId, T), ApiError> {
        let id = find(&self.registry.model(model).await?, deployment)?.id;
        let (view, value) = self.change_model(model, |view| change(view, id)).await?;
        Ok((view, id, value))
    }

    pub(super) async fn switch_on(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<SwitchResponse, ApiError> {
        let before = self.serving.builds().mark();
        let (view, id, done) = self
            .change_deployment(model, deployment, ModelView::activate)
            .await?;
        // Also waits for a build that another client began: the caller may send requests as soon as this returns.
        if view.deployment(id)?.status.is_unfinished() {
            self.deployments.built(view.model.id, id, before).await?;
        }
        Ok(done.into())
    }

    pub(super) async fn switch_off(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<SwitchResponse, ApiError> {
        let (_, _, done) = self
            .change_deployment(model, deployment, ModelView::deactivate)
            .await?;
        Ok(done.into())
    }
}

/// Rename a deployment.
#[utoipa::path(
    patch, path = "/v1/models/{model}/deployments/{deployment}",
    params(("model" = String, Path), ("deployment" = String, Path)),
    request_body = UpdateDeploymentRequest, responses((status = 200, body = DeploymentResponse))
)]
async fn update(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    Json(update): Json<UpdateDeploymentRequest>,
) -> Result<Json<DeploymentResponse>, ApiError> {
    let rename = |view: &mut ModelView, id| view.rename_deployment(id, &update.name);
    let (view, id, ()) = api.change_deployment(&model, &deployment, rename).await?;
    Ok(Json(deployment_response(&api, &view, view.deployment(id)?)))
}

/// Switch a deployment on again, with the settings that it had.
#[utoipa::path(
    post, path = "/v1/models/{model}/deployments/{deployment}/activate",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = SwitchResponse))
)]
async fn activate(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<SwitchResponse>, ApiError> {
    Ok(Json(api.switch_on(&model, &deployment).await?))
}

/// Switch a deployment off: its address answers 404, running requests finish, its memory is given back.
#[utoipa::path(
    post, path = "/v1/models/{model}/deployments/{deployment}/deactivate",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = SwitchResponse))
)]
async fn deactivate(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<SwitchResponse>, ApiError> {
    Ok(Json(api.switch_off(&model, &deployment).await?))
}

/// Build a deployment once more that failed, or let requests to one again that is unhealthy.
#[utoipa::path(
    post, path = "/v1/models/{model}/deployments/{deployment}/retry",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = RetryResponse))
)]
async fn retry(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<RetryResponse>, ApiError> {
    let before = api.serving.builds().mark();
    let (view, id, done) = api
        .change_deployment(&model, &deployment, ModelView::retry)
        .await?;
    let mut view = Arc::new(view);
    let served = api.serving.served(view.model.id, id);
    let unhealthy = served.filter(|served| served.pool.unavailable().is_some());
    let is_broken = api.serving.observed(view.model.id, id).broken.is_some();
    let retried = done == Done::Changed || unhealthy.is_some() || is_broken;
    if done == Done::Changed {
        view = api.deployments.built(view.model.id, id, before).await?;
    } else if let Some(served) = unhealthy {
        served.pool.reset_circuit_breaker();
    } else if is_broken {
        // It was built, and its files may be back.
        api.reconciler.try_again(view.model.id).await?;
    }
    let reason = "it has not failed: only what could not be built, or is unhealthy, is tried again";
    Ok(Json(RetryResponse {
        retried,
        reason: (!retried).then(|| reason.to_owned()),
        deployment: deployment_response(&api, &view, view.deployment(id)?),
    }))
}

/// Change how many replicas a deployment keeps. It holds at once, and for its environment too.
#[utoipa::path(
    patch, path = "/v1/models/{model}/deployments/{deployment}/autoscaling_settings",
    params(("model" = String, Path), ("deployment" = String, Path)),
    request_body = AutoscalingUpdate, responses((status = 200, body = UpdateSettingsResponse))
)]
async fn autoscaling(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    Json(update): Json<AutoscalingUpdate>,
) -> Result<Json<UpdateSettingsResponse>, ApiError> {
    let change = |view: &mut ModelView, id| view.update_autoscaling(id, &update);
    let (_, _, done) = api.change_deployment(&model, &deployment, change).await?;
    Ok(Json(done.into()))
}

/// Change what happens to requests of a deployment that find every replica busy.
#[utoipa::path(
    patch, path = "/v1/models/{model}/deployments/{deployment}/request_backpressure_settings",
    params(("model" = String, Path), ("deployment" = String, Path)),
    request_body = BackpressureUpdate, responses((status = 200, body = BackpressureSettings))
)]
async fn backpressure(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    Json(update): Json<BackpressureUpdate>,
) -> Result<Json<BackpressureSettings>, ApiError> {
    let change = |view: &mut ModelView, id| match update.policy {
        Some(policy) => view.update_backpressure(id, policy),
        None => Ok(Done::Unchanged),
    };
    let (view, id, _) = api.change_deployment(&model, &deployment, change).await?;
    let policy = view.deployment(id)?.backpressure.into();
    Ok(Json(BackpressureSettings { policy }))
}
