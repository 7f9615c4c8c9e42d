//! Promotions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;
use crate::id::DeploymentId;
use crate::promotion::PromotionStatus;

/// A promotion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Promotion))]
pub struct PromotionResponse {
    /// Status of the promotion.
    #[cfg_attr(feature = "openapi", schema(value_type = PromotionStatus))]
    pub status: Reported<PromotionStatus>,
    /// Percentage of requests that the candidate gets.
    pub percent_traffic_to_new_version: u32,
    /// Reason of a failure.
    pub error_message: Option<String>,
    /// The candidate: the deployment that is being promoted.
    pub deployment_id: DeploymentId,
    /// The previous deployment.
    pub previous_deployment_id: Option<DeploymentId>,
    /// When the promotion began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Current stage of a canary, 1 to 10.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10))]
    pub stage: Option<u32>,
    /// When this stage began, moved forward by the length of pauses.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub stage_started_at: Option<Timestamp>,
    /// When the next stage begins, or the last one ends.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub next_stage_at: Option<Timestamp>,
    /// When the promotion ended.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub ended_at: Option<Timestamp>,
    /// This node's measurements in the current stage; null while traffic is not split.
    pub analysis: Option<StageAnalysis>,
    /// Copies of requests that this node made; null without `shadow_percent`.
    pub shadow_requests: Option<ShadowRequests>,
    /// Always false.
    pub rolling_deploy: bool,
}

/// Measurements of both deployments in a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StageAnalysis {
    /// The current deployment.
    pub current: SideAnalysis,
    /// The candidate.
    pub candidate: SideAnalysis,
}

/// Measurements of a deployment in a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SideAnalysis {
    /// Requests that ended, with or without an error.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Share of failed requests; null without requests.
    pub error_rate: Option<f64>,
    /// 95th percentile of the time to the head of the response, in milliseconds; null without requests.
    pub p95_latency_ms: Option<f64>,
}

/// Copies of requests to a candidate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShadowRequests {
    /// Number of copies that were sent.
    pub sent: u64,
    /// Number of requests that were not copied or whose copies were not sent: the candidate was busy, or the body was too long or not read.
    pub dropped: u64,
}

/// A promotion to an environment.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// Id of the deployment to promote.
    pub deployment_id: DeploymentId,
    /// Whether to clean up the previous deployment according to the environment's settings. If false, it keeps its replicas.
    #[serde(default = "yes")]
    pub scale_down_previous_deployment: bool,
    /// Accepted for compatibility: there is only one instance type.
    #[serde(default = "yes")]
    pub preserve_env_instance_type: bool,
    /// Accepted for compatibility; must be null.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_settings_update: Option<serde_json::Value>,
    /// Accepted for compatibility; must be null.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_settings_override: Option<serde_json::Value>,
}

impl PromoteRequest {
    /// A promotion that the environment's settings decide on.
    pub fn new(deployment_id: DeploymentId) -> Self {
        Self {
            deployment_id,
            scale_down_previous_deployment: true,
            preserve_env_instance_type: true,
            environment_settings_update: None,
            promotion_settings_override: None,
        }
    }
}

/// A promotion to production.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PromoteToProductionRequest {
    /// Whether to clean up the previous deployment according to the environment's settings. If false, it keeps its replicas.
    #[serde(default = "yes")]
    pub scale_down_previous_production: bool,
    /// Accepted for compatibility: there is only one instance type.
    #[serde(default = "yes")]
    pub preserve_env_instance_type: bool,
    /// Accepted for compatibility; must be null.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_settings_update: Option<serde_json::Value>,
    /// Accepted for compatibility; must be null.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_settings_override: Option<serde_json::Value>,
}

impl Default for PromoteToProductionRequest {
    fn default() -> Self {
        Self {
            scale_down_previous_production: true,
            preserve_env_instance_type: true,
            environment_settings_update: None,
            promotion_settings_override: None,
        }
    }
}

/// Result of canceling a promotion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CancelPromotionResponse {
    /// CANCELED: all traffic is back.
    pub status: String,
    /// Description of the result.
    pub message: String,
}

/// Result of controlling a promotion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ControlPromotionResponse {
    /// Always true.
    pub success: bool,
}

fn yes() -> bool {
    true
}
