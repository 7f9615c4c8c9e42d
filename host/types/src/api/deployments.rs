//! Deployments, and changes of their state and settings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;
use crate::bundle::Isolation;
use crate::deployment::DeploymentStatus;
use crate::digest::Digest;
use crate::id::{DeploymentId, ModelId};
use crate::settings::{AutoscalingSettings, BackpressurePolicy};

/// A deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Deployment))]
pub struct DeploymentResponse {
    /// Id of the deployment.
    pub id: DeploymentId,
    /// When it was pushed.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Name of the deployment.
    pub name: String,
    /// The model that the deployment belongs to.
    pub model_id: ModelId,
    /// Whether production points at it.
    pub is_production: bool,
    /// Whether it is the model's development deployment.
    pub is_development: bool,
    /// State of the deployment.
    #[cfg_attr(feature = "openapi", schema(value_type = DeploymentStatus))]
    pub status: Reported<DeploymentStatus>,
    /// Reason for the state, if something went wrong.
    pub status_reason: Option<String>,
    /// Number of replicas that can serve now.
    pub active_replica_count: usize,
    /// Autoscaling settings.
    pub autoscaling_settings: AutoscalingSettings,
    /// Instance type; the server has only one.
    pub instance_type_name: String,
    /// Name of the environment that points at it; null if none does.
    pub environment: Option<String>,
    /// Labels from the push.
    pub labels: BTreeMap<String, String>,
    /// What to do with requests while every replica is busy.
    pub request_backpressure_settings: BackpressureSettings,
    /// Digest of the bundle.
    pub bundle_digest: Digest,
    /// Which deployments its graphs share a process with, according to its manifest. With `serve --engines per-deployment`, none.
    #[cfg_attr(feature = "openapi", schema(value_type = Isolation))]
    pub isolation: Reported<Isolation>,
    /// The deployment's graphs.
    pub graphs: Vec<DeploymentGraph>,
    /// Whether replicas start from a snapshot. Null if the manifest asks for none, and until this node has tried to take it.
    pub init_snapshot: Option<InitSnapshot>,
}

/// A graph of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentGraph {
    /// Name of the graph in the manifest.
    pub name: String,
    /// `rten` or `onnxruntime`; null until this node has loaded the graph.
    pub backend: Option<String>,
    /// `cpu`, or `cuda:0` and so on; null until this node has loaded the graph.
    pub device: Option<String>,
}

/// Whether replicas start from a snapshot of the memory after `init`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InitSnapshot {
    /// Whether replicas start from the snapshot.
    pub taken: bool,
    /// Why there is no snapshot; each replica then runs `init`.
    pub reason: Option<String>,
}

/// What to do with requests while every replica is busy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackpressureSettings {
    /// Whether requests wait or are refused.
    #[cfg_attr(feature = "openapi", schema(value_type = BackpressurePolicy))]
    pub policy: Reported<BackpressurePolicy>,
}

/// Filters of a list of deployments.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListDeploymentsQuery {
    /// Only deployments with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// All deployments of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListDeploymentsResponse {
    /// The deployments, oldest first.
    pub deployments: Vec<DeploymentResponse>,
}

/// A deleted deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteDeploymentResponse {
    /// Id of the deployment.
    pub id: DeploymentId,
    /// Always true.
    pub deleted: bool,
    /// The model that the deployment belongs to.
    pub model_id: ModelId,
}

/// Changes of a deployment.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateDeploymentRequest {
    /// New name of the deployment.
    pub name: String,
}

/// Result of activating or deactivating a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SwitchResponse {
    /// Always true.
    pub success: bool,
    /// Whether the deployment was already in that state.
    pub no_op: bool,
}

/// Result of a retry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryResponse {
    /// Whether the deployment is built again, or a start is tried at once.
    pub retried: bool,
    /// Why there is nothing to retry.
    pub reason: Option<String>,
    /// The deployment after the change.
    pub deployment: DeploymentResponse,
}

/// Result of waking a deployment; the replica starts in the background.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct WakeResponse {}

/// Whether a change of settings had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UpdateStatus {
    /// The new settings are in effect.
    Accepted,
    /// The settings are unchanged.
    Unchanged,
}

/// Result of a change of settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateSettingsResponse {
    /// Whether the change had an effect.
    #[cfg_attr(feature = "openapi", schema(value_type = UpdateStatus))]
    pub status: Reported<UpdateStatus>,
    /// Description of the result.
    pub message: String,
}

/// Changes of the backpressure settings.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackpressureUpdate {
    /// The new policy; if it is left out or null, the policy does not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<BackpressurePolicy>,
}
