//! Bodies of requests that nobody reads to their end: what is left of them is taken off the connection, which otherwise
//! would be closed after the answer, without a word to a client that sends its next request on it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::runtime::Handle;

/// As much is taken off; a body that is longer costs its connection.
pub const MAX_UNREAD_BYTES: u64 = 8 << 20;
/// How long the rest may take to arrive.
pub const UNREAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A body whose rest is read when it is dropped.
pub struct Unread(Option<Incoming>);

impl Unread {
    /// The body of a request.
    pub fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for Unread {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            self.0 = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.0.as_ref().map_or_else(none, Incoming::size_hint)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if let Some(body) = self.0.take() {
            read_rest(body);
        }
    }
}

/// Reads a body to its end in the background, and drops it when that takes too long.
pub fn read_rest<B: Body<Data = Bytes> + Send + Unpin + 'static>(mut body: B) {
    if body.is_end_stream() || body.size_hint().lower() > MAX_UNREAD_BYTES {
        return;
    }
    let rest = async move {
        let mut left = MAX_UNREAD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            left = match left.checked_sub(size) {
                Some(left) => left,
                None => return,
            };
        }
    };
    // Without a runtime there is no connection either.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(tokio::time::timeout(UNREAD_TIMEOUT, rest));
    }
}
