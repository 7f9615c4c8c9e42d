//! Environments: list, create, show, change, delete.

use jiff::Timestamp;
use samovar_types::api::deployments::{
    BackpressureSettings, SwitchResponse, UpdateSettingsResponse,
};
use samovar_types::api::environments::{
    CorsSettings, CreateEnvironmentRequest, DeleteEnvironmentResponse, EnvironmentResponse,
    ListEnvironmentsResponse, UpdateEnvironmentRequest, UpdateEnvironmentResponse,
};
use samovar_types::api::identity::InstanceType;
use samovar_types::id::DeploymentId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::permission::{Action, Needs as _};
use super::promotion_shape::promotion_response;
use super::shapes::deployment_response;
use crate::domain::changes::{EnvironmentUpdate, Refusal};
use crate::domain::environment::Environment;
use crate::domain::model::ModelView;
use crate::registry::Changed;

/// The routes.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create).needs(Action::Manage))
        .routes(routes!(show, update, delete).needs(Action::Manage))
        .routes(routes!(activate).needs(Action::Manage))
        .routes(routes!(deactivate).needs(Action::Manage))
}

/// The processor of this node.
fn cpu() -> InstanceType {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    InstanceType {
        id: "cpu".to_owned(),
        name: "cpu".to_owned(),
        memory_limit_mib: *samovar_types::settings::Limits::MEMORY_BYTES.end() >> 20,
        millicpu_limit: cores as u64 * 1000,
        gpu_count: 0,
        gpu_type: None,
        gpu_memory_limit_mib: None,
    }
}

/// An environment as it is now.
fn environment_response(
    api: &Api,
    view: &ModelView,
    environment: &Environment,
) -> EnvironmentResponse {
    let now = Timestamp::now();
    let shown = |id: Option<DeploymentId>| {
        let deployment = view.deployments.get(&id?)?;
        Some(deployment_response(api, view, deployment))
    };
    let current = environment
        .current_deployment_id
        .and_then(|id| view.deployments.get(&id));
    let autoscaling = environment.autoscaling_settings.clone();
    let (going, ended) = match &environment.promotion {
        Some(promotion) if promotion.status.is_in_progress() => (Some(promotion), None),
        ended => (None, ended.as_ref()),
    };
    let promotion = |promotion| promotion_response(api, environment, promotion, now);
    EnvironmentResponse {
        name: environment.name.clone(),
        created_at: environment.created_at,
        model_id: environment.model_id,
        current_deployment: shown(environment.current_deployment_id),
        candidate_deployment: shown(environment.candidate_deployment_id()),
        previous_deployment_id: environment.previous_deployment_id,
        in_progress_promotion: going.map(promotion),
        last_promotion: ended.map(promotion),
        autoscaling_settings: autoscaling
            .or_else(|| current.map(|deployment| deployment.autoscaling()))
            .unwrap_or_default(),
        promotion_settings: environment.promotion_settings.clone().into(),
        request_backpressure_settings: BackpressureSettings {
            policy: environment.backpressure.into(),
        },
        cors_settings: CorsSettings {
            allowed_origins: environment.allowed_origins.clone(),
        },
        instance_type: cpu(),
    }
}

/// List the environments of a model.
#[utoipa::path(
    get, path = "/v1/models/{model}/environments", params(("model" = String, Path)),
    responses((status = 200, body = ListEnvironmentsResponse))
)]
async fn list(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<ListEnvironmentsResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let environments = view.environments.values();
    let environments = environments
        .map(|one| environment_response(&api, &view, one))
        .collect();
    Ok(Json(ListEnvironmentsResponse { environments }))
}

/// Create an environment that points at nothing yet.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments", params(("model" = String, Path)),
    request_body = CreateEnvironmentRequest, responses((status = 200, body = EnvironmentResponse))
)]
async fn create(
    State(api): State<Api>,
    Path(model): Path<String>,
    Json(new): Json<CreateEnvironmentRequest>,
) -> Result<Json<EnvironmentResponse>, ApiError> {
    let settings = EnvironmentUpdate {
        autoscaling: new.autoscaling_settings.as_ref(),
        promotion: new.promotion_settings.as_ref(),
        backpressure: new
            .request_backpressure_settings
            .as_ref()
            .and_then(|one| one.policy),
        allowed_origins: new
            .cors_settings
            .as_ref()
            .and_then(|one| one.allowed_origins.as_deref()),
    };
    let now = Timestamp::now();
    let (view, ()) = api
        .change_model(&model, |view| {
            view.create_environment(&new.name, settings, now)
        })
        .await?;
    Ok(Json(environment_response(
        &api,
        &view,
        view.environment(&new.name)?,
    )))
}

