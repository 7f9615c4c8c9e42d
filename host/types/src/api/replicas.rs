//! The replicas of a deployment.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;

/// The replicas of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListReplicasResponse {
    /// The replicas, oldest first.
    pub replicas: Vec<ReplicaResponse>,
}

/// A replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Replica))]
pub struct ReplicaResponse {
    /// Id of the replica, as in logs.
    pub id: String,
    /// State of the replica.
    #[cfg_attr(feature = "openapi", schema(value_type = ReplicaStatus))]
    pub state: Reported<ReplicaStatus>,
    /// When the replica began to start.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    /// Age of the replica in seconds.
    pub age_seconds: f64,
    /// Number of requests that it was given.
    pub requests_served: u64,
}

/// State of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ReplicaState))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReplicaStatus {
    /// The replica is created and runs its `init`.
    Starting,
    /// It waits for a request.
    Idle,
    /// It serves a request.
    Busy,
    /// It serves its last request and then stops.
    Stopping,
}

/// A replica that is stopping or has stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TerminateReplicaResponse {
    /// Always true.
    pub success: bool,
    /// Whether it first finishes a request or its start.
    pub finishes_first: bool,
}
