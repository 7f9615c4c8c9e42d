//! The tasks that the listener is to wake, added by any thread.
//!
//! One signal covers all tasks that are added until the listener runs, so that the pipe never fills up. A thread first adds its
//! task, then checks whether the listener is signalled; the listener first clears that flag, then takes the tasks. Both swap the
//! flag, so a thread that finds it set has added its task before the listener takes the list.

use std::sync::PoisonError;
use std::task::Waker;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// The tasks that wait for the listener.
#[derive(Default)]
pub(super) struct PendingWakes {
    tasks: Mutex<Vec<Waker>>,
    signalled: AtomicBool,
    /// The listener has ended.
    closed: AtomicBool,
}

impl PendingWakes {
    /// Adds a task for the listener, and signals it. Wakes the task directly if the listener has ended or `signal` fails.
    pub fn push(&self, task: Waker, signal: impl FnOnce() -> bool) {
        self.lock().push(task);
        let is_signalled = !self.closed.load(Ordering::SeqCst)
            && (self.signalled.swap(true, Ordering::AcqRel) || signal());
        if !is_signalled {
            self.wake_all();
        }
    }

    /// Wakes all added tasks. The listener does so at each signal.
    pub fn wake_all(&self) {
        // First, so that a thread that adds a task after the list is taken signals again. A swap, because a store could take
        // effect after the list is taken, when a thread that finds the flag set has its task in no list.
        self.signalled.swap(false, Ordering::AcqRel);
        let tasks = std::mem::take(&mut *self.lock());
        tasks.into_iter().for_each(Waker::wake);
    }

    /// To be called when the listener has ended: from now on threads wake tasks directly.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    pub fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
