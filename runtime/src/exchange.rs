//! What the parts of one request tell each other while it runs: the head of its answer, and why its guest should stop.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use http::StatusCode;
use wasmtime_wasi_http::WasiBody;

use crate::failure::GuestFailure;

/// A guest's answer, or why there is none.
pub(crate) type Head = Result<http::Response<WasiBody>, GuestFailure>;

/// Why a guest should stop, in the eyes of those who read and write its bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The body of the request is longer than it may be.
    BodyTooLarge,
    /// Nobody reads the answer any more.
    ClientGone,
}

const TOO_LARGE: u8 = 1;
const GONE: u8 = 2;
const BROKEN: u8 = 4;

/// Shared by the guest's run, the body that it reads and the body that it answers. One allocation for all of it.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    head: Mutex<Slot>,
    flags: AtomicU8,
    halted: AtomicWaker,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Full(Head),
    Taken(Option<StatusCode>),
}

impl Exchange {
    /// Takes the head of the answer, or why there is none, unless there was one before.
    pub fn answer(&self, head: Head) {
        let mut slot = self.slot();
        if matches!(*slot, Slot::Empty) {
            *slot = Slot::Full(head);
        }
    }

    /// Whether there is, or was, a head.
    pub fn is_answered(&self) -> bool {
        !matches!(*self.slot(), Slot::Empty)
    }

    /// The status that was answered, if the guest gave a head.
    pub fn status(&self) -> Option<StatusCode> {
        match &*self.slot() {
            Slot::Empty => None,
            Slot::Full(head) => status(head),
            Slot::Taken(status) => *status,
        }
    }

    /// The head, once. Nobody is woken for it: it comes while the guest runs, so whoever runs the guest looks then.
    pub fn take_head(&self) -> Option<Head> {
        let mut slot = self.slot();
        let taken = match &*slot {
            Slot::Full(head) => Slot::Taken(status(head)),
            _ => return None,
        };
        match std::mem::replace(&mut *slot, taken) {
            Slot::Full(head) => Some(head),
            _ => None,
        }
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

    /// Said before a guest's store is dropped that did not finish: the end of its body is then no end of an answer.
    pub fn break_off(&self) {
        self.flags.fetch_or(BROKEN, Ordering::AcqRel);
    }

    /// Whether that was said.
    pub fn is_broken_off(&self) -> bool {
        self.flags.load(Ordering::Acquire) & BROKEN != 0
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Each change is a single move: a panic cannot leave it half-done.
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(head: &Head) -> Option<StatusCode> {
    head.as_ref().ok().map(http::Response::status)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_first_head_counts_and_is_taken_once() {
        let exchange = Exchange::default();
        assert!(!exchange.is_answered() && exchange.take_head().is_none());
        exchange.answer(Err(GuestFailure::Exit(3)));
        exchange.answer(Err(GuestFailure::NoAnswer));
        let head = exchange.take_head().unwrap();
        assert_eq!(head.unwrap_err(), GuestFailure::Exit(3));
        exchange.answer(Err(GuestFailure::NoAnswer));
        assert!(exchange.is_answered() && exchange.take_head().is_none());
        assert_eq!(exchange.status(), None);
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
