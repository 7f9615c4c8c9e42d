//! How many replicas a node may hold, who gets the next slot, and whose idle replica goes for it.

mod handoff;
#[cfg(test)]
mod interleavings;
mod queue;

pub(crate) use handoff::{IdleHolder, Share, Slot, Slots};

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
        a.place_came_free();
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
