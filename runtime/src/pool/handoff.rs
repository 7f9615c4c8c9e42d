//! How the places of a pool change hands: requested, queued for, returned, released, abandoned. Requests get places in the order in
//! which they arrive, and no place or request is lost, whichever of these coincide.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::load::Traffic;
use super::state::{Admission, PoolSettings, PoolState, Released};

/// Delivers a place to a queued request.
pub(super) type Waiter<P> = oneshot::Sender<Lease<P>>;

/// A pool, as far as its places are concerned. A place holds one replica, which serves, starts or is idle.
pub(super) trait Places: Send + Sync + Sized + 'static {
    type Replica: Send;

    /// Runs `update` on the state, under its lock.
    fn with_state<T>(
        &self,
        update: impl FnOnce(&mut PoolState<Box<Self::Replica>, Waiter<Self>>) -> T,
    ) -> T;

    /// The current settings. Read under the lock of the state: whoever changes them updates the state afterwards, which
    /// corrects what was decided by the old ones.
    fn current_settings(&self) -> PoolSettings;

    /// The settings that apply to new replicas at this time.
    fn start_settings(&self, now: Instant) -> PoolSettings;

    /// Whether a replica was told to stop.
    fn is_stopping(replica: &Self::Replica) -> bool;

    /// Called after a place became free that no request took over.
    fn on_place_free(&self);

    /// Requests a place for a request that arrives.
    fn request_place(self: &Arc<Self>, traffic: Traffic, now: Instant) -> PlaceRequest<Self> {
        let admitted = self.with_state(|state| {
            let settings = self.start_settings(now);
            let admission = match state.admit(traffic, &settings, now) {
                Admission::Full => {
                    // Clients that hung up may still be queued.
                    state.remove_waiters(oneshot::Sender::is_closed);
                    state.admit(traffic, &settings, now)
                }
                admission => admission,
            };
            match admission {
                Admission::Reuse(replica) => Ok(Some(replica)),
                Admission::Start => Ok(None),
                Admission::Wait => {
                    let (sender, receiver) = oneshot::channel();
                    state.enqueue(sender);
                    Err(Some(receiver))
                }
                Admission::Full | Admission::Closed => Err(None),
            }
        });
        match admitted {
            Ok(replica) => PlaceRequest::Granted(Lease::new(self.clone(), replica, Some(traffic))),
            Err(Some(receiver)) => {
                let queued = QueuedRequest {
                    pool: Some(self.clone()),
                    traffic,
                    receiver,
                };
                // There may be room that the requests before it could not have, as after a pause of starts.
                self.start_waiters();
                PlaceRequest::Queued(queued)
            }
            Err(None) => PlaceRequest::Rejected,
        }
    }

    /// Gives places to queued requests while there is room to start replicas. To be called whenever there may be more room.
    fn start_waiters(self: &Arc<Self>) {
        let take =
            || self.with_state(|state| state.take_waiter(&self.start_settings(Instant::now())));
        while let Some(waiter) = take() {
            // If the client has gone, dropping the returned lease gives the place to the next one.
            drop(waiter.send(Lease::new(self.clone(), None, None)));
        }
    }

    /// Drops idle replicas above the maximum. To be called whenever the maximum may be lower.
    fn drop_surplus(&self) {
        let remove = || {
            self.with_state(|state| {
                let counts = state.counts();
                let has_surplus = counts.idle + counts.busy > self.current_settings().max_replica;
                has_surplus.then(|| state.remove_oldest_idle()).flatten()
            })
        };
        // Dropped outside the lock.
        while let Some(replica) = remove() {
            drop(replica);
        }
    }

    /// Returns a replica with its place. `from` is the request that had them; `None` if the replica only started.
    fn return_replica(self: &Arc<Self>, replica: Box<Self::Replica>, mut from: Option<Traffic>) {
        let now = Instant::now();
        let mut returned = Some(replica);
        while let Some(replica) = returned.take() {
            let mut dropped = None;
            let waiter = self.with_state(|state| {
                let settings = self.current_settings();
                match state.release(from.take(), &settings, now) {
                    Released::ToWaiter(waiter) => Some((waiter, replica)),
                    Released::Free => {
                        // Under the lock: a stop that comes later finds the replica among the idle ones.
                        dropped = match Self::is_stopping(&replica) {
                            true => Some(replica),
                            false => state.put_idle(replica, &settings, now),
                        };
                        None
                    }
                }
            });
            // Outside the lock.
            drop(dropped);
            match waiter {
                Some((waiter, replica)) => returned = send_replica(self, waiter, replica),
                None => self.on_place_free(),
            }
        }
    }

    /// Releases a place whose replica is gone. The first request in the queue may start another one in it.
    fn release_place(self: &Arc<Self>, mut from: Option<Traffic>) {
        loop {
            let released = self.with_state(|state| {
                state.release(from.take(), &self.current_settings(), Instant::now())
            });
            let Released::ToWaiter(waiter) = released else {
                return self.on_place_free();
            };
            match waiter.send(Lease::new(self.clone(), None, None)) {
                Ok(()) => return,
                Err(lease) => lease.disarm(),
            }
        }
    }
}

