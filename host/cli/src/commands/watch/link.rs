//! Whether the server can be reached. Reports changes once, even if several tasks notice them.

use std::cell::Cell;

use samovar_client::{ClientError, StatusCode};
use tokio::sync::Notify;

use super::report::{Event, Report};

/// The connection to the server.
#[derive(Default)]
pub struct Link {
    is_lost: Cell<bool>,
    is_back: Cell<bool>,
    changed: Notify,
}

impl Link {
    /// The server answered.
    pub fn answers(&self, report: &Report) -> anyhow::Result<()> {
        if self.is_lost.replace(false) {
            report.tell(&Event::ServerBack)?;
            self.is_back.set(true);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// The server did not answer.
    pub fn lost(&self, why: &ClientError, report: &Report) -> anyhow::Result<()> {
        if self.is_lost.replace(true) {
            return Ok(());
        }
        let error = why.to_string();
        report.tell(&Event::ServerLost { error })
    }

    /// Waits until the server is back after it was lost.
    pub async fn back(&self) {
        while !self.is_back.take() {
            self.changed.notified().await;
        }
    }

    /// The server has the current bundle again.
    pub fn is_up_to_date(&self) {
        self.is_back.set(false);
    }
}

/// The error of a call, if it means that the server cannot be reached or is not ready.
pub fn unreachable(error: &anyhow::Error) -> Option<&ClientError> {
    let error = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ClientError>())?;
    let is_lost = match error {
        ClientError::NoServer { .. } | ClientError::Broken { .. } => true,
        ClientError::Refused { status, .. } => [
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ]
        .contains(status),
        _ => false,
    };
    is_lost.then_some(error)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use samovar_client::ErrorAnswer;

    use super::*;

    #[test]
    fn a_server_that_refuses_is_there() {
        let refused = |status| {
            Err::<(), _>(ClientError::Refused {
                status,
                answer: Box::new(ErrorAnswer::default()),
            })
            .context("uploading m.wasm")
            .unwrap_err()
        };
        assert!(unreachable(&refused(StatusCode::UNPROCESSABLE_ENTITY)).is_none());
        assert!(unreachable(&refused(StatusCode::SERVICE_UNAVAILABLE)).is_some());
        assert!(unreachable(&anyhow::anyhow!("other")).is_none());
    }
}
