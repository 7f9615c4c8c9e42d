//! Environments: list, create, show, change, delete.

use jiff::Timestamp;
use samovar_types::id::Id;
use samovar_types::origins::Origin;
use samovar_types::promotion_settings::{PromotionSettings, PromotionSettingsUpdate};
use samovar_types::settings::{AutoscalingSettings, AutoscalingUpdate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::identity::InstanceType;
use super::lifecycle::{BackpressureUpdate, Switched, Updated};
use super::permission::{Action, Needs as _};
use super::promotion_shape::PromotionShape;
use super::shapes::{Backpressure, DeploymentShape};
use crate::domain::changes::{Done, EnvironmentUpdate, Refusal};
use crate::domain::environment::Environment;
use crate::domain::model::ModelView;

/// The routes.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create).needs(Action::Manage))
        .routes(routes!(show, update, delete).needs(Action::Manage))
        .routes(routes!(activate).needs(Action::Manage))
        .routes(routes!(deactivate).needs(Action::Manage))
}

/// An environment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Environment)]
pub struct EnvironmentShape {
    /// Its name.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Its model.
    pub model_id: Id,
    /// The deployment that its requests go to.
    pub current_deployment: Option<DeploymentShape>,
    /// The deployment that is moving in.
    pub candidate_deployment: Option<DeploymentShape>,
    /// The deployment that was there before, for going back.
    pub previous_deployment_id: Option<Id>,
    /// The move that goes on.
    pub in_progress_promotion: Option<PromotionShape>,
    /// The move that ended last.
    pub last_promotion: Option<PromotionShape>,
    /// What a deployment takes on that moves in.
    pub autoscaling_settings: AutoscalingSettings,
    /// How it moves to another deployment.
    pub promotion_settings: PromotionSettings,
    /// What happens to requests that find every replica busy.
    pub request_backpressure_settings: Backpressure,
    /// The web pages that may call it from a browser.
    pub cors_settings: Cors,
    /// What its deployment runs on.
    pub instance_type: InstanceType,
}

/// The web pages that may call an environment from a browser, beside those of `serve --allow-origin`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CorsSettings)]
pub struct Cors {
    /// Their origins; `*` for any page.
    pub allowed_origins: Vec<Origin>,
}

/// Which web pages may call an environment; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsUpdate {
    /// All of their origins: `https://app.example`, or `*` for any page.
    #[schema(max_items = 32)]
    allowed_origins: Option<Vec<Origin>>,
}

/// All environments of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Environments {
    /// Ordered by name.
    pub environments: Vec<EnvironmentShape>,
}

/// A new environment.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnvironment {
    /// Its name.
    name: String,
    /// How many replicas its deployment keeps; the defaults, or what the first one brings.
    autoscaling_settings: Option<AutoscalingUpdate>,
    /// How it moves to another deployment.
    promotion_settings: Option<PromotionSettingsUpdate>,
    /// What happens to requests that find every replica busy.
    request_backpressure_settings: Option<BackpressureUpdate>,
    /// The web pages that may call it from a browser.
    cors_settings: Option<CorsUpdate>,
}

/// What changes of an environment; what is left out or null stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentPatch {
    /// How many replicas its deployment keeps.
    autoscaling_settings: Option<AutoscalingUpdate>,
    /// How it moves to another deployment.
    promotion_settings: Option<PromotionSettingsUpdate>,
    /// What happens to requests that find every replica busy.
    request_backpressure_settings: Option<BackpressureUpdate>,
    /// The web pages that may call it from a browser.
    cors_settings: Option<CorsUpdate>,
    /// Taken for compatibility; anything but null is refused.
    #[schema(value_type = Option<Object>)]
    autoscaling_schedule_settings: Option<serde_json::Value>,
    /// Taken for compatibility; anything but null is refused.
    #[schema(value_type = Option<Object>)]
    traffic_routing_settings: Option<serde_json::Value>,
}

/// What changing an environment did.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnvironmentUpdated {
    /// The environment as it is now.
    pub environment: EnvironmentShape,
    /// ACCEPTED or UNCHANGED.
    pub status: &'static str,
    /// The same in words.
    pub message: &'static str,
}

/// An environment that is deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnvironmentDeleted {
    /// Its name.
    pub name: String,
    /// Its model.
    pub model_id: Id,
    /// Always true.
    pub deleted: bool,
}

impl InstanceType {
    /// The processor of this node.
    pub fn cpu() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            id: "cpu",
            name: "cpu",
            memory_limit_mib: *samovar_types::settings::Limits::MEMORY_BYTES.end() >> 20,
            millicpu_limit: cores as u64 * 1000,
            gpu_count: 0,
            gpu_type: None,
            gpu_memory_limit_mib: None,
        }
    }
}

