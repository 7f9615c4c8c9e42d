//! Starts that request slots, wait, give up and end at the same time, in thousands of interleavings.
//!
//! Runs the code of `handoff.rs` on shuttle's primitives: a start that is lost leaves the test waiting, which shuttle
//! reports as a deadlock.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread;

use super::queue;
use handoff::{IdleHolder, SlotPermit, Slots};

mod sync {
    pub use shuttle::sync::atomic::{AtomicUsize, Ordering};
    pub use shuttle::sync::{Mutex, MutexGuard};
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same code, on shuttle's primitives, of which the tests need a part"
)]
#[path = "handoff.rs"]
mod handoff;

use Fate::{Ends, GivesUp, Idles, Polls};

/// What becomes of a start of a replica.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// The replica serves, and is dropped.
    Ends,
    /// The replica serves, and stays idle until its slots are needed.
    Idles,
    /// The start is abandoned after its first poll.
    GivesUp,
    /// The start is abandoned after some polls, perhaps with slots on their way.
    Polls,
}

/// A deployment with its idle replicas, the oldest first.
#[derive(Default)]
struct Deployment(Mutex<Vec<(Instant, SlotPermit)>>);

impl IdleHolder for Deployment {
    fn count_idle(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn oldest_idle(&self) -> Option<Instant> {
        Some(self.0.lock().unwrap().first()?.0)
    }

    fn evict_oldest(&self) {
        let mut idle = self.0.lock().unwrap();
        let evicted = (!idle.is_empty()).then(|| idle.remove(0));
        // Dropped without this lock, which the start that gets the slots takes.
        drop(idle);
        drop(evicted);
    }
}

/// One replica of a deployment of which each takes `weight` slots.
fn start(share: &handoff::SlotShare, holder: &Deployment, weight: u32, fate: Fate) {
    if matches!(fate, GivesUp | Polls) {
        let mut taken = pin!(share.acquire(weight));
        let polls = if fate == Polls { 3 } else { 1 };
        for _ in 0..polls {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(slot) = taken.as_mut().poll(&mut cx) {
                drop(slot);
                return share.on_place_free();
            }
            thread::yield_now();
        }
        return;
    }
    let slot = block_on(share.acquire(weight));
    thread::yield_now();
    // What a pool does.
    match fate == Idles && !share.must_yield() {
        true => holder.0.lock().unwrap().push((Instant::now(), slot)),
        false => drop(slot),
    }
    share.on_place_free();
}

/// Deployments with their weights and the fates of their starts, side by side on a node of `total` slots.
fn together(total: u32, deployments: &'static [(u32, &'static [Fate])]) {
    let slots = Arc::new(Slots::new(total));
    let (mut threads, mut shares) = (Vec::new(), Vec::new());
    for (weight, fates) in deployments {
        let holder = Arc::<Deployment>::default();
        let as_holder: Arc<dyn IdleHolder> = holder.clone();
        let share = Arc::new(slots.add_deployment(Arc::downgrade(&as_holder)));
        for fate in *fates {
            let (share, holder) = (share.clone(), holder.clone());
            threads.push(thread::spawn(move || {
                start(&share, &holder, *weight, *fate);
            }));
        }
        shares.push(share);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    drop(shares);
    // All deployments are gone, with their idle replicas: every slot is free again.
    let all = slots.add_deployment(Weak::<Deployment>::new());
    drop(block_on(all.acquire(total)));
}

/// Runs a round under a random scheduler, and under one that finds rare orders of few events.
fn check(round: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(round.clone(), 2_000);
    shuttle::check_pct(round, 2_000, 3);
}

#[test]
fn no_start_is_forgotten_and_no_slot_lost() {
    check(|| together(1, &[(1, &[Ends, GivesUp, Ends]), (1, &[Ends, Polls])]));
    check(|| together(2, &[(1, &[Ends, Polls, Ends]), (2, &[Ends, GivesUp])]));
}

#[test]
fn idle_replicas_go_for_starts_that_wait() {
    check(|| together(1, &[(1, &[Idles, Idles]), (1, &[Idles, Ends, Polls])]));
    check(|| together(3, &[(1, &[Idles, Idles, Idles]), (3, &[Ends, Idles])]));
    // A slot is reserved for the deployment that starts nothing, and each replica of the other needs all.
    check(|| together(3, &[(3, &[Idles, Ends, Idles]), (1, &[])]));
}

#[test]
fn a_start_that_came_later_does_not_overtake() {
    check(|| {
        let slots = Slots::new(1);
        let share = Arc::new(slots.add_deployment(Weak::<Deployment>::new()));
        let held = block_on(share.acquire(1));
        let served = Arc::new(Mutex::new(Vec::new()));
        // The first is in the queue before the second asks, while the slot comes back at any time.
        let frees = thread::spawn(move || drop(held));
        let mut first = Box::pin(share.acquire(1));
        let early = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let second = {
            let (share, served) = (share.clone(), served.clone());
            thread::spawn(move || {
                let slot = block_on(share.acquire(1));
                served.lock().unwrap().push("second");
                drop(slot);
            })
        };
        let slot = match early {
            Poll::Ready(slot) => slot,
            Poll::Pending => block_on(first),
        };
        served.lock().unwrap().push("first");
        drop(slot);
        frees.join().unwrap();
        second.join().unwrap();
        assert_eq!(*served.lock().unwrap(), ["first", "second"]);
    });
}

#[test]
fn a_start_that_gives_up_holds_up_none_that_an_idle_replica_can_help() {
    check(|| {
        let slots = Arc::new(Slots::new(2));
        let holder = Arc::<Deployment>::default();
        let as_holder: Arc<dyn IdleHolder> = holder.clone();
        let share = slots.add_deployment(Arc::downgrade(&as_holder));
        let other = slots.add_deployment(Weak::<Deployment>::new());
        let busy = block_on(other.acquire(1));
        let idle = block_on(share.acquire(1));
        holder.0.lock().unwrap().push((Instant::now(), idle));
        let heavy = slots.add_deployment(Weak::<Deployment>::new());
        let light = slots.add_deployment(Weak::<Deployment>::new());
        // It needs both slots, of which one is busy.
        let mut first = Box::pin(heavy.acquire(2));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut cx).is_pending());
        let second = thread::spawn(move || drop(block_on(light.acquire(1))));
        drop(first);
        second.join().unwrap();
        drop(busy);
    });
}