/// Sends a replica to a queued request. Returns it if that request's client has gone.
fn send_replica<P: Places>(
    pool: &Arc<P>,
    waiter: Waiter<P>,
    replica: Box<P::Replica>,
) -> Option<Box<P::Replica>> {
    match waiter.send(Lease::new(pool.clone(), Some(replica), None)) {
        Ok(()) => None,
        Err(mut lease) => {
            let replica = lease.replica.take();
            lease.disarm();
            replica
        }
    }
}

/// The answer to a request for a place.
pub(super) enum PlaceRequest<P: Places> {
    /// A place, with a replica or with room to start one.
    Granted(Lease<P>),
    /// The request waits in the queue.
    Queued(QueuedRequest<P>),
    /// The queue is full, or the pool is closed.
    Rejected,
}

/// A request in the queue. Dropping it abandons the request.
pub(super) struct QueuedRequest<P: Places> {
    pool: Option<Arc<P>>,
    traffic: Traffic,
    receiver: oneshot::Receiver<Lease<P>>,
}

impl<P: Places> QueuedRequest<P> {
    /// Waits for a place; `None` when the pool is closed meanwhile.
    pub(super) async fn wait(mut self) -> Option<Lease<P>> {
        let mut lease = (&mut self.receiver).await.ok()?;
        lease.traffic = Some(self.traffic);
        self.pool = None;
        Some(lease)
    }
}

impl<P: Places> Drop for QueuedRequest<P> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.with_state(|state| state.abandon(self.traffic, Instant::now()));
        }
    }
}

/// The right to one of the pool's places, with a warm replica in it or room to start one.
///
/// Dropped without [`Lease::give_back`], it releases the place for another replica.
pub(super) struct Lease<P: Places> {
    pool: Option<Arc<P>>,
    pub(super) replica: Option<Box<P::Replica>>,
    /// The request that has the place; `None` if a replica only starts there.
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

    /// Returns the place with a replica in it.
    pub(super) fn give_back(mut self, replica: Box<P::Replica>) {
        if let Some(pool) = self.pool.take() {
            pool.return_replica(replica, self.traffic);
        }
    }

    /// Ends the load of the request that had the place: its client has gone, and what happens there is no longer for it.
    pub(super) fn abandon_request(&mut self, now: Instant) {
        if let (Some(pool), Some(traffic)) = (&self.pool, self.traffic.take()) {
            pool.with_state(|state| state.abandon(traffic, now));
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
                Some(replica) => pool.return_replica(replica, self.traffic),
                None => pool.release_place(self.traffic),
            }
        }
    }
}

#[cfg(test)]
#[path = "handoff_tests.rs"]
mod tests;
