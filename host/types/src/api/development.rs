//! The reload of a development deployment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::deployments::DeploymentResponse;
use super::reported::Reported;
use crate::bundle::Bundle;

/// A reload. The bundle's blobs have to be on the server already.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// What is to run from now on.
    #[serde(deserialize_with = "crate::strict::deserialize")]
    pub bundle: Bundle,
    /// What the pusher notes; left out or null, the labels stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Whether a reload swapped the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReloadStatus {
    /// Requests reach the new bundle.
    Reloaded,
    /// The bundle is the one that served already.
    Unchanged,
}

/// How a reload went.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReloadResponse {
    /// Whether the bundle was swapped.
    #[cfg_attr(feature = "openapi", schema(value_type = ReloadStatus))]
    pub status: Reported<ReloadStatus>,
    /// The development deployment as it is now.
    pub deployment: DeploymentResponse,
    /// Where the time went.
    pub timings: ReloadTimings,
}

/// Where the time of a reload went, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReloadTimings {
    /// Checking and compiling the component; next to nothing when it was compiled before.
    pub compile_ms: f64,
    /// Loading its graphs.
    pub graphs_ms: f64,
    /// Starting its first replica, `init` included.
    pub start_ms: f64,
    /// Storing the change and letting requests in.
    pub switch_ms: f64,
}
