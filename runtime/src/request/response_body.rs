//! The response body between the guest that writes it and the connection that reads it. Both hold it, so that a body that the
//! guest left open fails instead of hanging, and one that was cut off never looks complete.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use wasmtime_wasi_http::WasiBody;

/// Frames buffered at once. A guest's channel holds fewer; only a body passed on from an outgoing request can have more.
const MAX_BUFFERED: usize = 64;

/// Why a body was aborted, for logs.
pub(crate) type AbortReason = String;

/// How far a body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is no body.
    Absent,
    /// The guest may still write.
    Open,
    /// The guest finished it.
    Complete,
    /// It ended before the guest finished it.
    Aborted(AbortReason),
}

/// A body with the frames that were buffered from it.
#[derive(Default)]
pub(crate) struct ResponseBody {
    source: Source,
    /// Bytes that the connection will still read, if known. Once it has them it drops the body without polling again.
    unread: Option<u64>,
    /// The first buffered frame; most bodies have one, which needs no allocation.
    first: Option<Frame<Bytes>>,
    rest: VecDeque<Frame<Bytes>>,
    reader: Option<Waker>,
}

#[derive(Default)]
enum Source {
    #[default]
    Absent,
    Open(WasiBody),
    Complete,
    Aborted(AbortReason),
}

impl ResponseBody {
    /// A body that the guest has begun to write. `unread` is its length, if known.
    pub fn new(body: WasiBody, unread: Option<u64>) -> Self {
        Self {
            source: Source::Open(body),
            unread,
            ..Self::default()
        }
    }

    /// How far the body is, as of the last poll.
    pub fn progress(&self) -> Progress {
        match &self.source {
            Source::Absent => Progress::Absent,
            Source::Open(_) => Progress::Open,
            Source::Complete => Progress::Complete,
            Source::Aborted(reason) => Progress::Aborted(reason.clone()),
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.source, Source::Open(_))
    }

