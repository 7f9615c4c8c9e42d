//! Tasks to be woken, left by any thread for the one that listens at a bell.
//!
//! The bell rings once for all that are left until the listener comes, so that the pipe behind it never fills up. A sender
//! first leaves its task and then looks whether the bell has rung; the listener first clears that flag and then takes the
//! tasks. Each step reads and changes the flag at once, so whoever found it set leaves the task before it is taken.

use std::sync::PoisonError;
use std::task::Waker;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// The tasks that wait for the listener.
#[derive(Default)]
pub(super) struct Wakes {
    waiting: Mutex<Vec<Waker>>,
    rung: AtomicBool,
    /// The listener has ended.
    closed: AtomicBool,
}

impl Wakes {
    /// Has the listener wake a task; without one, or when `ring` fails, wakes it here.
    pub fn send(&self, task: Waker, ring: impl FnOnce() -> bool) {
        self.waiting().push(task);
        let is_told = !self.closed.load(Ordering::SeqCst)
            && (self.rung.swap(true, Ordering::AcqRel) || ring());
        if !is_told {
            self.deliver();
        }
    }

    /// Wakes the tasks. The listener does so each time the bell rang.
    pub fn deliver(&self) {
        // First, so that a sender rings again whose task is left after the list was taken. A swap, because a store could take
        // effect after the list was taken: a sender that finds the flag set has its task in the list then.
        self.rung.swap(false, Ordering::AcqRel);
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Says that the listener has ended: from now on senders wake their tasks themselves.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.deliver();
    }

    pub fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
