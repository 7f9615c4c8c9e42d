//! The state that the parts of one request share while it runs: the guest's response, and why the request is cancelled.

use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::StatusCode;
use http_body::Frame;
use parking_lot::Mutex;
use wasmtime_wasi_http::WasiBody;

use super::failure::GuestFailure;
use super::response_body::{AbortReason, Progress, ResponseBody};
use crate::metrics::Outcome;

/// What a guest responded, or why it did not.
pub(crate) type GuestResponse = Result<http::Response<WasiBody>, GuestFailure>;

/// The same for the connection: with the body if it has ended; otherwise the body stays in the [`RequestState`].
pub(crate) type ResponseHead = Result<http::Response<Option<ResponseBody>>, GuestFailure>;

/// Why a running request was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CancelReason {
    /// The request's body exceeds the limit.
    BodyTooLarge,
    /// The client no longer reads the response.
    ClientGone,
    /// The deadline passed.
    Timeout,
    /// The replica was killed.
    Killed,
}

impl CancelReason {
    /// How the request is counted.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::BodyTooLarge => Outcome::TooLarge,
            Self::ClientGone => Outcome::Cancelled,
            Self::Timeout => Outcome::Timeout,
            Self::Killed => Outcome::Closed,
        }
    }

    const fn flag(self) -> u8 {
        1 << self as u8
    }
}

/// How a response ended, once the guest's handler has returned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// The guest sent no response.
    NoResponse,
    /// The guest reported an error instead of a response.
    Failed,
    /// Head and body are complete.
    Complete(StatusCode),
    /// The guest aborted its body explicitly.
    Aborted(AbortReason),
    /// The guest left its body open.
    Unfinished,
}

/// Shared by the guest's run, the request body that it reads and the response body that it writes, in one allocation.
#[derive(Debug, Default)]
pub(crate) struct RequestState {
    /// The response to HEAD has no body on the connection.
    is_head: bool,
    /// If a poll of the body panics, the body stays open, and `abort_body` ends it.
    response: Mutex<Response>,
    /// The reasons to cancel so far, one bit each.
    cancelled: AtomicU8,
    on_cancel: AtomicWaker,
    on_body_end: AtomicWaker,
}

#[derive(Debug, Default)]
struct Response {
    head: HeadSlot,
    body: ResponseBody,
}

#[derive(Debug, Default)]
enum HeadSlot {
    #[default]
    Empty,
    Ready(Result<http::Response<()>, GuestFailure>),
    /// With the status, if there was a response.
    Taken(Option<StatusCode>),
}

impl RequestState {
    /// The state of a request with this method.
    pub fn new(method: &http::Method) -> Self {
        Self {
            is_head: method == http::Method::HEAD,
            ..Self::default()
        }
    }

    /// Stores the response, or why there is none. Only the first one counts.
    pub fn set_response(&self, guest: GuestResponse) {
        let mut response = self.response.lock();
        if !matches!(response.head, HeadSlot::Empty) {
            return;
        }
        response.head = HeadSlot::Ready(match guest {
            Ok(guest) => {
                let (head, body) = guest.into_parts();
                response.body = ResponseBody::new(body, self.sent_bytes(&head));
                Ok(http::Response::from_parts(head, ()))
            }
            Err(failure) => Err(failure),
        });
    }

    /// Takes the head of the response, once it is there; with the body if that has ended.
    ///
    /// Wakes no task when the head arrives: it arrives during a poll of the guest, and the task that polls the guest looks
    /// for it then.
    pub fn take_head(&self) -> Option<ResponseHead> {
        let mut response = self.response.lock();
        let taken = match &response.head {
            HeadSlot::Ready(head) => {
                HeadSlot::Taken(head.as_ref().ok().map(http::Response::status))
            }
            _ => return None,
        };
        let HeadSlot::Ready(head) = std::mem::replace(&mut response.head, taken) else {
            return None;
        };
        Some(head.map(|head| {
            let ended = !response.body.is_open();
            let body = ended.then(|| std::mem::take(&mut response.body));
            head.map(|()| body)
        }))
    }

