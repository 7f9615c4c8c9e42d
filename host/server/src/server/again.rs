//! A future that wakes itself while it is polled is polled again at once.
//!
//! A connection does so in each request with a body: the guest runs within its poll, asks for the body, and that wakes the
//! connection to read on. The executor would put it at the end of its queue then, and wake another thread to help.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// So often a future is polled in a row, before others have their turn.
const MAX_POLLS: usize = 8;

const WAITS: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// Wakes the task when it waits; while it is polled, only takes note.
#[derive(Default)]
struct Inner {
    task: AtomicWaker,
    state: AtomicU8,
}

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state != WAITS).then_some(WOKEN)
            });
        if noted.is_err() {
            self.task.wake();
        }
    }
}

/// Drives a future, and polls it again at once when it was woken meanwhile.
pub async fn again_at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let inner = Arc::<Inner>::default();
    let waker = Waker::from(inner.clone());
    poll_fn(|cx| {
        inner.task.register(cx.waker());
        for _ in 0..MAX_POLLS {
            inner.state.store(POLLED, Ordering::Release);
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(done);
            }
            if inner.state.swap(WAITS, Ordering::AcqRel) == POLLED {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts its wakes.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How often a future is polled, and its task woken, in one poll of the task, when it wakes itself in its first polls.
    fn polls(wakes: usize) -> (usize, usize) {
        let count = Arc::<Count>::default();
        let mut polled = 0;
        let mut future = Box::pin(again_at_once(poll_fn(|cx| {
            polled += 1;
            if polled <= wakes {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        })));
        let waker = Waker::from(count.clone());
        assert!(
            future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(future);
        (polled, count.0.load(Ordering::SeqCst))
    }

    #[test]
    fn it_is_polled_again_without_a_wake_of_its_task_but_not_for_ever() {
        assert_eq!(polls(0), (1, 0));
        assert_eq!(polls(3), (4, 0));
        assert_eq!(polls(usize::MAX), (MAX_POLLS, 1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn wakes_from_elsewhere_are_never_lost() {
        for _ in 0..2000 {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let waiting = tokio::spawn(again_at_once(receiver));
            tokio::spawn(async move { sender.send(7) });
            assert_eq!(waiting.await.unwrap(), Ok(7));
        }
    }
}
