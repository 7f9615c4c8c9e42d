//! Whether a node is ready for requests.

use serde::{Deserialize, Serialize};

use super::reported::Reported;

/// What `/readyz` answers, with 200 or 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessResponse {
    /// Whether requests should be sent to the node.
    pub ready: bool,
    /// Why not; none when it is ready.
    pub reasons: Vec<NotReady>,
}

/// A reason not to send requests to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReady {
    /// For programs.
    pub code: Reported<NotReadyCode>,
    /// For people.
    pub reason: String,
}

/// Why a node is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotReadyCode {
    /// The models in the store have not been read yet.
    Starting,
    /// The store does not answer.
    StoreUnavailable,
    /// The node is stopping.
    Draining,
}