/// Show an environment.
#[utoipa::path(
    get, path = "/v1/models/{model}/environments/{environment}",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = EnvironmentResponse))
)]
async fn show(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<EnvironmentResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    Ok(Json(environment_response(
        &api,
        &view,
        view.environment(&environment)?,
    )))
}

/// Change the settings of an environment. They hold at once, for the deployments that it points at too.
#[utoipa::path(
    patch, path = "/v1/models/{model}/environments/{environment}",
    params(("model" = String, Path), ("environment" = String, Path)),
    request_body = UpdateEnvironmentRequest, responses((status = 200, body = UpdateEnvironmentResponse))
)]
async fn update(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
    Json(patch): Json<UpdateEnvironmentRequest>,
) -> Result<Json<UpdateEnvironmentResponse>, ApiError> {
    if patch.autoscaling_schedule_settings.is_some() || patch.traffic_routing_settings.is_some() {
        return Err(ApiError::bad_request(
            "autoscaling_schedule_settings and traffic_routing_settings: wanted null, this server has neither",
        ));
    }
    let settings = EnvironmentUpdate {
        autoscaling: patch.autoscaling_settings.as_ref(),
        promotion: patch.promotion_settings.as_ref(),
        backpressure: patch
            .request_backpressure_settings
            .as_ref()
            .and_then(|one| one.policy),
        allowed_origins: patch
            .cors_settings
            .as_ref()
            .and_then(|one| one.allowed_origins.as_deref()),
    };
    let (view, done) = api
        .change_model(&model, |view| {
            view.update_environment(&environment, settings)
        })
        .await?;
    let UpdateSettingsResponse { status, message } = done.into();
    Ok(Json(UpdateEnvironmentResponse {
        environment: environment_response(&api, &view, view.environment(&environment)?),
        status,
        message,
    }))
}

/// Delete an environment. Its deployments stay.
#[utoipa::path(
    delete, path = "/v1/models/{model}/environments/{environment}",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = DeleteEnvironmentResponse))
)]
async fn delete(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<DeleteEnvironmentResponse>, ApiError> {
    let (view, ()) = api
        .change_model(&model, |view| view.delete_environment(&environment))
        .await?;
    Ok(Json(DeleteEnvironmentResponse {
        name: environment,
        model_id: view.model.id,
        deleted: true,
    }))
}

/// Switch on the deployment that an environment points at.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/activate",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = SwitchResponse))
)]
async fn activate(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<SwitchResponse>, ApiError> {
    let id = api.current(&model, &environment).await?;
    Ok(Json(api.switch_on(&model, id.as_str()).await?))
}

/// Switch off the deployment that an environment points at.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/deactivate",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = SwitchResponse))
)]
async fn deactivate(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<SwitchResponse>, ApiError> {
    let id = api.current(&model, &environment).await?;
    Ok(Json(api.switch_off(&model, id.as_str()).await?))
}

impl Api {
    /// Changes a model, and waits until this node serves it so.
    pub(super) async fn change_model<T: Send>(
        &self,
        model: &str,
        change: impl FnMut(&mut ModelView) -> Result<T, Refusal> + Send,
    ) -> Result<(ModelView, T), ApiError> {
        let Changed { view, value, rev } = self.registry.change(model, change).await?;
        self.reconciler.applied(view.model.id, rev).await?;
        Ok((view, value))
    }

    async fn current(&self, model: &str, environment: &str) -> Result<DeploymentId, ApiError> {
        let view = self.registry.model(model).await?;
        view.environment(environment)?
            .current_deployment_id
            .ok_or_else(|| {
                let text =
                    format!("environment {environment} of model {model} has no deployment yet");
                ApiError::not_found(text)
            })
    }
}
