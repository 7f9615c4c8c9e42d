//! Readiness of a node.

use serde::{Deserialize, Serialize};

use super::reported::Reported;

/// Response of `/readyz`, with status 200 or 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessResponse {
    /// Whether requests should be sent to the node.
    pub ready: bool,
    /// The reasons why the node is not ready; empty if it is.
    pub reasons: Vec<NotReady>,
}

/// A reason not to send requests to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReady {
    /// Code of the reason, for programs.
    pub code: Reported<NotReadyCode>,
    /// Message for people.
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
    /// The node has not read the changes of the store for a while.
    Behind,
    /// The node is stopping.
    Draining,
}
