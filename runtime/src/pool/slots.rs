//! The replica slots of a node: how many there are, which deployment gets the next, and which idle replica is dropped for it.

mod handoff;
#[cfg(test)]
mod interleavings;
mod queue;

pub(crate) use handoff::{IdleHolder, SlotPermit, SlotShare, Slots};

/// The primitives that `handoff` runs on; `interleavings` runs it on shuttle's.
mod sync {
    pub use std::sync::atomic::{AtomicUsize, Ordering};
    pub use std::sync::{Mutex, MutexGuard};
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, Weak};
    use std::time::Instant;

    use super::*;

    /// Idle replicas, the oldest first.
    #[derive(Default)]
    struct Idles(Mutex<Vec<(Instant, SlotPermit)>>);

    impl IdleHolder for Idles {
        fn count_idle(&self) -> usize {
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
    async fn an_abandoned_start_does_not_block_others() {
        let (slots, idles) = (Slots::new(1), Arc::<Idles>::default());
        let (a, b) = (
            slots.add_deployment(holder(&idles)),
            slots.add_deployment(holder(&idles)),
        );
        let held = a.acquire(1).await;
        let mut gone = Box::pin(b.acquire(1));
        assert!(futures::poll!(&mut gone).is_pending());
        let mut waits = Box::pin(a.acquire(1));
        assert!(futures::poll!(&mut waits).is_pending());
        assert!(a.must_yield() && !b.must_yield());
        drop(gone);
        assert!(!a.must_yield());
        drop(held);
        drop(waits.await);
        assert!(a.has_room());
    }

    #[tokio::test]
    async fn slots_sent_to_an_abandoned_start_come_back() {
        let (slots, idles) = (Slots::new(1), Arc::<Idles>::default());
        let share = slots.add_deployment(holder(&idles));
        let held = share.acquire(1).await;
        let mut gone = Box::pin(share.acquire(1));
        assert!(futures::poll!(&mut gone).is_pending());
        // It has its slot now, and is never polled again.
        drop(held);
        drop(gone);
        assert!(share.has_room());
        drop(share.acquire(1).await);
    }

    #[tokio::test]
    async fn a_replica_that_becomes_idle_is_dropped_for_a_waiting_start() {
        let (slots, idles) = (Slots::new(1), Arc::<Idles>::default());
        let (a, b) = (
            slots.add_deployment(holder(&idles)),
            slots.add_deployment(Weak::<Idles>::new()),
        );
        let replica = a.acquire(1).await;
        let mut waits = Box::pin(b.acquire(1));
        assert!(futures::poll!(&mut waits).is_pending());
        idles.0.lock().unwrap().push((Instant::now(), replica));
        a.on_place_free();
        drop(waits.await);
        assert_eq!(idles.count_idle(), 0);
    }

    #[tokio::test]
    async fn a_heavy_start_drops_as_many_idle_replicas_as_it_needs() {
        let (slots, idles) = (Slots::new(4), Arc::<Idles>::default());
        let light = slots.add_deployment(holder(&idles));
        let heavy = slots.add_deployment(Weak::<Idles>::new());
        for _ in 0..3 {
            let replica = light.acquire(1).await;
            idles.0.lock().unwrap().push((Instant::now(), replica));
        }
        assert!(!light.has_room());
        let _slot = heavy.acquire(3).await;
        assert_eq!(idles.count_idle(), 1);
    }
}
