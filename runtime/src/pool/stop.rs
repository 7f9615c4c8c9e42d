//! What stops a running guest from outside.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use crate::exchange::{Exchange, Halt, Stop};

/// Waits for the first reason to stop a guest.
pub(super) async fn stop(deadline: Instant, exchange: Arc<Exchange>) -> Stop {
    let mut timeout = pin!(tokio::time::sleep_until(deadline.into()));
    poll_fn(|cx| match exchange.poll_halt(cx) {
        Poll::Ready(Halt::BodyTooLarge) => Poll::Ready(Stop::BodyTooLarge),
        Poll::Ready(Halt::ClientGone) => Poll::Ready(Stop::ClientGone),
        Poll::Pending => timeout.as_mut().poll(cx).map(|()| Stop::Timeout),
    })
    .await
}
