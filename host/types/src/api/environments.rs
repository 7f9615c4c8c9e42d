//! Environments: shown, made, changed, deleted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::deployments::UpdateStatus;
use super::deployments::{BackpressureSettings, BackpressureUpdate, DeploymentResponse};
use super::identity::InstanceType;
use super::promotions::PromotionResponse;
use super::reported::Reported;
use crate::id::Id;
use crate::origins::Origin;
use crate::promotion_settings::{PromotionSettings, PromotionSettingsUpdate};
use crate::settings::{AutoscalingSettings, AutoscalingUpdate};

/// An environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Environment))]
pub struct EnvironmentResponse {
    /// Name of the environment.
    pub name: String,
    /// When the environment was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// The model that the environment belongs to.
    pub model_id: Id,
    /// The deployment that its requests go to.
    pub current_deployment: Option<DeploymentResponse>,
    /// The deployment that is moving in.
    pub candidate_deployment: Option<DeploymentResponse>,
    /// The deployment that was there before, for going back.
    pub previous_deployment_id: Option<Id>,
    /// The move that goes on.
    pub in_progress_promotion: Option<PromotionResponse>,
    /// The move that ended last.
    pub last_promotion: Option<PromotionResponse>,
    /// What a deployment takes on that moves in.
    pub autoscaling_settings: AutoscalingSettings,
    /// How it moves to another deployment.
    #[cfg_attr(feature = "openapi", schema(value_type = PromotionSettings))]
    pub promotion_settings: Reported<PromotionSettings, Value>,
    /// What happens to requests that find every replica busy.
    pub request_backpressure_settings: BackpressureSettings,
    /// The web pages that may call it from a browser.
    pub cors_settings: CorsSettings,
    /// What its deployment runs on.
    pub instance_type: InstanceType,
}

/// The web pages that may call an environment from a browser, beside those of `serve --allow-origin`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CorsSettings {
    /// Their origins; `*` for any page.
    pub allowed_origins: Vec<Origin>,
}

/// Which web pages may call an environment; what is left out or null stays.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CorsUpdate {
    /// All of their origins: `https://app.example`, or `*` for any page.
    #[cfg_attr(feature = "openapi", schema(max_items = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_origins: Option<Vec<Origin>>,
}

/// All environments of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListEnvironmentsResponse {
    /// Ordered by name.
    pub environments: Vec<EnvironmentResponse>,
}

/// A new environment.
#[derive(Clone, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironmentRequest {
    /// Name of the environment.
    pub name: String,
    /// How many replicas its deployment keeps; the defaults, or what the first one brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling_settings: Option<AutoscalingUpdate>,
    /// How it moves to another deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_settings: Option<PromotionSettingsUpdate>,
    /// What happens to requests that find every replica busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_backpressure_settings: Option<BackpressureUpdate>,
    /// The web pages that may call it from a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors_settings: Option<CorsUpdate>,
}

/// What changes of an environment; what is left out or null stays.
#[derive(Clone, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateEnvironmentRequest {
    /// How many replicas its deployment keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling_settings: Option<AutoscalingUpdate>,
    /// How it moves to another deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_settings: Option<PromotionSettingsUpdate>,
    /// What happens to requests that find every replica busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_backpressure_settings: Option<BackpressureUpdate>,
    /// The web pages that may call it from a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors_settings: Option<CorsUpdate>,
    /// Taken for compatibility; anything but null is refused.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling_schedule_settings: Option<Value>,
    /// Taken for compatibility; anything but null is refused.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_routing_settings: Option<Value>,
}

/// What changing an environment did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateEnvironmentResponse {
    /// The environment as it is now.
    pub environment: EnvironmentResponse,
    /// Whether anything is other than before.
    #[cfg_attr(feature = "openapi", schema(value_type = UpdateStatus))]
    pub status: Reported<UpdateStatus>,
    /// The same in words.
    pub message: String,
}

/// An environment that is deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteEnvironmentResponse {
    /// Name of the environment.
    pub name: String,
    /// The model that the environment belongs to.
    pub model_id: Id,
    /// Always true.
    pub deleted: bool,
}
