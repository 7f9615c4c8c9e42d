//! How slots go from replica to replica: asked for, waited for, given back, given up, made free by dropping idle replicas.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{Idle, Member, Queue};
use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

/// Keeps idle replicas and can part with them.
pub(crate) trait IdleHolder: Send + Sync {
    /// How many idle replicas it has.
    fn idle(&self) -> usize;
    /// Since when its longest idle replica has been idle.
    fn oldest_idle(&self) -> Option<Instant>;
    /// Drops that replica.
    fn evict_oldest(&self);
}

/// The replica slots of a node, shared by its deployments.
pub(crate) struct Slots {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Starts that wait, readable without the lock.
    waiting: AtomicUsize,
}

struct State {
    queue: Queue<oneshot::Sender<Slot>>,
    holders: Vec<(Member, Weak<dyn IdleHolder>)>,
}

/// A deployment's claim to slots.
pub(crate) struct Share {
    inner: Arc<Inner>,
    member: Member,
}

/// The slots of one replica, free again when dropped.
pub(crate) struct Slot {
    inner: Arc<Inner>,
    member: Member,
    slots: usize,
}

impl Slots {
    /// As many slots as the allocator can hold replicas.
    pub fn new(count: u32) -> Self {
        let state = State {
            queue: Queue::new(count as usize),
            holders: Vec::new(),
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                waiting: AtomicUsize::new(0),
            }),
        }
    }

    /// The share of a deployment. Its idle replicas are dropped for others.
    pub fn share(&self, holder: Weak<dyn IdleHolder>) -> Share {
        let mut state = self.inner.lock();
        let member = state.queue.join();
        state.holders.push((member, holder));
        drop(state);
        Share {
            inner: self.inner.clone(),
            member,
        }
    }
}

impl Share {
    /// `slots` slots for one replica: free ones, else those of the replicas idle for longest on this node, else the next to come
    /// free. Dropping the future gives its place in the queue up.
    pub async fn take(&self, slots: u32) -> Slot {
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut state = self.inner.lock();
            state.queue.weigh(self.member, slots as usize);
            state.queue.ask(self.member, sender)
        };
        // Takes the start out of the queue if the future is dropped before it has slots.
        let _asked = Asked {
            inner: &self.inner,
            id,
        };
        self.inner.hand_out();
        self.inner.make_room();
        match receiver.await {
            Ok(slot) => slot,
            // Its sender goes with the share alone, which is borrowed here.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether a replica could start at once without another having to go.
    pub fn has_room(&self) -> bool {
        self.inner.lock().queue.has_room(self.member)
    }

    /// Whether a replica that came free is to go, because a deployment that holds fewer slots waits for them.
    pub fn must_yield(&self) -> bool {
        self.inner.is_waited_for() && self.inner.lock().queue.owes(self.member)
    }

    /// Says that a busy replica became idle or has gone: idle ones go if a start waits that can have their slots now.
    pub fn place_came_free(&self) {
        self.inner.make_room_if_waited_for();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.queue.leave(self.member);
        state.holders.retain(|(member, _)| *member != self.member);
        drop(state);
        // Slots that were reserved for it are free for others.
        self.inner.hand_out();
        self.inner.make_room_if_waited_for();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.lock().queue.release(self.member, self.slots);
        self.inner.hand_out();
    }
}

/// A start that waits.
struct Asked<'a> {
    inner: &'a Arc<Inner>,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.inner.lock().queue.forget(self.id);
        // It may have stood before others that have room, or can have that of idle replicas.
        self.inner.hand_out();
        self.inner.make_room_if_waited_for();
    }
}

impl Inner {
    fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Gives free slots to those who wait, as far as they reach.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.queue.next();
                self.waiting.store(state.queue.waiting(), Ordering::Relaxed);
                next
            };
            let Some((member, slots, waiter)) = next else {
                return;
            };
            let slot = Slot {
                inner: self.clone(),
                member,
                slots,
            };
            // Sent without the lock: slots that nobody takes any more come back at once.
            drop(waiter.send(slot));
        }
    }

    fn make_room_if_waited_for(&self) {
        if self.is_waited_for() {
            self.make_room();
        }
    }

    /// Drops idle replicas, longest idle first, until the next start has its slots or that no longer helps.
    fn make_room(&self) {
        loop {
            let holders: Vec<(Member, Arc<dyn IdleHolder>)> = {
                let state = self.lock();
                if state.queue.waiting() == 0 {
                    return;
                }
                let alive = |(member, holder): &(Member, Weak<dyn IdleHolder>)| {
                    Some((*member, holder.upgrade()?))
                };
                state.holders.iter().filter_map(alive).collect()
            };
            // Asked without the lock: a holder that drops a replica takes it.
            let idle: Vec<Idle> = holders
                .iter()
                .map(|(member, holder)| Idle {
                    member: *member,
                    replicas: holder.idle(),
                })
                .collect();
            if !self.lock().queue.can_be_helped(&idle) {
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
        // Every method of the queue leaves it whole, also when a later one panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