impl EnvironmentShape {
    /// An environment as it is now.
    pub fn of(api: &Api, view: &ModelView, environment: &Environment) -> Self {
        let now = Timestamp::now();
        let shown = |id: Option<Id>| {
            let deployment = view.deployments.get(&id?)?;
            Some(DeploymentShape::of(api, view, deployment))
        };
        let current = environment
            .current_deployment_id
            .and_then(|id| view.deployments.get(&id));
        let autoscaling = environment.autoscaling_settings.clone();
        let promotion = environment
            .promotion
            .as_ref()
            .map(|promotion| PromotionShape::of(api, environment, promotion, now));
        let (going, ended) = match promotion {
            Some(promotion) if promotion.status.is_in_progress() => (Some(promotion), None),
            ended => (None, ended),
        };
        Self {
            name: environment.name.clone(),
            created_at: environment.created_at,
            model_id: environment.model_id,
            current_deployment: shown(environment.current_deployment_id),
            candidate_deployment: shown(environment.candidate_deployment_id()),
            previous_deployment_id: environment.previous_deployment_id,
            in_progress_promotion: going,
            last_promotion: ended,
            autoscaling_settings: autoscaling
                .or_else(|| current.map(|deployment| deployment.autoscaling()))
                .unwrap_or_default(),
            promotion_settings: environment.promotion_settings.clone(),
            request_backpressure_settings: Backpressure {
                policy: environment.backpressure,
            },
            cors_settings: Cors {
                allowed_origins: environment.allowed_origins.clone(),
            },
            instance_type: InstanceType::cpu(),
        }
    }
}

/// List the environments of a model.
#[utoipa::path(
    get, path = "/v1/models/{model}/environments", params(("model" = String, Path)),
    responses((status = 200, body = Environments))
)]
async fn list(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<Environments>, ApiError> {
    let view = api.registry.model(&model).await?;
    let environments = view.environments.values();
    let environments = environments
        .map(|one| EnvironmentShape::of(&api, &view, one))
        .collect();
    Ok(Json(Environments { environments }))
}

/// Create an environment that points at nothing yet.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments", params(("model" = String, Path)),
    request_body = NewEnvironment, responses((status = 200, body = EnvironmentShape))
)]
async fn create(
    State(api): State<Api>,
    Path(model): Path<String>,
    Json(new): Json<NewEnvironment>,
) -> Result<Json<EnvironmentShape>, ApiError> {
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
    let view = api
        .change_model(&model, |view| {
            view.create_environment(&new.name, settings, now)
        })
        .await?;
    Ok(Json(EnvironmentShape::of(
        &api,
        &view,
        view.environment(&new.name)?,
    )))
}

/// Show an environment.
#[utoipa::path(
    get, path = "/v1/models/{model}/environments/{environment}",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = EnvironmentShape))
)]
async fn show(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<EnvironmentShape>, ApiError> {
    let view = api.registry.model(&model).await?;
    Ok(Json(EnvironmentShape::of(
        &api,
        &view,
        view.environment(&environment)?,
    )))
}

/// Change the settings of an environment. They hold at once, for the deployments that it points at too.
#[utoipa::path(
    patch, path = "/v1/models/{model}/environments/{environment}",
    params(("model" = String, Path), ("environment" = String, Path)),
    request_body = EnvironmentPatch, responses((status = 200, body = EnvironmentUpdated))
)]
async fn update(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
    Json(patch): Json<EnvironmentPatch>,
) -> Result<Json<EnvironmentUpdated>, ApiError> {
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
    let mut done = Done::Unchanged;
    let view = api
        .change_model(&model, |view| {
            done = view.update_environment(&environment, settings)?;
            Ok(())
        })
        .await?;
    let Updated { status, message } = done.into();
    Ok(Json(EnvironmentUpdated {
        environment: EnvironmentShape::of(&api, &view, view.environment(&environment)?),
        status,
        message,
    }))
}

/// Delete an environment. Its deployments stay.
#[utoipa::path(
    delete, path = "/v1/models/{model}/environments/{environment}",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = EnvironmentDeleted))
)]
async fn delete(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<EnvironmentDeleted>, ApiError> {
    let view = api
        .change_model(&model, |view| view.delete_environment(&environment))
        .await?;
    Ok(Json(EnvironmentDeleted {
        name: environment,
        model_id: view.model.id,
        deleted: true,
    }))
}

/// Switch on the deployment that an environment points at.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/activate",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = Switched))
)]
async fn activate(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<Switched>, ApiError> {
    let id = api.current(&model, &environment).await?;
    Ok(Json(api.switch_on(&model, id.as_str()).await?))
}

/// Switch off the deployment that an environment points at.
#[utoipa::path(
    post, path = "/v1/models/{model}/environments/{environment}/deactivate",
    params(("model" = String, Path), ("environment" = String, Path)),
    responses((status = 200, body = Switched))
)]
async fn deactivate(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
) -> Result<Json<Switched>, ApiError> {
    let id = api.current(&model, &environment).await?;
    Ok(Json(api.switch_off(&model, id.as_str()).await?))
}

impl Api {
    /// Changes a model and serves what came of it.
    pub(super) async fn change_model(
        &self,
        model: &str,
        change: impl FnMut(&mut ModelView) -> Result<(), Refusal> + Send,
    ) -> Result<ModelView, ApiError> {
        let view = self.registry.change(model, change).await?.view;
        self.builder.apply(view.clone()).await?;
        Ok(view)
    }

    async fn current(&self, model: &str, environment: &str) -> Result<Id, ApiError> {
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
