//! How many replicas a node may hold, who gets the next slot, and whose idle replica goes for it.

mod queue;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::oneshot;

use queue::{Idle, Member, Queue};

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

    /// Says that a replica became idle: it goes if a start waits that can have its slots.
    pub fn became_idle(&self) {
        if self.inner.is_waited_for() {
            self.inner.make_room();
        }
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
        // It may have stood before others that have room.
        self.inner.hand_out();
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Idle replicas, the oldest first.
    #[derive(Default)]
    struct Idles(Mutex<Vec<(Instant, Slot)>>);

    impl IdleHolder for Idles {
        fn idle(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        fn oldest_idle(&self) -> Option<Instant> {
            Some(self.0.lock().unwrap().first()?.0)
        }

        fn evict_oldest(&self) {
            let oldest = self.0.lock().unwrap().remove(0);
            drop(oldest);
        }
    }

    fn holder(idles: &Arc<Idles>) -> Weak<dyn IdleHolder> {
        let holder: Arc<dyn IdleHolder> = idles.clone();
        Arc::downgrade(&holder)
    }

    #[tokio::test]
    async fn a_start_that_was_given_up_holds_nobody_up() {
        let (slots, idles) = (Slots::new(1), Arc::<Idles>::default());
        let (a, b) = (slots.share(holder(&idles)), slots.share(holder(&idles)));
        let held = a.take(1).await;
        let mut gone = Box::pin(b.take(1));
        assert!(futures::poll!(&mut gone).is_pending());
        let mut waits = Box::pin(a.take(1));
        assert!(futures::poll!(&mut waits).is_pending());
        assert!(a.must_yield() && !b.must_yield());
        drop(gone);
        assert!(!a.must_yield());
        drop(held);
        drop(waits.await);
        assert!(a.has_room());
    }

    #[tokio::test]
    async fn slots_that_were_sent_to_nobody_come_back() {
        let (slots, idles) = (Slots::new(1), Arc::<Idles>::default());
        let share = slots.share(holder(&idles));
        let held = share.take(1).await;
        let mut gone = Box::pin(share.take(1));
        assert!(futures::poll!(&mut gone).is_pending());
        // It has its slot now, and is never polled again.
        drop(held);
        drop(gone);
        assert!(share.has_room());
        drop(share.take(1).await);
    }

    #[tokio::test]
    async fn a_replica_that_becomes_idle_goes_for_a_start_that_waits() {
        let (slots, idles) = (Slots::new(1), Arc::<Idles>::default());
        let (a, b) = (
            slots.share(holder(&idles)),
            slots.share(Weak::<Idles>::new()),
        );
        let replica = a.take(1).await;
        let mut waits = Box::pin(b.take(1));
        assert!(futures::poll!(&mut waits).is_pending());
        idles.0.lock().unwrap().push((Instant::now(), replica));
        a.became_idle();
        drop(waits.await);
        assert_eq!(idles.idle(), 0);
    }

    #[tokio::test]
    async fn a_heavy_start_takes_as_many_idle_replicas_as_it_needs() {
        let (slots, idles) = (Slots::new(4), Arc::<Idles>::default());
        let light = slots.share(holder(&idles));
        let heavy = slots.share(Weak::<Idles>::new());
        for _ in 0..3 {
            let replica = light.take(1).await;
            idles.0.lock().unwrap().push((Instant::now(), replica));
        }
        assert!(!light.has_room());
        let _slot = heavy.take(3).await;
        assert_eq!(idles.idle(), 1);
    }
}
