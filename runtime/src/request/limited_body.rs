//! The body of a request on its way into the guest: streamed, and limited to what its deployment takes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error as HttpError;

use super::state::{CancelReason, RequestState};
use crate::metrics::PoolMetrics;

/// A request body that fails, and cancels its request, once it exceeds the limit.
pub(crate) struct LimitedBody<B> {
    inner: B,
    left: u64,
    limit: u64,
    state: Arc<RequestState>,
    metrics: Arc<PoolMetrics>,
}

impl<B> LimitedBody<B> {
    /// Limits `inner` to `limit` bytes.
    pub fn new(inner: B, limit: u64, state: Arc<RequestState>, metrics: Arc<PoolMetrics>) -> Self {
        Self {
            inner,
            left: limit,
            limit,
            state,
            metrics,
        }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                return Poll::Ready(Some(Err(HttpError::InternalError(Some(error.to_string())))));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        if let Some(data) = frame.data_ref() {
            let size = data.remaining() as u64;
            if size > self.left {
                self.state.cancel(CancelReason::BodyTooLarge);
                return Poll::Ready(Some(Err(HttpError::HttpRequestBodySize(Some(self.limit)))));
            }
            self.left -= size;
            self.metrics.add_bytes_in(size);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use std::time::Instant;

    fn cancelled(state: &RequestState) -> Poll<CancelReason> {
        state.poll_cancelled(&Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn a_body_over_its_limit_fails_and_cancels_its_request() {
        let metrics = Arc::new(PoolMetrics::default());
        let long = Full::new(Bytes::from_static(b"12345"));
        let state = Arc::new(RequestState::default());
        let body = LimitedBody::new(long, 4, state.clone(), metrics.clone());
        assert!(matches!(
            body.collect().await,
            Err(HttpError::HttpRequestBodySize(Some(4)))
        ));
        assert_eq!(cancelled(&state), Poll::Ready(CancelReason::BodyTooLarge));
        assert_eq!(metrics.totals(Instant::now()).bytes_in, 0);
    }

    #[tokio::test]
    async fn a_body_at_its_limit_passes() {
        let metrics = Arc::new(PoolMetrics::default());
        let short = Full::new(Bytes::from_static(b"1234"));
        let state = Arc::new(RequestState::default());
        let body = LimitedBody::new(short, 4, state.clone(), metrics.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "1234");
        assert!(cancelled(&state).is_pending());
        assert_eq!(metrics.totals(Instant::now()).bytes_in, 4);
    }
}