    /// Ends the response after the guest's handler has returned, and says how. An open body is aborted.
    pub fn complete(&self) -> Completion {
        let mut response = self.response.lock();
        let status = match &response.head {
            HeadSlot::Empty => return Completion::NoResponse,
            HeadSlot::Ready(Ok(head)) => head.status(),
            HeadSlot::Taken(Some(status)) => *status,
            HeadSlot::Ready(Err(_)) | HeadSlot::Taken(None) => return Completion::Failed,
        };
        response.body.buffer();
        match response.body.progress() {
            Progress::Absent | Progress::Complete => Completion::Complete(status),
            // None of the body is sent, so it does not matter how much the guest wrote.
            Progress::Aborted(_) if self.is_head || !has_body(status) => {
                Completion::Complete(status)
            }
            Progress::Aborted(reason) => Completion::Aborted(reason),
            Progress::Open => {
                let body = &mut response.body;
                body.abort(|| "the model returned without finishing it".into());
                Completion::Unfinished
            }
        }
    }

    /// Buffers what the guest has written of its body so far.
    pub fn buffer_body(&self) {
        self.response.lock().body.buffer();
    }

    /// Waits until the body has ended or the client no longer reads it.
    pub fn poll_body_end(&self, cx: &Context<'_>) -> Poll<()> {
        self.on_body_end.register(cx.waker());
        match self.response.lock().body.is_open() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// The next frame of the body.
    pub fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AbortReason>>> {
        let mut response = self.response.lock();
        let was_open = response.body.is_open();
        let polled = response.body.poll_frame(cx);
        let has_ended = was_open && !response.body.is_open();
        drop(response);
        if has_ended {
            self.on_body_end.wake();
        }
        polled
    }

    /// Reads a property of the body.
    pub fn with_body<R>(&self, read: impl FnOnce(&ResponseBody) -> R) -> R {
        read(&self.response.lock().body)
    }

    /// The client no longer reads the body: cancels the guest unless all that is sent of the body was read.
    pub fn close_body(&self) {
        let closed = std::mem::take(&mut self.response.lock().body);
        if closed.is_awaited() {
            self.cancel(CancelReason::ClientGone);
        }
        // Dropped outside the lock.
        drop(closed);
        self.on_body_end.wake();
    }

    /// Aborts an open body. To be called before the store of an unfinished guest is dropped: the body ends then, and must
    /// not look complete.
    pub fn abort_body(&self) {
        let reason = || "it crashed or was stopped; the log of its deployment says why".into();
        self.response.lock().body.abort(reason);
    }

    /// Cancels the request.
    pub fn cancel(&self, reason: CancelReason) {
        self.cancelled.fetch_or(reason.flag(), Ordering::AcqRel);
        self.on_cancel.wake();
    }

    /// Waits until the request is cancelled.
    pub fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<CancelReason> {
        const REASONS: [CancelReason; 4] = [
            CancelReason::BodyTooLarge,
            CancelReason::ClientGone,
            CancelReason::Timeout,
            CancelReason::Killed,
        ];
        self.on_cancel.register(cx.waker());
        let flags = self.cancelled.load(Ordering::Acquire);
        let mut reasons = REASONS.into_iter();
        match reasons.find(|reason| flags & reason.flag() != 0) {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    /// Whether the request was cancelled because its body exceeded the limit.
    pub fn is_body_too_large(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) & CancelReason::BodyTooLarge.flag() != 0
    }

    /// Bytes of the body that the connection will send, if the head tells.
    fn sent_bytes(&self, head: &http::response::Parts) -> Option<u64> {
        if self.is_head || !has_body(head.status) {
            return Some(0);
        }
        let length = head.headers.get(http::header::CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    }
}

/// Whether HTTP sends a body with this status.
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
        let state = RequestState::default();
        assert!(state.take_head().is_none());
        assert_eq!(state.complete(), Completion::NoResponse);
        state.set_response(Err(GuestFailure::Exit(3)));
        state.set_response(Err(GuestFailure::NoResponse));
        let head = state.take_head().unwrap();
        assert_eq!(head.unwrap_err(), GuestFailure::Exit(3));
        state.set_response(Err(GuestFailure::NoResponse));
        assert!(state.take_head().is_none());
        assert_eq!(state.complete(), Completion::Failed);
    }

    #[tokio::test]
    async fn a_waiting_task_learns_the_reason() {
        let state = Arc::new(RequestState::default());
        let waiting = tokio::spawn({
            let state = state.clone();
            async move { poll_fn(|cx| state.poll_cancelled(cx)).await }
        });
        tokio::task::yield_now().await;
        state.cancel(CancelReason::ClientGone);
        assert_eq!(waiting.await.unwrap(), CancelReason::ClientGone);
        state.cancel(CancelReason::BodyTooLarge);
        let both = poll_fn(|cx| state.poll_cancelled(cx)).await;
        assert_eq!(both, CancelReason::BodyTooLarge);
    }
}
