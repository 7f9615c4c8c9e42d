//! How the places of a pool go from hand to hand: asked for, waited for, given back, lost, given up. Whoever came first goes
//! first, and no place is forgotten, whatever happens at the same time.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::pool::load::Traffic;
use crate::pool::state::{Freed, Ledger, Next, PoolSettings};

/// Who waits for a place.
pub(super) type Waiter<P> = oneshot::Sender<Lease<P>>;

/// A pool, as far as its places are concerned.
pub(super) trait Places: Send + Sync + Sized + 'static {
    /// What has a place.
    type Replica: Send;

    /// Looks at the ledger, or changes it, alone.
    fn ledger<T>(&self, act: impl FnOnce(&mut Ledger<Box<Self::Replica>, Waiter<Self>>) -> T) -> T;

    /// The bounds that the pool keeps to. Read with the ledger in hand: who changes them looks at the ledger afterwards, and
    /// what was decided by the old ones is put right then.
    fn bounds(&self) -> PoolSettings;

    /// Those that hold for new replicas just now.
    fn bounds_now(&self, now: Instant) -> PoolSettings;

    /// Whether a replica was told to go.
    fn is_stopped(replica: &Self::Replica) -> bool;

    /// Said after a place came free that nobody waited for.
    fn place_came_free(&self);

    /// A place, or one in the queue.
    fn ask(self: &Arc<Self>, traffic: Traffic, now: Instant) -> Asked<Self> {
        let asked = self.ledger(|ledger| {
            let bounds = self.bounds_now(now);
            let next = match ledger.next(traffic, &bounds, now) {
                Next::Full => {
                    // Places of clients that hung up while waiting are free again.
                    ledger.forget_waiting(oneshot::Sender::is_closed);
                    ledger.next(traffic, &bounds, now)
                }
                next => next,
            };
            match next {
                Next::Reuse(replica) => Ok(Some(replica)),
                Next::Start => Ok(None),
                Next::Wait => {
                    let (sender, receiver) = oneshot::channel();
                    ledger.wait(sender);
                    Err(Some(receiver))
                }
                Next::Full | Next::Closed => Err(None),
            }
        });
        match asked {
            Ok(replica) => Asked::Place(Lease::new(self.clone(), replica, Some(traffic))),
            Err(Some(receiver)) => {
                let queued = Queued {
                    pool: Some(self.clone()),
                    traffic,
                    receiver,
                };
                // There may be room that those before it could not have, as after a pause of starts.
                self.promote();
                Asked::Queued(queued)
            }
            Err(None) => Asked::Refused,
        }
    }

    /// Lets the first in the queue start replicas, as far as there is room. For whenever there may be more than before.
    fn promote(self: &Arc<Self>) {
        let promoted = || self.ledger(|ledger| ledger.promote(&self.bounds_now(Instant::now())));
        while let Some(waiter) = promoted() {
            // One that has gone gives its place to the next, with the lease that comes back.
            drop(waiter.send(Lease::new(self.clone(), None, None)));
        }
    }

    /// Drops idle replicas beyond the most that there may be. For whenever there may be fewer than before.
    fn trim(&self) {
        let beyond = || {
            self.ledger(|ledger| {
                let counts = ledger.counts();
                let is_beyond = counts.idle + counts.busy > self.bounds().max_replica;
                is_beyond.then(|| ledger.take_oldest()).flatten()
            })
        };
        // Dropped outside the lock.
        while let Some(replica) = beyond() {
            drop(replica);
        }
    }

    /// A replica came back, from a request unless it only started.
    fn put_back(self: &Arc<Self>, replica: Box<Self::Replica>, mut from: Option<Traffic>) {
        let now = Instant::now();
        let mut replica = Some(replica);
        while let Some(one) = replica.take() {
            let mut dropped = None;
            let waiter = self.ledger(|ledger| {
                let bounds = self.bounds();
                match ledger.freed(from.take(), &bounds, now) {
                    Freed::To(waiter) => Some((waiter, one)),
                    Freed::Kept => {
                        // Whoever tells it to stop from now on finds it idle.
                        dropped = match Self::is_stopped(&one) {
                            true => Some(one),
                            false => ledger.keep(one, &bounds, now),
                        };
                        None
                    }
                }
            });
            // Outside the lock.
            drop(dropped);
            match waiter {
                Some((waiter, one)) => replica = hand_over(self, waiter, Some(one)),
                None => self.place_came_free(),
            }
        }
    }

    /// A replica is gone: whoever waits may start another in its place.
    fn lost(self: &Arc<Self>, mut from: Option<Traffic>) {
        loop {
            let freed =
                self.ledger(|ledger| ledger.freed(from.take(), &self.bounds(), Instant::now()));
            let Freed::To(waiter) = freed else {
                return self.place_came_free();
            };
            match waiter.send(Lease::new(self.clone(), None, None)) {
                Ok(()) => return,
                Err(lease) => lease.disarm(),
            }
        }
    }
}

