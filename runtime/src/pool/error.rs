//! Why a request got no answer, and how that counts.

use std::time::Duration;

use crate::meter::Outcome;
use crate::pool::circuit_breaker::state::Trouble;
use crate::pool::replica::StartError;
use crate::request::failure::GuestFailure;

/// Why a request got no answer from the guest.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Too many requests wait already.
    #[error("all {max_replica} replicas are busy and {max_queued_requests} requests wait already")]
    QueueFull {
        /// The deployment's cap.
        max_replica: usize,
        /// The length of the queue.
        max_queued_requests: usize,
    },
    /// No replica came free in time.
    #[error("no replica came free within {timeout:?}")]
    QueueTimeout {
        /// The deployment's request timeout.
        timeout: Duration,
    },
    /// The deployment is being deactivated, deleted or drained.
    #[error("the deployment takes no more requests")]
    Closed,
    /// No replica could be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It failed too often in a row, and rests until it is tried again.
    #[error("the deployment is unhealthy: {}", .0.reason)]
    Unhealthy(Trouble),
    /// The guest did not finish in time and was stopped.
    #[error("the model did not answer within {timeout:?}")]
    Timeout {
        /// The deployment's request timeout.
        timeout: Duration,
    },
    /// The request body was longer than the deployment takes.
    #[error("the request body is longer than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The deployment's limit.
        limit_bytes: u64,
    },
    /// The guest failed.
    #[error(transparent)]
    Guest(#[from] GuestFailure),
    /// A bug of ours, in words.
    #[error("the host failed: {0}")]
    Host(String),
}

impl RunError {
    /// What it counts as.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::QueueFull { .. } => Outcome::Rejected,
            Self::QueueTimeout { .. } => Outcome::QueueTimeout,
            Self::Closed => Outcome::Closed,
            Self::Start(_) | Self::Unhealthy(_) => Outcome::StartFailed,
            Self::Timeout { .. } => Outcome::Timeout,
            Self::BodyTooLarge { .. } => Outcome::TooLarge,
            Self::Guest(_) => Outcome::Trapped,
            Self::Host(_) => Outcome::HostFailed,
        }
    }
}
