//! The body of an answer between the guest that writes it and the connection that reads it. Both hold it, so that an answer
//! that its guest left unfinished breaks off instead of hanging, and one that was cut off never looks whole.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use wasmtime_wasi_http::WasiBody;

/// Frames that are taken over at once; a guest's channel holds fewer, only bodies passed through from elsewhere can have more.
const MAX_KEPT: usize = 64;

/// Why a body broke off, in words for a log.
pub(crate) type Reason = String;

/// What a body has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is none.
    Absent,
    /// Not at its end.
    Open,
    /// The guest finished it.
    Whole,
    /// The guest, or whoever stopped it, broke it off.
    Broken(Reason),
}

/// A body with what was taken over from it.
#[derive(Default)]
pub(crate) struct AnswerBody {
    source: Source,
    /// Bytes that the connection has yet to ask for: once it has them it drops the body without another look.
    wanted: Option<u64>,
    first: Option<Frame<Bytes>>,
    rest: VecDeque<Frame<Bytes>>,
    reader: Option<Waker>,
}

#[derive(Default)]
enum Source {
    #[default]
    Absent,
    Open(WasiBody),
    Whole,
    Broken(Reason),
}

impl AnswerBody {
    /// What a guest began to write, of which `wanted` bytes will be read, if that is known.
    pub fn new(body: WasiBody, wanted: Option<u64>) -> Self {
        Self {
            source: Source::Open(body),
            wanted,
            ..Self::default()
        }
    }

    /// What it has come to, as far as anybody looked.
    pub fn progress(&self) -> Progress {
        match &self.source {
            Source::Absent => Progress::Absent,
            Source::Open(_) => Progress::Open,
            Source::Whole => Progress::Whole,
            Source::Broken(reason) => Progress::Broken(reason.clone()),
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.source, Source::Open(_))
    }

