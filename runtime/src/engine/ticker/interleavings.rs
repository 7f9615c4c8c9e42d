//! Turns that begin while the ticker parks, in every interleaving and every order of memory accesses that processors allow.
//!
//! Runs the code of `turns.rs` on loom's atomics. Unlike shuttle, loom models weak memory, so a missing fence is found.

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use turns::{Activity, Parking, Turn};

mod sync {
    pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

#[allow(clippy::duplicate_mod, reason = "the same code, on loom's atomics")]
#[path = "turns.rs"]
mod turns;

/// The turns of two executor threads, and the ticker that watches them.
#[derive(Default)]
struct Watched {
    turns: [Turn; 2],
    parking: Parking,
}

impl Watched {
    fn check(&self) -> Activity {
        let activities = self.turns.iter().map(Turn::check);
        activities.max().unwrap_or(Activity::Idle)
    }

    /// Parks again and again until a turn is long or the ticker is stopped. A wake-up that gets lost leaves the thread asleep,
    /// which loom reports as a deadlock.
    fn tick(&self) {
        while !self.parking.is_stopped() {
            self.parking.park(|| self.check(), thread::park);
            if self.check() == Activity::Long {
                return;
            }
        }
    }
}

/// A ticker on a thread of its own.
fn ticker() -> (Arc<Watched>, thread::JoinHandle<()>) {
    let watched = Arc::new(Watched::default());
    let ticks = watched.clone();
    (watched, thread::spawn(move || ticks.tick()))
}

#[test]
fn a_turn_that_begins_while_the_ticker_parks_is_seen() {
    loom::model(|| {
        let (watched, ticker) = ticker();
        let wake = || ticker.thread().unpark();
        let turn = watched.turns[0].begin(&watched.parking, wake);
        // The guest computes until the ticker has seen it.
        ticker.join().unwrap();
        drop(turn);
    });
}

#[test]
fn a_turn_is_seen_that_follows_one_that_woke_the_ticker() {
    loom::model(|| {
        let (watched, ticker) = ticker();
        let wake = || ticker.thread().unpark();
        drop(watched.turns[0].begin(&watched.parking, wake));
        let turn = watched.turns[0].begin(&watched.parking, wake);
        ticker.join().unwrap();
        drop(turn);
    });
}

#[test]
fn a_turn_is_seen_beside_short_ones_of_another_thread() {
    let mut model = Builder::new();
    // With three threads all interleavings are too many.
    model.preemption_bound = Some(2);
    model.check(|| {
        let (watched, ticker) = ticker();
        let (brisk, ticks) = (watched.clone(), ticker.thread().clone());
        let brisk = thread::spawn(move || {
            let wake = || ticks.unpark();
            drop(brisk.turns[0].begin(&brisk.parking, wake));
        });
        let wake = || ticker.thread().unpark();
        let turn = watched.turns[1].begin(&watched.parking, wake);
        ticker.join().unwrap();
        drop(turn);
        brisk.join().unwrap();
    });
}

#[test]
fn a_ticker_that_is_stopped_while_it_parks_ends() {
    loom::model(|| {
        let (watched, ticker) = ticker();
        watched.parking.stop(|| ticker.thread().unpark());
        ticker.join().unwrap();
    });
}
