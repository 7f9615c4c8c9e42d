//! What the parts of one request tell each other while it runs: the head of its answer, and why its guest should stop.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::StatusCode;
use http_body::Frame;
use wasmtime_wasi_http::WasiBody;

use crate::meter::Outcome;
use crate::request::failure::GuestFailure;
use crate::request::response_body::{AnswerBody, Progress, Reason};

/// A guest's answer, or why there is none.
pub(crate) type Head = Result<http::Response<WasiBody>, GuestFailure>;

/// The same for whoever answers the client: with the body if it has ended, else it stays with the exchange.
pub(crate) type Taken = Result<http::Response<Option<AnswerBody>>, GuestFailure>;

/// Why a guest should stop, in the eyes of those who read and write its bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The body of the request is longer than it may be.
    BodyTooLarge,
    /// Nobody reads the answer any more.
    ClientGone,
}

/// Why a running guest was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// At its deadline.
    Timeout,
    /// Nobody reads the answer any more.
    ClientGone,
    /// The body of the request is longer than it may be.
    BodyTooLarge,
    /// Its replica was killed.
    Killed,
}

impl Stop {
    /// What the request counts as.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Timeout => Outcome::Timeout,
            Self::ClientGone => Outcome::Cancelled,
            Self::BodyTooLarge => Outcome::TooLarge,
            Self::Killed => Outcome::Closed,
        }
    }
}

const TOO_LARGE: u8 = 1;
const GONE: u8 = 2;

/// What an answer has come to when its guest's handler is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The guest gave none.
    NoAnswer,
    /// It said that it failed.
    Refused,
    /// Head and body are there.
    Whole(StatusCode),
    /// The guest broke off its body, and said so.
    BrokenOff(Reason),
    /// The guest left its body open.
    Unfinished,
}

/// Shared by the guest's run, the body that it reads and the body that it answers. One allocation for all of it.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// Whether the request was HEAD, whose answer has no body on the connection.
    head_only: bool,
    answer: Mutex<Answer>,
    flags: AtomicU8,
    halted: AtomicWaker,
    ended: AtomicWaker,
}

#[derive(Debug, Default)]
struct Answer {
    head: Slot,
    body: AnswerBody,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Full(Result<http::Response<()>, GuestFailure>),
    Taken(Option<StatusCode>),
}

impl Exchange {
    /// For a request of this method.
    pub fn new(method: &http::Method) -> Self {
        Self {
            head_only: method == http::Method::HEAD,
            ..Self::default()
        }
    }