    /// Takes over what was written so far, and so learns whether the body is finished. The reader polls again after this.
    pub fn collect(&mut self) {
        let noop = &mut Context::from_waker(Waker::noop());
        for _ in 0..MAX_KEPT {
            match self.poll_source(noop) {
                Poll::Ready(Some(frame)) => self.keep(frame),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        // A channel wakes the one who polled it last, which was not the reader.
        self.wake_reader();
    }

    /// Ends it here unless it has ended: what was written still goes out, then it breaks off.
    pub fn break_off(&mut self, reason: impl FnOnce() -> Reason) {
        self.collect();
        if self.is_open() {
            self.source = Source::Broken(reason());
        }
    }

    /// Whether the guest has yet to write what its reader waits for.
    pub fn is_wanted(&self) -> bool {
        self.is_open() && self.wanted != Some(0)
    }

    /// The next frame; an error once it has broken off.
    pub fn poll_frame(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        let polled = self.poll_next(cx);
        if let (Some(wanted), Poll::Ready(Some(Ok(frame)))) = (&mut self.wanted, &polled) {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            *wanted = wanted.saturating_sub(size);
        }
        polled
    }

    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        if let Some(frame) = self.first.take() {
            self.first = self.rest.pop_front();
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.poll_source(&mut Context::from_waker(cx.waker())) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => match &self.source {
                Source::Broken(reason) => Poll::Ready(Some(Err(reason.clone()))),
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

    /// Whether there is nothing more to come, and nothing went wrong.
    pub fn is_at_end(&self) -> bool {
        self.first.is_none()
            && match &self.source {
                Source::Open(body) => body.is_end_stream(),
                Source::Absent | Source::Whole => true,
                Source::Broken(_) => false,
            }
    }

    /// The size of what is yet to come, if it is known.
    pub fn exact_size(&self) -> Option<u64> {
        match &self.source {
            Source::Open(body) if self.first.is_none() => body.size_hint().exact(),
            _ => None,
        }
    }

    fn keep(&mut self, frame: Frame<Bytes>) {
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
            // A task that has used up its budget would be told `Pending` of a body that is at its end.
            let mut frame = tokio::task::unconstrained(std::future::poll_fn(|cx| {
                Pin::new(&mut *body).poll_frame(cx)
            }));
            Future::poll(Pin::new(&mut frame), cx)
        };
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(frame)),
            Poll::Ready(Some(Err(error))) => {
                self.source = Source::Broken(format!("it was dropped unfinished ({error:?})"));
                Poll::Ready(None)
            }
            Poll::Ready(None) => {
                self.source = Source::Whole;
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

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnswerBody").field(&self.progress()).finish()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use wasmtime_wasi_http::Error;

    use super::*;

    type Sender = futures::channel::mpsc::UnboundedSender<Result<Frame<Bytes>, Error>>;

    fn open() -> (Sender, AnswerBody) {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        let body = StreamBody::new(receiver);
        (sender, AnswerBody::new(body.boxed_unsync(), Some(3)))
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, Error> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn poll(body: &mut AnswerBody) -> Poll<Option<Result<Bytes, Reason>>> {
        body.poll_frame(&Context::from_waker(Waker::noop()))
            .map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
    }

    #[test]
    fn what_is_unfinished_goes_out_and_then_breaks_off() {
        let (sender, mut body) = open();
        for text in ["one", "two", "three"] {
            sender.unbounded_send(data(text)).unwrap();
        }
        body.break_off(|| "left open".into());
        drop(sender);
        for text in ["one", "two", "three"] {
            assert_eq!(poll(&mut body), Poll::Ready(Some(Ok(text.into()))));
        }
        for _ in 0..2 {
            let broken = Poll::Ready(Some(Err("left open".into())));
            assert_eq!(poll(&mut body), broken);
        }
        assert!(!body.is_at_end());
    }

    #[test]
    fn what_is_finished_is_not_broken_off_any_more() {
        let (sender, mut body) = open();
        sender.unbounded_send(data("all")).unwrap();
        drop(sender);
        assert_eq!(body.progress(), Progress::Open);
        assert!(body.is_wanted());
        body.collect();
        assert_eq!(body.progress(), Progress::Whole);
        body.break_off(|| unreachable!("it is whole"));
        assert_eq!(poll(&mut body), Poll::Ready(Some(Ok("all".into()))));
        assert!(body.is_at_end());
        assert_eq!(poll(&mut body), Poll::Ready(None));
    }

    #[test]
    fn once_all_that_was_announced_is_read_nothing_is_wanted() {
        let (sender, mut body) = open();
        sender.unbounded_send(data("all")).unwrap();
        assert!(poll(&mut body).is_ready());
        assert!(body.is_open() && !body.is_wanted());
    }

    #[test]
    fn what_its_guest_dropped_is_broken() {
        let (sender, mut body) = open();
        sender
            .unbounded_send(Err(Error::HttpProtocolError))
            .unwrap();
        body.collect();
        assert!(matches!(body.progress(), Progress::Broken(_)));
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    }

    #[tokio::test]
    async fn a_reader_is_woken_after_others_have_looked_and_when_it_breaks_off() {
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
        body.lock().unwrap().collect();
        tokio::task::yield_now().await;
        sender.unbounded_send(data("late")).unwrap();
        tokio::task::yield_now().await;
        body.lock().unwrap().break_off(|| "stopped".into());
        assert_eq!(reading.await.unwrap(), (Bytes::from("late"), true));
    }

    #[tokio::test]
    async fn a_task_without_budget_sees_an_end_all_the_same() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        sender.try_send(data("x")).unwrap();
        drop(sender);
        let body = StreamBody::new(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)));
        let mut body = AnswerBody::new(body.boxed_unsync(), None);
        // Until the budget of this poll is used up.
        std::future::poll_fn(|cx| {
            while std::pin::pin!(tokio::task::consume_budget())
                .poll(cx)
                .is_ready()
            {}
            body.collect();
            Poll::Ready(())
        })
        .await;
        assert_eq!(body.progress(), Progress::Whole);
    }
}
