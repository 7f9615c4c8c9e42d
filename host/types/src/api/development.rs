//! The reload of a development deployment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::deployments::DeploymentResponse;
use super::reported::Reported;
use crate::bundle::Bundle;

/// A reload. All blobs of the bundle must be on the server.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// The new bundle.
    #[serde(deserialize_with = "crate::strict::deserialize")]
    pub bundle: Bundle,
    /// New labels; if they are left out or null, the labels do not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Whether a reload had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReloadStatus {
    /// Requests reach the new bundle.
    Reloaded,
    /// The deployment already served this bundle.
    Unchanged,
}

/// Result of a reload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReloadResponse {
    /// Whether the reload had an effect.
    #[cfg_attr(feature = "openapi", schema(value_type = ReloadStatus))]
    pub status: Reported<ReloadStatus>,
    /// The development deployment after the reload.
    pub deployment: DeploymentResponse,
    /// Durations of the reload's phases.
    pub timings: ReloadTimings,
}

/// Durations of a reload's phases, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReloadTimings {
    /// Checking and compiling the component; almost nothing if it was compiled before.
    pub compile_ms: f64,
    /// Loading the graphs.
    pub graphs_ms: f64,
    /// Starting the first replica, including `init`.
    pub start_ms: f64,
    /// Storing the change and routing requests to the new bundle.
    pub switch_ms: f64,
}
