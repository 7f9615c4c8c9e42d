//! Tasks that are added while the listener wakes others or ends, in every interleaving and every order of memory accesses that
//! processors allow.
//!
//! Runs the code of `pending.rs` on loom's primitives: a lost wake-up leaves the test waiting, which loom reports as a deadlock.

use std::sync::Arc as StdArc;
use std::task::{Wake, Waker};

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use pending::PendingWakes;

mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering};
    pub use loom::sync::{Mutex, MutexGuard};
}

#[allow(clippy::duplicate_mod, reason = "the same code, on loom's primitives")]
#[path = "pending.rs"]
mod pending;

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

/// The pending tasks, the bytes in the pipe, and the number of tasks woken.
#[derive(Default)]
struct Setup {
    pending: PendingWakes,
    pipe: Counter,
    pipe_capacity: usize,
    woken: Arc<Counter>,
}

impl Setup {
    fn send(&self) {
        let task = Waker::from(StdArc::new(Task(self.woken.clone())));
        self.pending.push(task, || {
            let bytes = self.pipe.add();
            assert!(bytes <= self.pipe_capacity, "the thread would block");
            true
        });
    }
}

/// Runs `listen` beside two threads that each add a task and signal with a byte in a pipe of this capacity.
fn beside_senders(pipe_capacity: usize, listen: impl Fn(&Setup) + Send + Sync + 'static) {
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let setup = Arc::new(Setup {
            pipe_capacity,
            ..Setup::default()
        });
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let setup = setup.clone();
                thread::spawn(move || setup.send())
            })
            .collect();
        listen(&setup);
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(setup.pending.lock().is_empty());
    });
}

#[test]
fn every_task_is_woken_whenever_it_is_added() {
    beside_senders(1, |setup| {
        while setup.woken.now() < 2 {
            setup.pipe.take();
            setup.pending.wake_all();
        }
    });
}

#[test]
fn every_task_is_woken_that_is_added_while_the_listener_ends() {
    // The listener has ended while the first byte is in the pipe.
    beside_senders(2, |setup| setup.pending.close());
}

#[test]
fn a_task_is_woken_at_once_when_the_signal_fails() {
    beside_senders(1, |setup| {
        let task = Waker::from(StdArc::new(Task(setup.woken.clone())));
        setup.pending.push(task, || false);
        while setup.woken.now() < 3 {
            setup.pipe.take();
            setup.pending.wake_all();
        }
    });
}
