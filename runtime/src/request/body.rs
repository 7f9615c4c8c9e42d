//! Bodies of requests and responses of guests: limited, streamed, and cancelled when their reader is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::Error as HttpError;

use crate::meter::Meter;
use crate::request::response_body::AnswerBody;
use crate::request::state::{Exchange, Halt};

/// A request body that ends with an error if it exceeds its limit.
pub(crate) struct LimitedBody<B> {
    inner: B,
    left: u64,
    limit: u64,
    exchange: Arc<Exchange>,
    meter: Arc<Meter>,
}

impl<B> LimitedBody<B> {
    /// Stops the request if the body exceeds `limit`.
    pub fn new(inner: B, limit: u64, exchange: Arc<Exchange>, meter: Arc<Meter>) -> Self {
        Self {
            inner,
            left: limit,
            limit,
            exchange,
            meter,
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
                self.exchange.halt(Halt::BodyTooLarge);
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

/// The guest did not finish its response.
#[derive(Debug, thiserror::Error)]
#[error("the model broke off its answer: {0}")]
pub struct BrokenBody(String);

/// The response body of a guest, streamed while the guest writes it. Dropping it before its end cancels the guest.
#[derive(Debug)]
pub struct GuestBody {
    /// The complete body, if the guest was done before the head was taken; otherwise the exchange has it.
    ended: Option<AnswerBody>,
    /// It will break off.
    breaks: bool,
    exchange: Arc<Exchange>,
    meter: Arc<Meter>,
}

impl GuestBody {
    pub(crate) fn new(
        ended: Option<AnswerBody>,
        exchange: Arc<Exchange>,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            ended,
            breaks: false,
            exchange,
            meter,
        }
    }

    fn look<R>(&self, look: impl FnOnce(&AnswerBody) -> R) -> R {
        match &self.ended {
            Some(body) => look(body),
            None => self.exchange.body(look),
        }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let polled = match &mut self.ended {
            Some(body) => body.poll_frame(cx),
            None => self.exchange.poll_frame(cx),
        };
        if matches!(polled, Poll::Ready(Some(Err(_)))) && !self.breaks {
            // A connection that is told at once drops what it has not sent yet, the head among it.
            self.breaks = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.meter.add_bytes_out(data.remaining() as u64);
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(BrokenBody)))
    }

    fn is_end_stream(&self) -> bool {
        self.look(AnswerBody::is_at_end)
    }

    fn size_hint(&self) -> SizeHint {
        match self.look(AnswerBody::exact_size) {
            Some(size) => SizeHint::with_exact(size),
            None => SizeHint::default(),
        }
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.exchange.close_body();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use std::time::Instant;

    fn halt(exchange: &Exchange) -> Poll<Halt> {
        exchange.poll_halt(&Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn a_body_over_its_limit_ends_with_an_error_and_a_word() {
        let meter = Arc::new(Meter::default());
        let long = Full::new(Bytes::from_static(b"12345"));
        let exchange = Arc::new(Exchange::default());
        let body = LimitedBody::new(long, 4, exchange.clone(), meter.clone());
        assert!(matches!(
            body.collect().await,
            Err(HttpError::HttpRequestBodySize(Some(4)))
        ));
        assert_eq!(halt(&exchange), Poll::Ready(Halt::BodyTooLarge));
        assert_eq!(meter.totals(Instant::now()).bytes_in, 0);
    }

    #[tokio::test]
    async fn a_body_at_its_limit_passes() {
        let meter = Arc::new(Meter::default());
        let short = Full::new(Bytes::from_static(b"1234"));
        let exchange = Arc::new(Exchange::default());
        let body = LimitedBody::new(short, 4, exchange.clone(), meter.clone());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "1234");
        assert!(halt(&exchange).is_pending());
        assert_eq!(meter.totals(Instant::now()).bytes_in, 4);
    }
}
