//! The body of a response on its way out of the guest, as the server streams it to its client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::response_body::ResponseBody;
use super::state::RequestState;
use crate::metrics::PoolMetrics;

/// The guest, or whatever stopped it, ended the body before it was complete. The text says why.
#[derive(Debug, thiserror::Error)]
#[error("the model broke off its response: {0}")]
pub struct IncompleteBody(String);

/// The body of a guest's response, streamed while the guest writes it. Dropping it before its end cancels the guest.
#[derive(Debug)]
pub struct GuestBody {
    /// The body, if the guest had ended it before the head was taken; otherwise it is in `state`.
    ended: Option<ResponseBody>,
    /// The next poll reports the error.
    is_failing: bool,
    state: Arc<RequestState>,
    metrics: Arc<PoolMetrics>,
}

impl GuestBody {
    pub(crate) fn new(
        ended: Option<ResponseBody>,
        state: Arc<RequestState>,
        metrics: Arc<PoolMetrics>,
    ) -> Self {
        Self {
            ended,
            is_failing: false,
            state,
            metrics,
        }
    }

    fn with_body<R>(&self, read: impl FnOnce(&ResponseBody) -> R) -> R {
        match &self.ended {
            Some(body) => read(body),
            None => self.state.with_body(read),
        }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = IncompleteBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncompleteBody>>> {
        let polled = match &mut self.ended {
            Some(body) => body.poll_frame(cx),
            None => self.state.poll_frame(cx),
        };
        if matches!(polled, Poll::Ready(Some(Err(_)))) && !self.is_failing {
            // One poll later: hyper drops what it has not sent yet, the head included, as soon as it sees an error.
            self.is_failing = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.metrics.add_bytes_out(data.remaining() as u64);
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(IncompleteBody)))
    }

    fn is_end_stream(&self) -> bool {
        self.with_body(ResponseBody::is_end)
    }

    fn size_hint(&self) -> SizeHint {
        match self.with_body(ResponseBody::exact_size) {
            Some(size) => SizeHint::with_exact(size),
            None => SizeHint::default(),
        }
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.state.close_body();
        }
    }
}
