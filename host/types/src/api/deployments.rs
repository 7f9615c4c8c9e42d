//! Deployments: what is shown of them, and changes of their life and settings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;
use crate::bundle::Isolation;
use crate::deployment::DeploymentStatus;
use crate::digest::Digest;
use crate::id::Id;
use crate::settings::{AutoscalingSettings, BackpressurePolicy};

/// A deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Deployment))]
pub struct DeploymentResponse {
    /// Id of the deployment.
    pub id: Id,
    /// When it was pushed.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Name of the deployment.
    pub name: String,
    /// The model that the deployment belongs to.
    pub model_id: Id,
    /// Whether it is what production points at.
    pub is_production: bool,
    /// Whether it is the model's development deployment.
    pub is_development: bool,
    /// State of the deployment.
    #[cfg_attr(feature = "openapi", schema(value_type = DeploymentStatus))]
    pub status: Reported<DeploymentStatus>,
    /// Why it is in that state, when something went wrong.
    pub status_reason: Option<String>,
    /// Replicas that can serve now.
    pub active_replica_count: usize,
    /// How many replicas it keeps.
    pub autoscaling_settings: AutoscalingSettings,
    /// What it runs on.
    pub instance_type_name: String,
    /// The environment that points at it.
    pub environment: Option<String>,
    /// What its pusher noted.
    pub labels: BTreeMap<String, String>,
    /// What happens to requests that find every replica busy.
    pub request_backpressure_settings: BackpressureSettings,
    /// The bundle's digest.
    pub bundle_digest: Digest,
    /// With whom its graphs share a process, as its manifest says. `serve --engines per-deployment` separates all.
    #[cfg_attr(feature = "openapi", schema(value_type = Isolation))]
    pub isolation: Reported<Isolation>,
    /// Its graphs.
    pub graphs: Vec<DeploymentGraph>,
    /// What became of the wish to keep the memory after `init`; null without one, and until it was tried on this node.
    pub init_snapshot: Option<InitSnapshot>,
}

/// A graph of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentGraph {
    /// Its name in the manifest.
    pub name: String,
    /// `rten` or `onnxruntime`; null until it was loaded on this node.
    pub backend: Option<String>,
    /// What it runs on: `cpu`, or `cuda:0` and so on; null until it was loaded on this node.
    pub device: Option<String>,
}

/// What became of the wish to keep the memory after `init`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InitSnapshot {
    /// Whether replicas start with it.
    pub taken: bool,
    /// Why not; each replica runs `init` then.
    pub reason: Option<String>,
}

/// What happens to requests that find every replica busy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackpressureSettings {
    /// Whether they wait or are refused.
    #[cfg_attr(feature = "openapi", schema(value_type = BackpressurePolicy))]
    pub policy: Reported<BackpressurePolicy>,
}

/// Which deployments are listed.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListDeploymentsQuery {
    /// Only those of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// All deployments of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListDeploymentsResponse {
    /// The oldest first.
    pub deployments: Vec<DeploymentResponse>,
}

/// A deployment that is deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteDeploymentResponse {
    /// Id of the deployment.
    pub id: Id,
    /// Always true.
    pub deleted: bool,
    /// The model that the deployment belongs to.
    pub model_id: Id,
}

/// What may be changed of a deployment.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateDeploymentRequest {
    /// New name of the deployment.
    pub name: String,
}

/// What switching on or off did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SwitchResponse {
    /// Always true.
    pub success: bool,
    /// Whether it was so already.
    pub no_op: bool,
}

/// What a retry did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryResponse {
    /// Whether the deployment is built again, or tried again at once.
    pub retried: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The deployment as it is now.
    pub deployment: DeploymentResponse,
}

/// What waking a deployment answers: the replica starts in the background.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct WakeResponse {}

/// Whether a change of settings changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UpdateStatus {
    /// The settings hold from now on.
    Accepted,
    /// The settings are the ones that held before.
    Unchanged,
}

/// What a change of settings did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateSettingsResponse {
    /// Whether anything is other than before.
    #[cfg_attr(feature = "openapi", schema(value_type = UpdateStatus))]
    pub status: Reported<UpdateStatus>,
    /// The same in words.
    pub message: String,
}

/// A change of what happens to requests that find every replica busy.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackpressureUpdate {
    /// Left out or null, it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<BackpressurePolicy>,
}
