//! What stops a running guest from outside.

use std::time::Instant;

use tokio::sync::oneshot;

use crate::meter::Outcome;

/// Why a running guest was stopped.
pub(super) enum Stop {
    Timeout,
    ClientGone,
    BodyTooLarge,
}

impl Stop {
    /// What the request counts as.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Timeout => Outcome::Timeout,
            Self::ClientGone => Outcome::Cancelled,
            Self::BodyTooLarge => Outcome::TooLarge,
        }
    }
}

/// Waits for the first reason to stop a guest.
pub(super) async fn stop(
    deadline: Instant,
    gone: oneshot::Receiver<()>,
    exceeded: oneshot::Receiver<()>,
) -> Stop {
    let timeout = tokio::time::sleep_until(deadline.into());
    // A sender that says something: the client has its answer. One that goes silently: the client itself went.
    let gone = async {
        if gone.await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let exceeded = async {
        if exceeded.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = exceeded => Stop::BodyTooLarge,
        () = gone => Stop::ClientGone,
        () = timeout => Stop::Timeout,
    }
}
