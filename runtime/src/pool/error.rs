//! Why a request got no response, and how it is counted.

use std::time::Duration;

use super::circuit_breaker::state::Unavailable;
use super::replica::StartError;
use crate::metrics::Outcome;
use crate::request::failure::GuestFailure;

/// Why a request got no response from the guest.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The queue is full.
    #[error("all {max_replica} replicas are busy and {max_queued_requests} requests wait already")]
    QueueFull {
        /// Most replicas at once.
        max_replica: usize,
        /// Most requests in the queue.
        max_queued_requests: usize,
    },
    /// No replica became free, or was started, before the deadline.
    #[error("no replica came free within {timeout:?}")]
    QueueTimeout {
        /// The deployment's request timeout.
        timeout: Duration,
    },
    /// The pool is closed, because the deployment was deactivated, deleted or replaced, or the replica was killed.
    #[error("the deployment takes no more requests")]
    Closed,
    /// The replica for this request did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The circuit breaker is open: too many starts in a row have failed.
    #[error("the deployment is unhealthy: {}", .0.reason)]
    Unhealthy(Unavailable),
    /// The guest did not respond before the deadline, and was stopped.
    #[error("the model did not answer within {timeout:?}")]
    Timeout {
        /// The deployment's request timeout.
        timeout: Duration,
    },
    /// The request body exceeds the limit.
    #[error("the request body is longer than {limit_bytes} bytes")]
    BodyTooLarge {
        /// Most bytes of a request body.
        limit_bytes: u64,
    },
    /// The guest failed.
    #[error(transparent)]
    Guest(#[from] GuestFailure),
    /// A bug of the host.
    #[error("the host failed: {0}")]
    Host(String),
}

impl RunError {
    /// How the request is counted.
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