    /// Buffers what the guest has written so far, which shows whether it has finished the body.
    pub fn buffer(&mut self) {
        let noop = &mut Context::from_waker(Waker::noop());
        for _ in 0..MAX_BUFFERED {
            match self.poll_source(noop) {
                Poll::Ready(Some(frame)) => self.push(frame),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        // The source wakes the last task that polled it, which no longer is the reader.
        self.wake_reader();
    }

    /// Ends the body here unless it has ended. What was written is still read before the error.
    pub fn abort(&mut self, reason: impl FnOnce() -> AbortReason) {
        self.buffer();
        if self.is_open() {
            self.source = Source::Aborted(reason());
        }
    }

    /// Whether the reader needs bytes that the guest has yet to write.
    pub fn is_awaited(&self) -> bool {
        self.is_open() && self.unread != Some(0)
    }

    /// The next frame; an error once the body was aborted.
    pub fn poll_frame(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AbortReason>>> {
        let polled = self.poll_next(cx);
        if let (Some(unread), Poll::Ready(Some(Ok(frame)))) = (&mut self.unread, &polled) {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            *unread = unread.saturating_sub(size);
        }
        polled
    }

    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AbortReason>>> {
        if let Some(frame) = self.first.take() {
            self.first = self.rest.pop_front();
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.poll_source(&mut Context::from_waker(cx.waker())) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => match &self.source {
                Source::Aborted(reason) => Poll::Ready(Some(Err(reason.clone()))),
                _ => Poll::Ready(None),
            },
            Poll::Pending => {
                match &mut self.reader {
                    Some(reader) => reader.clone_from(cx.waker()),
                    None => self.reader = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Whether the body has ended without an error and all of it was read.
    pub fn is_end(&self) -> bool {
        self.first.is_none()
            && match &self.source {
                Source::Open(body) => body.is_end_stream(),
                Source::Absent | Source::Complete => true,
                Source::Aborted(_) => false,
            }
    }

    /// Bytes still to come, if known.
    pub fn exact_size(&self) -> Option<u64> {
        match &self.source {
            Source::Open(body) if self.first.is_none() => body.size_hint().exact(),
            _ => None,
        }
    }

    fn push(&mut self, frame: Frame<Bytes>) {
        match &self.first {
            None => self.first = Some(frame),
            Some(_) => self.rest.push_back(frame),
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Source::Open(body) = &mut self.source else {
            return Poll::Ready(None);
        };
        let polled = {
            // In a task that has used up tokio's cooperative budget, a body at its end would return `Pending`.
            let mut frame = tokio::task::unconstrained(std::future::poll_fn(|cx| {
                Pin::new(&mut *body).poll_frame(cx)
            }));
            Future::poll(Pin::new(&mut frame), cx)
        };
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(frame)),
            Poll::Ready(Some(Err(error))) => {
                self.source = Source::Aborted(format!("it was dropped unfinished ({error:?})"));
                Poll::Ready(None)
            }
            Poll::Ready(None) => {
                self.source = Source::Complete;
                Poll::Ready(None)
            }
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResponseBody")
            .field(&self.progress())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use wasmtime_wasi_http::Error;

    use super::*;

    type Sender = futures::channel::mpsc::UnboundedSender<Result<Frame<Bytes>, Error>>;

    fn open() -> (Sender, ResponseBody) {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let body = StreamBody::new(receiver);
        (sender, ResponseBody::new(body.boxed_unsync(), Some(3)))
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, Error> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn poll(body: &mut ResponseBody) -> Poll<Option<Result<Bytes, AbortReason>>> {
        body.poll_frame(&Context::from_waker(Waker::noop()))
            .map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
    }

    #[test]
    fn an_unfinished_body_is_sent_and_then_fails() {
        let (sender, mut body) = open();
        for text in ["one", "two", "three"] {
            sender.unbounded_send(data(text)).unwrap();
        }
        body.abort(|| "left open".into());
        drop(sender);
        for text in ["one", "two", "three"] {
            assert_eq!(poll(&mut body), Poll::Ready(Some(Ok(text.into()))));
        }
        for _ in 0..2 {
            let failed = Poll::Ready(Some(Err("left open".into())));
            assert_eq!(poll(&mut body), failed);
        }
        assert!(!body.is_end());
    }

    #[test]
    fn a_finished_body_is_not_aborted() {
        let (sender, mut body) = open();
        sender.unbounded_send(data("all")).unwrap();
        drop(sender);
        assert_eq!(body.progress(), Progress::Open);
        assert!(body.is_awaited());
        body.buffer();
        assert_eq!(body.progress(), Progress::Complete);
        body.abort(|| unreachable!("it is complete"));
        assert_eq!(poll(&mut body), Poll::Ready(Some(Ok("all".into()))));
        assert!(body.is_end());
        assert_eq!(poll(&mut body), Poll::Ready(None));
    }

    #[test]
    fn once_all_that_was_announced_is_read_nothing_is_awaited() {
        let (sender, mut body) = open();
        sender.unbounded_send(data("all")).unwrap();
        assert!(poll(&mut body).is_ready());
        assert!(body.is_open() && !body.is_awaited());
    }

    #[test]
    fn a_body_that_its_guest_dropped_is_aborted() {
        let (sender, mut body) = open();
        sender
            .unbounded_send(Err(Error::HttpProtocolError))
            .unwrap();
        body.buffer();
        assert!(matches!(body.progress(), Progress::Aborted(_)));
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    }

    #[tokio::test]
    async fn a_reader_is_woken_after_others_have_polled_and_at_an_abort() {
        let (sender, body) = open();
        let body = std::sync::Arc::new(std::sync::Mutex::new(body));
        let reading = tokio::spawn({
            let body = body.clone();
            async move {
                let next = || std::future::poll_fn(|cx| body.lock().unwrap().poll_frame(cx));
                let first = next().await.unwrap().unwrap().into_data().unwrap();
                (first, next().await.unwrap().is_err())
            }
        });
        tokio::task::yield_now().await;
        body.lock().unwrap().buffer();
        tokio::task::yield_now().await;
        sender.unbounded_send(data("late")).unwrap();
        tokio::task::yield_now().await;
        body.lock().unwrap().abort(|| "stopped".into());
        assert_eq!(reading.await.unwrap(), (Bytes::from("late"), true));
    }

    #[tokio::test]
    async fn a_task_without_budget_sees_the_end() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        sender.try_send(data("x")).unwrap();
        drop(sender);
        let body = StreamBody::new(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)));
        let mut body = ResponseBody::new(body.boxed_unsync(), None);
        // Until the budget of this poll is used up.
        std::future::poll_fn(|cx| {
            while std::pin::pin!(tokio::task::consume_budget())
                .poll(cx)
                .is_ready()
            {}
            body.buffer();
            Poll::Ready(())
        })
        .await;
        assert_eq!(body.progress(), Progress::Complete);
    }
}
