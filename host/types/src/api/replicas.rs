//! The replicas of a deployment.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;

/// The replicas of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListReplicasResponse {
    /// The oldest first.
    pub replicas: Vec<ReplicaResponse>,
}

/// A replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Replica))]
pub struct ReplicaResponse {
    /// Its id, as in logs.
    pub id: String,
    /// What it does.
    #[cfg_attr(feature = "openapi", schema(value_type = ReplicaStatus))]
    pub state: Reported<ReplicaStatus>,
    /// When it began to start.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    /// How many seconds ago that was.
    pub age_seconds: f64,
    /// Requests that it was given.
    pub requests_served: u64,
}

/// What a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ReplicaState))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReplicaStatus {
    /// It is made, and runs its `init`.
    Starting,
    /// It waits for a request.
    Idle,
    /// It serves one.
    Busy,
    /// It was told to stop, and serves its last one.
    Stopping,
}

/// A replica that was told to stop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TerminateReplicaResponse {
    /// Always true.
    pub success: bool,
    /// Whether it finishes a request, or its start, before it goes.
    pub finishes_first: bool,
}