/// Gives a replica to one who waits. It comes back if that one has gone.
fn hand_over<P: Places>(
    pool: &Arc<P>,
    waiter: Waiter<P>,
    replica: Option<Box<P::Replica>>,
) -> Option<Box<P::Replica>> {
    match waiter.send(Lease::new(pool.clone(), replica, None)) {
        Ok(()) => None,
        Err(mut lease) => {
            let replica = lease.replica.take();
            lease.disarm();
            replica
        }
    }
}

/// What a request for a place comes to.
pub(super) enum Asked<P: Places> {
    /// A place, with a replica or with room to start one.
    Place(Lease<P>),
    /// A place in the queue.
    Queued(Queued<P>),
    /// Nothing: the queue is full, or the pool closed.
    Refused,
}

/// A place in the queue, given up when this is dropped.
pub(super) struct Queued<P: Places> {
    pool: Option<Arc<P>>,
    traffic: Traffic,
    receiver: oneshot::Receiver<Lease<P>>,
}

impl<P: Places> Queued<P> {
    /// Waits for its turn; nothing when the pool was closed meanwhile.
    pub(super) async fn turn(mut self) -> Option<Lease<P>> {
        let mut lease = (&mut self.receiver).await.ok()?;
        lease.traffic = Some(self.traffic);
        self.pool = None;
        Some(lease)
    }
}

impl<P: Places> Drop for Queued<P> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.ledger(|ledger| ledger.gave_up(self.traffic, Instant::now()));
        }
    }
}

/// The right to one of the pool's places, with a warm replica in it or room to start one.
///
/// Dropped without [`Lease::give_back`], the place is free for another replica.
pub(super) struct Lease<P: Places> {
    pool: Option<Arc<P>>,
    pub(super) replica: Option<Box<P::Replica>>,
    /// The request that has the place; nothing when a replica only starts there.
    pub(super) traffic: Option<Traffic>,
}

impl<P: Places> Lease<P> {
    pub(super) fn new(
        pool: Arc<P>,
        replica: Option<Box<P::Replica>>,
        traffic: Option<Traffic>,
    ) -> Self {
        Self {
            pool: Some(pool),
            replica,
            traffic,
        }
    }

    /// Gives the place back with a replica in it.
    pub(super) fn give_back(mut self, replica: Box<P::Replica>) {
        if let Some(pool) = self.pool.take() {
            pool.put_back(replica, self.traffic);
        }
    }

    /// The request that had the place has gone, and whatever happens in it is no longer for it.
    pub(super) fn request_left(&mut self, now: Instant) {
        if let (Some(pool), Some(traffic)) = (&self.pool, self.traffic.take()) {
            pool.ledger(|ledger| ledger.gave_up(traffic, now));
        }
    }

    fn disarm(mut self) {
        self.pool = None;
    }
}

impl<P: Places> Drop for Lease<P> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            match self.replica.take() {
                Some(replica) => pool.put_back(replica, self.traffic),
                None => pool.lost(self.traffic),
            }
        }
    }
}

#[cfg(test)]
#[path = "handoff_tests.rs"]
mod tests;
