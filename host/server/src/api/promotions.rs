//! Promotions: begun, called off, halted, taken up again, forced.

use jiff::Timestamp;
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::promotions::{
    CancelPromotionResponse, ControlPromotionResponse, PromoteRequest, PromoteToProductionRequest,
};
use samovar_types::id::DeploymentId;
use samovar_types::names::PRODUCTION;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::deployments::find;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::permission::{Action, Needs as _};
use super::shapes::deployment_response;
use crate::domain::changes::Promote;
use crate::domain::model::ModelView;
use crate::random::random_id;

/// The routes.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(promote_to).needs(Action::Manage))
        .routes(routes!(promote).needs(Action::Manage))
        .routes(routes!(cancel).needs(Action::Manage))
        .routes(routes!(pause).needs(Action::Manage))
        .routes(routes!(resume).needs(Action::Manage))
        .routes(routes!(force_cancel).needs(Action::Manage))
        .routes(routes!(force_roll_forward).needs(Action::Manage))
}

/// Begin to move an environment to a deployment.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/promote",
    params(("model" = String, Path), ("environment" = String, Path)),
    request_body = PromoteRequest, responses((status = 200, body = DeploymentResponse))
)]
async fn promote_to(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
    Json(request): Json<PromoteRequest>,
) -> Result<Json<DeploymentResponse>, ApiError> {
    let _ = request.preserve_env_instance_type;
    if request.environment_settings_update.is_some()
        || request.promotion_settings_override.is_some()
    {
        return Err(overrides());
    }
    let how = how(request.scale_down_previous_deployment);
    api.promote(&model, &environment, request.deployment_id, how)
        .await
}

/// Begin to move production to a deployment.
#[utoipa::path(
    post, path = "/v1/models/{model}/deployments/{deployment}/promote",
    params(("model" = String, Path), ("deployment" = String, Path)),
    request_body = PromoteToProductionRequest, responses((status = 200, body = DeploymentResponse))
)]
async fn promote(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    Json(request): Json<PromoteToProductionRequest>,
) -> Result<Json<DeploymentResponse>, ApiError> {
    let _ = request.preserve_env_instance_type;
    if request.environment_settings_update.is_some()
        || request.promotion_settings_override.is_some()
    {
        return Err(overrides());
    }
    let id = find(&api.registry.model(&model).await?, &deployment)?.id;
    let how = how(request.scale_down_previous_production);
    api.promote(&model, PRODUCTION, id, how).await
}

fn how(scale_down_previous: bool) -> Promote {
    if scale_down_previous {
        Promote::AsSet
    } else {
        Promote::KeepPrevious
    }
}

fn overrides() -> ApiError {
    ApiError::bad_request(
        "environment_settings_update and promotion_settings_override: wanted null; change the environment first",
    )
}

impl Api {
    async fn promote(
        &self,
        model: &str,
        environment: &str,
        deployment: DeploymentId,
        how: Promote,
    ) -> Result<Json<DeploymentResponse>, ApiError> {
        let (fresh, now) = (random_id(), Timestamp::now());
        let promote = |view: &mut ModelView| view.promote(environment, deployment, how, fresh, now);
        let (view, id) = self.change_model(model, promote).await?;
        let deployment = view.deployment(id)?;
        Ok(Json(deployment_response(self, &view, deployment)))
    }
}

/// Call a promotion off: all traffic goes back at once.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/cancel_promotion",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = CancelPromotionResponse))
)]
async fn cancel(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<CancelPromotionResponse>, ApiError> {
    let now = Timestamp::now();
    api.change_model(&model, |view| view.cancel_promotion(&environment, now))
        .await?;
    Ok(Json(CancelPromotionResponse {
        status: "CANCELED".to_owned(),
        message: "all traffic goes to the deployment that was there".to_owned(),
    }))
}

/// Halt a canary where it is.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/pause_promotion",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = ControlPromotionResponse))
)]
async fn pause(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<ControlPromotionResponse>, ApiError> {
    let now = Timestamp::now();
    api.change_model(&model, |view| view.pause_promotion(&environment, now))
        .await?;
    Ok(Json(ControlPromotionResponse { success: true }))
}

/// Go on with a canary where it was halted.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/resume_promotion",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = ControlPromotionResponse))
)]
async fn resume(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<ControlPromotionResponse>, ApiError> {
    let now = Timestamp::now();
    api.change_model(&model, |view| view.resume_promotion(&environment, now))
        .await?;
    Ok(Json(ControlPromotionResponse { success: true }))
}

/// Call a promotion off at once; the same as cancelling.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/force_cancel_promotion",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = ControlPromotionResponse))
)]
async fn force_cancel(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<ControlPromotionResponse>, ApiError> {
    let now = Timestamp::now();
    api.change_model(&model, |view| {
        view.force_cancel_promotion(&environment, now)
    })
    .await?;
    Ok(Json(ControlPromotionResponse { success: true }))
}

/// Finish a promotion at once.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/force_roll_forward_promotion",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = ControlPromotionResponse))
)]
async fn force_roll_forward(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<ControlPromotionResponse>, ApiError> {
    let now = Timestamp::now();
    api.change_model(&model, |view| {
        view.force_promotion_forward(&environment, now)
    })
    .await?;
    Ok(Json(ControlPromotionResponse { success: true }))
}