    /// Takes the head of the answer, or why there is none, unless there was one before.
    pub fn answer(&self, head: Head) {
        let mut answer = self.lock();
        if !matches!(answer.head, Slot::Empty) {
            return;
        }
        answer.head = Slot::Full(match head {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                answer.body = AnswerBody::new(body, self.sent(&parts));
                Ok(http::Response::from_parts(parts, ()))
            }
            Err(failure) => Err(failure),
        });
    }

    /// The head, once; with the body if nobody else will look at it any more. Nobody is woken for it: it comes while the
    /// guest runs, so whoever runs the guest looks then.
    pub fn take_head(&self) -> Option<Taken> {
        let mut answer = self.lock();
        let taken = match &answer.head {
            Slot::Full(head) => Slot::Taken(head.as_ref().ok().map(http::Response::status)),
            _ => return None,
        };
        let Slot::Full(head) = std::mem::replace(&mut answer.head, taken) else {
            return None;
        };
        Some(head.map(|response| {
            let ended = !answer.body.is_open();
            let body = ended.then(|| std::mem::take(&mut answer.body));
            response.map(|()| body)
        }))
    }

    /// Says what has become of the answer, after the guest's handler is done. A body that is open then breaks off.
    pub fn settle(&self) -> Settled {
        let mut answer = self.lock();
        let status = match &answer.head {
            Slot::Empty => return Settled::NoAnswer,
            Slot::Full(Ok(response)) => response.status(),
            Slot::Taken(Some(status)) => *status,
            Slot::Full(Err(_)) | Slot::Taken(None) => return Settled::Refused,
        };
        answer.body.collect();
        match answer.body.progress() {
            Progress::Absent | Progress::Whole => Settled::Whole(status),
            // Nothing of it goes out: it does not matter how much the guest wrote.
            Progress::Broken(_) if self.head_only || !has_body(status) => Settled::Whole(status),
            Progress::Broken(reason) => Settled::BrokenOff(reason),
            Progress::Open => {
                answer
                    .body
                    .break_off(|| "the model returned without finishing it".into());
                Settled::Unfinished
            }
        }
    }

    /// Takes over what the guest has written of its body so far.
    pub fn collect_body(&self) {
        self.lock().body.collect();
    }

    /// Waits until the body has come to its end, or nobody reads on.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        self.ended.register(cx.waker());
        match self.lock().body.is_open() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// The next frame of the body, which may be written yet.
    pub fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reason>>> {
        let mut answer = self.lock();
        let was_open = answer.body.is_open();
        let polled = answer.body.poll_frame(cx);
        let has_ended = was_open && !answer.body.is_open();
        drop(answer);
        if has_ended {
            self.ended.wake();
        }
        polled
    }

    /// Looks at the body.
    pub fn body<R>(&self, look: impl FnOnce(&AnswerBody) -> R) -> R {
        look(&self.lock().body)
    }

    /// Nobody reads the body any more: unless all that goes out of it was read, its guest is told to stop.
    pub fn close_body(&self) {
        let closed = std::mem::take(&mut self.lock().body);
        if closed.is_wanted() {
            self.halt(Halt::ClientGone);
        }
        // Dropped outside the lock.
        drop(closed);
        self.ended.wake();
    }

    /// Said before a guest's store is dropped that did not finish: the end of its body is then no end of an answer.
    pub fn break_off(&self) {
        let stopped = || "it crashed or was stopped; the log of its deployment says why".into();
        self.lock().body.break_off(stopped);
    }

    /// Tells whoever runs the guest to stop it.
    pub fn halt(&self, halt: Halt) {
        let flag = match halt {
            Halt::BodyTooLarge => TOO_LARGE,
            Halt::ClientGone => GONE,
        };
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.halted.wake();
    }

    /// Why the guest should stop, as soon as there is a reason.
    pub fn poll_halt(&self, cx: &Context<'_>) -> Poll<Halt> {
        self.halted.register(cx.waker());
        let flags = self.flags.load(Ordering::Acquire);
        if flags & TOO_LARGE != 0 {
            return Poll::Ready(Halt::BodyTooLarge);
        }
        match flags & GONE {
            0 => Poll::Pending,
            _ => Poll::Ready(Halt::ClientGone),
        }
    }

    /// Whether the body of the request turned out to be longer than it may be.
    pub fn is_too_large(&self) -> bool {
        self.flags.load(Ordering::Acquire) & TOO_LARGE != 0
    }

    /// How many bytes of a body the connection will ask for, if the head says so.
    fn sent(&self, head: &http::response::Parts) -> Option<u64> {
        if self.head_only || !has_body(head.status) {
            return Some(0);
        }
        let length = head.headers.get(http::header::CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    }

    fn lock(&self) -> MutexGuard<'_, Answer> {
        // A panic of a body's poll leaves the body open: whoever runs the guest breaks it off.
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer of this status has a body in HTTP.
fn has_body(status: StatusCode) -> bool {
    !matches!(status.as_u16(), 100..200 | 204 | 304)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_first_head_counts_and_is_taken_once() {
        let exchange = Exchange::default();
        assert!(exchange.take_head().is_none());
        assert_eq!(exchange.settle(), Settled::NoAnswer);
        exchange.answer(Err(GuestFailure::Exit(3)));
        exchange.answer(Err(GuestFailure::NoAnswer));
        let head = exchange.take_head().unwrap();
        assert_eq!(head.unwrap_err(), GuestFailure::Exit(3));
        exchange.answer(Err(GuestFailure::NoAnswer));
        assert!(exchange.take_head().is_none());
        assert_eq!(exchange.settle(), Settled::Refused);
    }

    #[tokio::test]
    async fn whoever_waits_learns_why_to_stop() {
        let exchange = Arc::new(Exchange::default());
        let waiting = tokio::spawn({
            let exchange = exchange.clone();
            async move { poll_fn(|cx| exchange.poll_halt(cx)).await }
        });
        tokio::task::yield_now().await;
        exchange.halt(Halt::ClientGone);
        assert_eq!(waiting.await.unwrap(), Halt::ClientGone);
        exchange.halt(Halt::BodyTooLarge);
        let both = poll_fn(|cx| exchange.poll_halt(cx)).await;
        assert_eq!(both, Halt::BodyTooLarge);
    }
}
