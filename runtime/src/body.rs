//! Bodies on their way in and out of a guest: bounded, streamed, and cancelled when nobody reads any more.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::meter::Meter;

/// A request body that ends with an error, and says so, past its limit.
pub(crate) struct LimitedBody<B> {
    inner: B,
    left: u64,
    limit: u64,
    exceeded: Option<oneshot::Sender<()>>,
    meter: Arc<Meter>,
}

impl<B> LimitedBody<B> {
    /// The receiver is told when the body turns out to be longer than `limit`.
    pub fn new(inner: B, limit: u64, meter: Arc<Meter>) -> (Self, oneshot::Receiver<()>) {
        let (exceeded, told) = oneshot::channel();
        let body = Self {
            inner,
            left: limit,
            limit,
            exceeded: Some(exceeded),
            meter,
        };
        (body, told)
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
                if let Some(exceeded) = self.exceeded.take() {
                    let _ = exceeded.send(());
                }
                return Poll::Ready(Some(Err(HttpError::HttpRequestBodySize(Some(self.limit)))));
            }
            self.left -= size;
            self.meter.add_bytes_in(size);
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

/// Tells the task that runs the guest when the client is gone: dropped unspent, it cancels the guest.
#[derive(Debug)]
pub(crate) struct ClientGuard(Option<oneshot::Sender<()>>);

impl ClientGuard {
    pub fn new() -> (Self, oneshot::Receiver<()>) {
        let (alive, gone) = oneshot::channel();
        (Self(Some(alive)), gone)
    }

    fn served(&mut self) {
        if let Some(alive) = self.0.take() {
            let _ = alive.send(());
        }
    }
}

/// Set before a guest's store is dropped that did not finish: the end of its body is then no end of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broken(Arc<AtomicBool>);

impl Broken {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The guest broke off in the middle of its answer.
#[derive(Debug, thiserror::Error)]
#[error("the model broke off its answer: {0}")]
pub struct BrokenBody(String);

/// What a guest answers, streamed as it writes it. Dropping it before its end cancels the guest.
#[derive(Debug)]
pub struct GuestBody {
    inner: WasiBody,
    client: ClientGuard,
    broken: Broken,
    meter: Arc<Meter>,
}

impl GuestBody {
    pub(crate) fn new(
        inner: WasiBody,
        client: ClientGuard,
        broken: Broken,
        meter: Arc<Meter>,
    ) -> Self {
        let mut body = Self {
            inner,
            client,
            broken,
            meter,
        };
        if body.inner.is_end_stream() {
            body.client.served();
        }
        body
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) if self.broken.is_set() => {
                let text = "it crashed or was stopped; the log of its deployment says why";
                Poll::Ready(Some(Err(BrokenBody(text.into()))))
            }
            Poll::Ready(None) => {
                self.client.served();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.meter.add_bytes_out(data.remaining() as u64);
                }
                // Hyper drops a body without another poll once its announced length is sent.
                if self.inner.is_end_stream() || self.inner.size_hint().exact() == Some(0) {
                    self.client.served();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err(BrokenBody(format!("{error:?}")))))
            }
        }
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

    #[tokio::test]
    async fn a_body_over_its_limit_ends_with_an_error_and_a_word() {
        let meter = Arc::new(Meter::default());
        let long = Full::new(Bytes::from_static(b"12345"));
        let (body, told) = LimitedBody::new(long, 4, meter.clone());
        assert!(matches!(
            body.collect().await,
            Err(HttpError::HttpRequestBodySize(Some(4)))
        ));
        assert!(told.await.is_ok());
        assert_eq!(meter.totals(Instant::now()).bytes_in, 0);
    }

    #[tokio::test]
    async fn a_body_at_its_limit_passes() {
        let meter = Arc::new(Meter::default());
        let short = Full::new(Bytes::from_static(b"1234"));
        let (body, told) = LimitedBody::new(short, 4, meter.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "1234");
        assert!(told.await.is_err());
        assert_eq!(meter.totals(Instant::now()).bytes_in, 4);
    }
}
