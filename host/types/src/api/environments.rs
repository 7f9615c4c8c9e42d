//! Environments.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::deployments::UpdateStatus;
use super::deployments::{BackpressureSettings, BackpressureUpdate, DeploymentResponse};
use super::identity::InstanceType;
use super::promotions::PromotionResponse;
use super::reported::Reported;
use crate::id::{DeploymentId, ModelId};
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
    /// When the environment was created.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// The model that the environment belongs to.
    pub model_id: ModelId,
    /// The deployment that its requests go to; null if there is none.
    pub current_deployment: Option<DeploymentResponse>,
    /// The deployment that is being promoted; null if there is none.
    pub candidate_deployment: Option<DeploymentResponse>,
    /// The previous deployment, for a rollback.
    pub previous_deployment_id: Option<DeploymentId>,
    /// The running promotion.
    pub in_progress_promotion: Option<PromotionResponse>,
    /// The promotion that ended last.
    pub last_promotion: Option<PromotionResponse>,
    /// Autoscaling settings for the deployments of this environment.
    pub autoscaling_settings: AutoscalingSettings,
    /// Settings of promotions.
    #[cfg_attr(feature = "openapi", schema(value_type = PromotionSettings))]
    pub promotion_settings: Reported<PromotionSettings, Value>,
    /// What to do with requests while every replica is busy.
    pub request_backpressure_settings: BackpressureSettings,
    /// Web pages that may call the environment from a browser.
    pub cors_settings: CorsSettings,
    /// Instance type; the server has only one.
    pub instance_type: InstanceType,
}

/// Web pages that may call an environment from a browser, in addition to those of `serve --allow-origin`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CorsSettings {
    /// Origins of the pages; `*` for any page.
    pub allowed_origins: Vec<Origin>,
}

/// Changes of the web pages that may call an environment; fields that are left out or null do not change.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CorsUpdate {
    /// The new list of origins: `https://app.example`, or `*` for any page.
    #[cfg_attr(feature = "openapi", schema(max_items = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_origins: Option<Vec<Origin>>,
}

/// All environments of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListEnvironmentsResponse {
    /// The environments, ordered by name.
    pub environments: Vec<EnvironmentResponse>,
}

/// A new environment.
#[derive(Clone, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironmentRequest {
    /// Name of the environment.
    pub name: String,
    /// Autoscaling settings; by default, those of the first deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling_settings: Option<AutoscalingUpdate>,
    /// Settings of promotions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_settings: Option<PromotionSettingsUpdate>,
    /// What to do with requests while every replica is busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_backpressure_settings: Option<BackpressureUpdate>,
    /// Web pages that may call the environment from a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors_settings: Option<CorsUpdate>,
}

/// Changes of an environment; fields that are left out or null do not change.
#[derive(Clone, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateEnvironmentRequest {
    /// Autoscaling settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling_settings: Option<AutoscalingUpdate>,
    /// Settings of promotions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_settings: Option<PromotionSettingsUpdate>,
    /// What to do with requests while every replica is busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_backpressure_settings: Option<BackpressureUpdate>,
    /// Web pages that may call the environment from a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors_settings: Option<CorsUpdate>,
    /// Accepted for compatibility; must be null.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling_schedule_settings: Option<Value>,
    /// Accepted for compatibility; must be null.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_routing_settings: Option<Value>,
}

/// Result of changing an environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateEnvironmentResponse {
    /// The environment after the change.
    pub environment: EnvironmentResponse,
    /// Whether the change had an effect.
    #[cfg_attr(feature = "openapi", schema(value_type = UpdateStatus))]
    pub status: Reported<UpdateStatus>,
    /// Description of the result.
    pub message: String,
}

/// A deleted environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteEnvironmentResponse {
    /// Name of the environment.
    pub name: String,
    /// The model that the environment belongs to.
    pub model_id: ModelId,
    /// Always true.
    pub deleted: bool,
}
