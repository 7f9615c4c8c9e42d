//! Permits for work of which a node does little at once, given to models in turns: a hundred pushes of one model wait for
//! each other, and no other model waits for more than what has begun. Where permits are lent, not even for that when it takes
//! long: models that hold none get some besides, so that one model whose graphs load for minutes keeps no other waiting.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::budget::{Budget, LONG, Owner, Ticket};

/// So many permits, and who waits for one.
#[derive(Clone)]
pub(crate) struct Turns {
    waiting: Arc<Mutex<Waiting>>,
    /// Whether permits that are held for long are lent.
    lends: bool,
}

type Waiting = Budget<oneshot::Sender<Permit>>;

/// A permit, given back when this is dropped.
pub(crate) struct Permit {
    turns: Turns,
    run: u64,
}

/// One that waits, and does no more when this is dropped.
struct Asked<'a> {
    turns: &'a Turns,
    ticket: Ticket,
}

impl Turns {
    /// So many permits, and no more whatever happens.
    pub fn new(permits: usize) -> Self {
        Self {
            waiting: Arc::new(Mutex::new(Budget::new(permits))),
            lends: false,
        }
    }

    /// So many permits, which are lent while they are held for long: up to twice as many besides.
    pub fn lending(permits: usize) -> Self {
        Self {
            lends: true,
            ..Self::new(permits)
        }
    }

    /// A permit, when it is this one's turn.
    pub async fn take(&self, owner: Owner) -> Permit {
        let (given, permit) = oneshot::channel();
        let ticket = self.lock().ask(owner, 1, given);
        let _asked = Asked {
            turns: self,
            ticket,
        };
        self.give();
        let mut permit = pin!(permit);
        loop {
            match tokio::time::timeout(LONG, &mut permit).await {
                Ok(Ok(permit)) => return permit,
                // Only `Asked` takes what waits out of the queue, and it is here yet.
                Ok(Err(_)) => unreachable!("a permit that is waited for was dropped"),
                Err(_) => self.lend(Instant::now()),
            }
        }
    }

    /// Gives permits to others that work has held for long.
    fn lend(&self, now: Instant) {
        if self.lends && self.lock().notice_long(now) {
            self.give();
        }
    }

    /// Gives permits to those whose turn it is. None is given with the lock held: where nobody takes it, it comes back here.
    fn give(&self) {
        loop {
            let begun = self.lock().next(Instant::now());
            let Some(begun) = begun else {
                return;
            };
            let permit = Permit {
                turns: self.clone(),
                run: begun.run,
            };
            // Who has gone meanwhile leaves it to the next.
            let _ = begun.job.send(permit);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Each change of the budget is whole or panics before it begins.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.turns.lock().give_back(self.run);
        self.turns.give();
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        // Dropped after the lock: with the sender goes a permit that was sent and not taken.
        let gone = self.turns.lock().forget(self.ticket);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const BUSY: Owner = Owner::NONE;

    #[tokio::test]
    async fn one_that_comes_late_passes_what_others_have_waiting() {
        let turns = Turns::new(1);
        let other = Owner::named("other");
        let held = turns.take(BUSY).await;
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(turns.take(BUSY))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let mut late = Box::pin(turns.take(other));
        assert!(late.as_mut().now_or_never().is_none());
        drop(held);
        let permit = late.await;
        assert!(waiting[0].as_mut().now_or_never().is_none());
        drop(permit);
        // The rest come in their order.
        drop(waiting.remove(0).await);
        drop(waiting.remove(0).await);
    }

    #[tokio::test]
    async fn work_that_takes_long_keeps_no_other_waiting() {
        let turns = Turns::lending(2);
        let held = [turns.take(BUSY).await, turns.take(BUSY).await];
        let mut more = Box::pin(turns.take(BUSY));
        let mut other = Box::pin(turns.take(Owner::named("other")));
        assert!(more.as_mut().now_or_never().is_none());
        assert!(other.as_mut().now_or_never().is_none());
        turns.lend(Instant::now());
        assert!(
            other.as_mut().now_or_never().is_none(),
            "it is not long yet"
        );
        turns.lend(Instant::now() + LONG);
        let other = other.now_or_never().unwrap();
        assert!(more.as_mut().now_or_never().is_none(), "it has its share");
        drop(held);
        drop((more.await, other));
    }

    #[tokio::test]
    async fn who_waits_notices_by_itself() {
        let turns = Turns::lending(1);
        let _held = turns.take(BUSY).await;
        drop(turns.take(Owner::named("other")).await);
    }

    #[tokio::test]
    async fn who_leaves_costs_no_permit() {
        let turns = Turns::new(2);
        for _ in 0..50 {
            let held = [turns.take(BUSY).await, turns.take(BUSY).await];
            let mut left = Box::pin(turns.take(BUSY));
            assert!(left.as_mut().now_or_never().is_none());
            let mut given = Box::pin(turns.take(BUSY));
            assert!(given.as_mut().now_or_never().is_none());
            drop(left);
            drop(held);
            // It was given a permit and goes without having looked.
            drop(given);
        }
        let _both = [turns.take(BUSY).await, turns.take(BUSY).await];
        assert!(turns.take(BUSY).now_or_never().is_none());
    }
}
