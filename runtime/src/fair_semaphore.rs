//! An asynchronous semaphore that is fair between models: a hundred pushes of one model wait for each other, while another model
//! waits only for what has begun. A semaphore that lends permits also grants extra ones to models without a permit while others hold
//! theirs for long, so that a model whose graphs load for minutes does not block the others.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::permits::{FairPermits, LONG_RUN, Owner, Ticket};

/// A semaphore with a number of permits.
#[derive(Clone)]
pub(crate) struct FairSemaphore {
    state: Arc<Mutex<State>>,
    /// Whether permits that are held for long are lent.
    lends: bool,
}

type State = FairPermits<oneshot::Sender<SemaphorePermit>>;

/// A permit. Dropping it releases it.
pub(crate) struct SemaphorePermit {
    semaphore: FairSemaphore,
    run: u64,
}

/// A request that waits. Dropping it cancels the request.
struct Request<'a> {
    semaphore: &'a FairSemaphore,
    ticket: Ticket,
}

impl FairSemaphore {
    /// A semaphore that never has more permits than this.
    pub fn new(permits: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(FairPermits::new(permits))),
            lends: false,
        }
    }

    /// A semaphore that lends permits which are held for long: at most twice as many in addition.
    pub fn lending(permits: usize) -> Self {
        Self {
            lends: true,
            ..Self::new(permits)
        }
    }

    /// Waits for a permit. Dropping the future cancels the request.
    pub async fn acquire(&self, owner: Owner) -> SemaphorePermit {
        let (sender, permit) = oneshot::channel();
        let ticket = self.state.lock().acquire(owner, 1, sender);
        let _request = Request {
            semaphore: self,
            ticket,
        };
        self.grant();
        let mut permit = pin!(permit);
        loop {
            match tokio::time::timeout(LONG_RUN, &mut permit).await {
                Ok(Ok(permit)) => return permit,
                // Only `Request` removes the sender from the queue, and it is alive.
                Ok(Err(_)) => unreachable!("the sender of a waiting request was dropped"),
                Err(_) => self.lend(Instant::now()),
            }
        }
    }

    /// Lends permits that have been held for long.
    fn lend(&self, now: Instant) {
        if self.lends && self.state.lock().mark_long_runs(now) {
            self.grant();
        }
    }

    /// Grants permits while some are free. Sends them without the lock, which a permit takes when its receiver is gone.
    fn grant(&self) {
        loop {
            let grant = self.state.lock().grant_next(Instant::now());
            let Some(grant) = grant else {
                return;
            };
            let permit = SemaphorePermit {
                semaphore: self.clone(),
                run: grant.run,
            };
            // If the receiver is gone, dropping the permit lets the next request have it.
            let _ = grant.job.send(permit);
        }
    }
}

impl Drop for SemaphorePermit {
    fn drop(&mut self) {
        self.semaphore.state.lock().release(self.run);
        self.semaphore.grant();
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        // Dropped without the lock.
        let sender = self.semaphore.state.lock().cancel(self.ticket);
        drop(sender);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const BUSY: Owner = Owner::NONE;

    #[tokio::test]
    async fn a_late_owner_passes_the_queue_of_others() {
        let semaphore = FairSemaphore::new(1);
        let other = Owner::named("other");
        let held = semaphore.acquire(BUSY).await;
        let mut waiting: Vec<_> = (0..100)
            .map(|_| Box::pin(semaphore.acquire(BUSY)))
            .collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let mut late = Box::pin(semaphore.acquire(other));
        assert!(late.as_mut().now_or_never().is_none());
        drop(held);
        let permit = late.await;
        assert!(waiting[0].as_mut().now_or_never().is_none());
        drop(permit);
        // The others are served in order.
        drop(waiting.remove(0).await);
        drop(waiting.remove(0).await);
    }

    #[tokio::test]
    async fn long_work_does_not_block_other_owners() {
        let semaphore = FairSemaphore::lending(2);
        let held = [semaphore.acquire(BUSY).await, semaphore.acquire(BUSY).await];
        let mut more = Box::pin(semaphore.acquire(BUSY));
        let mut other = Box::pin(semaphore.acquire(Owner::named("other")));
        assert!(more.as_mut().now_or_never().is_none());
        assert!(other.as_mut().now_or_never().is_none());
        semaphore.lend(Instant::now());
        assert!(other.as_mut().now_or_never().is_none(), "not long yet");
        semaphore.lend(Instant::now() + LONG_RUN);
        let other = other.now_or_never().unwrap();
        assert!(
            more.as_mut().now_or_never().is_none(),
            "it has its share already"
        );
        drop(held);
        drop((more.await, other));
    }

    #[tokio::test]
    async fn a_waiting_request_notices_long_work_itself() {
        let semaphore = FairSemaphore::lending(1);
        let _held = semaphore.acquire(BUSY).await;
        drop(semaphore.acquire(Owner::named("other")).await);
    }

    #[tokio::test]
    async fn a_cancelled_request_costs_no_permit() {
        let semaphore = FairSemaphore::new(2);
        for _ in 0..50 {
            let held = [semaphore.acquire(BUSY).await, semaphore.acquire(BUSY).await];
            let mut left = Box::pin(semaphore.acquire(BUSY));
            assert!(left.as_mut().now_or_never().is_none());
            let mut given = Box::pin(semaphore.acquire(BUSY));
            assert!(given.as_mut().now_or_never().is_none());
            drop(left);
            drop(held);
            // It was granted a permit, and is dropped without being polled.
            drop(given);
        }
        let _both = [semaphore.acquire(BUSY).await, semaphore.acquire(BUSY).await];
        assert!(semaphore.acquire(BUSY).now_or_never().is_none());
    }
}
