//! Promotions: how one stands, and how it is begun and controlled.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;
use crate::id::Id;
use crate::promotion::PromotionStatus;

/// A move to another deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Promotion))]
pub struct PromotionResponse {
    /// Where it stands.
    #[cfg_attr(feature = "openapi", schema(value_type = PromotionStatus))]
    pub status: Reported<PromotionStatus>,
    /// Percentage of requests that the candidate gets.
    pub percent_traffic_to_new_version: u32,
    /// Why it failed.
    pub error_message: Option<String>,
    /// The deployment that moves in.
    pub deployment_id: Id,
    /// The deployment that was there.
    pub previous_deployment_id: Option<Id>,
    /// When it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// The stage of ten that it is in.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10))]
    pub stage: Option<u32>,
    /// When this stage began, as if there had been no pause.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub stage_started_at: Option<Timestamp>,
    /// When the next stage begins, or the last one ends.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub next_stage_at: Option<Timestamp>,
    /// When it ended.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub ended_at: Option<Timestamp>,
    /// What this node measured in the stage that it is in; null while traffic is not divided.
    pub analysis: Option<StageAnalysis>,
    /// What became of the copies that this node made; null without shadow requests.
    pub shadow_requests: Option<ShadowRequests>,
    /// Always false.
    pub rolling_deploy: bool,
}

/// What both sides did in a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StageAnalysis {
    /// The deployment that is there.
    pub current: SideAnalysis,
    /// The one that moves in.
    pub candidate: SideAnalysis,
}

/// What a deployment did in a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SideAnalysis {
    /// Requests that were answered, well or not.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Their share; null without requests.
    pub error_rate: Option<f64>,
    /// 95 of 100 requests had the head of their answer sooner; null without requests.
    pub p95_latency_ms: Option<f64>,
}

/// Copies of requests for a candidate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShadowRequests {
    /// Given to it.
    pub sent: u64,
    /// Not made or not given to it: it was busy, or the body was too long or not read.
    pub dropped: u64,
}

/// A promotion to an environment.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// The deployment that is to move in.
    pub deployment_id: Id,
    /// Whether the one that was there is tidied up as the environment's settings say; else it keeps its replicas.
    #[serde(default = "yes")]
    pub scale_down_previous_deployment: bool,
    /// Taken for compatibility: there is one instance type.
    #[serde(default = "yes")]
    pub preserve_env_instance_type: bool,
    /// Taken for compatibility; anything but null is refused.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_settings_update: Option<serde_json::Value>,
    /// Taken for compatibility; anything but null is refused.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promotion_settings_override: Option<serde_json::Value>,
}

impl PromoteRequest {
    /// A promotion that the environment's settings decide on.
    pub fn new(deployment_id: Id) -> Self {
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
    /// Whether the one that was there is tidied up as the environment's settings say; else it keeps its replicas.
    #[serde(default = "yes")]
    pub scale_down_previous_production: bool,
    /// Taken for compatibility: there is one instance type.
    #[serde(default = "yes")]
    pub preserve_env_instance_type: bool,
    /// Taken for compatibility; anything but null is refused.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_settings_update: Option<serde_json::Value>,
    /// Taken for compatibility; anything but null is refused.
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

/// What cancelling did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CancelPromotionResponse {
    /// CANCELED: all traffic is back.
    pub status: String,
    /// The same in words.
    pub message: String,
}

/// What was done to a promotion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ControlPromotionResponse {
    /// Always true.
    pub success: bool,
}

fn yes() -> bool {
    true
}
