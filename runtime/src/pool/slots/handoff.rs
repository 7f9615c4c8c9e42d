//! How slots change hands: requested, waited for, released, abandoned, or freed by dropping idle replicas.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{DeploymentKey, IdleReplicas, SlotQueue};
use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// Holds idle replicas that can be dropped.
pub(crate) trait IdleHolder: Send + Sync {
    /// The number of idle replicas.
    fn count_idle(&self) -> usize;
    /// Since when the longest idle replica has been idle.
    fn oldest_idle(&self) -> Option<Instant>;
    /// Drops the longest idle replica.
    fn evict_oldest(&self);
}

/// The replica slots of a node, shared by its deployments.
pub(crate) struct Slots {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Starts that wait; read without the lock.
    waiting: AtomicUsize,
}

struct State {
    queue: SlotQueue<oneshot::Sender<SlotPermit>>,
    holders: Vec<(DeploymentKey, Weak<dyn IdleHolder>)>,
}

/// A deployment's access to the slots.
pub(crate) struct SlotShare {
    inner: Arc<Inner>,
    deployment: DeploymentKey,
}

/// The slots of one replica. Dropping it releases them.
pub(crate) struct SlotPermit {
    inner: Arc<Inner>,
    deployment: DeploymentKey,
    slots: usize,
}

impl Slots {
    /// `count` slots: as many replicas as the allocator can hold.
    pub fn new(count: u32) -> Self {
        let state = State {
            queue: SlotQueue::new(count as usize),
            holders: Vec::new(),
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                waiting: AtomicUsize::new(0),
            }),
        }
    }

    /// Adds a deployment. Its idle replicas may be dropped for others.
    pub fn add_deployment(&self, holder: Weak<dyn IdleHolder>) -> SlotShare {
        let mut state = self.inner.lock();
        let deployment = state.queue.add_deployment();
        state.holders.push((deployment, holder));
        drop(state);
        SlotShare {
            inner: self.inner.clone(),
            deployment,
        }
    }
}

impl SlotShare {
    /// Acquires `slots` slots for one replica: free ones, or those of the replicas that have been idle for longest on this node,
    /// or the next to be released. Dropping the future abandons the request.
    pub async fn acquire(&self, slots: u32) -> SlotPermit {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut state = self.inner.lock();
            state.queue.set_weight(self.deployment, slots as usize);
            state.queue.enqueue(self.deployment, sender)
        };
        // Removes the start from the queue when the future is dropped.
        let _queued = QueuedStart {
            inner: &self.inner,
            id,
        };
        self.inner.grant_slots();
        self.inner.make_room();
        match receiver.await {
            Ok(permit) => permit,
            // The sender is dropped only with the share, which is borrowed here.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether a replica could start at once without dropping an idle one.
    pub fn has_room(&self) -> bool {
        self.inner.lock().queue.has_room(self.deployment)
    }

    /// Whether a replica that finished a request should be dropped, because a deployment that holds fewer slots waits for some.
    pub fn must_yield(&self) -> bool {
        self.inner.has_waiters() && self.inner.lock().queue.must_yield(self.deployment)
    }

    /// To be called when a replica became idle or is gone: drops idle replicas if a waiting start can have their slots now.
    pub fn on_place_free(&self) {
        self.inner.make_room_if_waiting();
    }
}

impl Drop for SlotShare {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.queue.remove_deployment(self.deployment);
        state
            .holders
            .retain(|(deployment, _)| *deployment != self.deployment);
        drop(state);
        // Others may take the slots that were reserved for it.
        self.inner.grant_slots();
        self.inner.make_room_if_waiting();
    }
}

impl Drop for SlotPermit {
    fn drop(&mut self) {
        self.inner.lock().queue.release(self.deployment, self.slots);
        self.inner.grant_slots();
    }
}

/// A start in the queue. Dropping it removes the start.
struct QueuedStart<'a> {
    inner: &'a Arc<Inner>,
    id: u64,
}

impl Drop for QueuedStart<'_> {
    fn drop(&mut self) {
        self.inner.lock().queue.cancel(self.id);
        // Starts behind it may have room now, or can have the slots of idle replicas.
        self.inner.grant_slots();
        self.inner.make_room_if_waiting();
    }
}

impl Inner {
    fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Grants free slots to waiting starts while they suffice.
    fn grant_slots(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.queue.grant_next();
                self.waiting.store(state.queue.waiting(), Ordering::Relaxed);
                next
            };
            let Some((deployment, slots, waiter)) = next else {
                return;
            };
            let permit = SlotPermit {
                inner: self.clone(),
                deployment,
                slots,
            };
            // Sent without the lock: if the receiver is gone, the permit is dropped here, which takes the lock.
            drop(waiter.send(permit));
        }
    }

    fn make_room_if_waiting(&self) {
        if self.has_waiters() {
            self.make_room();
        }
    }

    /// Drops idle replicas, longest idle first, until the next start has its slots or dropping more does not help.
    fn make_room(&self) {
        loop {
            let holders: Vec<(DeploymentKey, Arc<dyn IdleHolder>)> = {
                let state = self.lock();
                if state.queue.waiting() == 0 {
                    return;
                }
                let alive = |(deployment, holder): &(DeploymentKey, Weak<dyn IdleHolder>)| {
                    Some((*deployment, holder.upgrade()?))
                };
                state.holders.iter().filter_map(alive).collect()
            };
            // Without the lock, which a holder takes when it drops a replica.
            let idle: Vec<IdleReplicas> = holders
                .iter()
                .map(|(deployment, holder)| IdleReplicas {
                    deployment: *deployment,
                    replicas: holder.count_idle(),
                })
                .collect();
            if !self.lock().queue.can_evict_enough(&idle) {
                return;
            }
            let oldest = holders
                .iter()
                .filter_map(|(_, holder)| Some((holder.oldest_idle()?, holder)))
                .min_by_key(|(since, _)| *since);
            let Some((_, holder)) = oldest else {
                return;
            };
            holder.evict_oldest();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each method leaves the queue consistent, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
