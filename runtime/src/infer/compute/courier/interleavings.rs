//! Tasks that are left while the listener delivers or ends, in every interleaving and every order of memory accesses that
//! processors allow.
//!
//! Runs the code of `wakes.rs` on loom's primitives: a wake-up that gets lost leaves the test waiting, which loom reports as a
//! deadlock.

use std::sync::Arc as StdArc;
use std::task::{Wake, Waker};

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use wakes::Wakes;

mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering};
    pub use loom::sync::{Mutex, MutexGuard};
}

#[allow(clippy::duplicate_mod, reason = "the same code, on loom's primitives")]
#[path = "wakes.rs"]
mod wakes;

/// Something to count, and to wait for.
#[derive(Default)]
struct Counter {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Counter {
    fn add(&self) -> usize {
        let mut count = self.count.lock().unwrap();
        *count += 1;
        self.changed.notify_all();
        *count
    }

    fn now(&self) -> usize {
        *self.count.lock().unwrap()
    }

    fn take(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.changed.wait(count).unwrap();
        }
        *count -= 1;
    }
}

/// A task that counts how often tasks were woken.
struct Task(Arc<Counter>);

impl Wake for Task {
    fn wake(self: StdArc<Self>) {
        self.0.add();
    }
}

/// Some wakes, the pipe with its bytes, and how many tasks were woken.
#[derive(Default)]
struct Office {
    wakes: Wakes,
    pipe: Counter,
    pipe_holds: usize,
    woken: Arc<Counter>,
}

impl Office {
    fn send(&self) {
        let task = Waker::from(StdArc::new(Task(self.woken.clone())));
        self.wakes.send(task, || {
            let bytes = self.pipe.add();
            assert!(bytes <= self.pipe_holds, "the sender would wait");
            true
        });
    }
}

/// Runs `listen` beside two threads that each leave a task and ring by a byte in a pipe of that size.
fn beside_senders(pipe_holds: usize, listen: impl Fn(&Office) + Send + Sync + 'static) {
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let office = Arc::new(Office {
            pipe_holds,
            ..Office::default()
        });
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let office = office.clone();
                thread::spawn(move || office.send())
            })
            .collect();
        listen(&office);
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(office.wakes.waiting().is_empty());
    });
}

#[test]
fn every_task_is_woken_whenever_it_is_left() {
    beside_senders(1, |office| {
        while office.woken.now() < 2 {
            office.pipe.take();
            office.wakes.deliver();
        }
    });
}

#[test]
fn every_task_is_woken_that_is_left_while_the_listener_ends() {
    // The listener is gone while the first byte lies there.
    beside_senders(2, |office| office.wakes.close());
}

#[test]
fn a_task_is_woken_at_once_when_the_bell_does_not_ring() {
    beside_senders(1, |office| {
        let task = Waker::from(StdArc::new(Task(office.woken.clone())));
        office.wakes.send(task, || false);
        while office.woken.now() < 3 {
            office.pipe.take();
            office.wakes.deliver();
        }
    });
}
