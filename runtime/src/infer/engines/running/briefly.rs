//! Waiting for a run that is known to be short, on the thread that began it.
//!
//! To sleep until the engine rings takes several times as long as such a run does. A thread of the executor would compute it
//! itself if it were in this process, so it may wait for it as well. Meanwhile it yields its core to any other thread that is
//! ready, the engine's above all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Running;
use super::follow::Left;

/// The longest wait: most short runs are over by then. Longer waits cost many clients more than they save a single one.
const BRIEFLY: Duration = Duration::from_micros(30);

impl Running {
    /// Hands on replies until that of `run` has come, or it has taken too long for that.
    pub fn wait_briefly(self: &Arc<Self>, run: u64) {
        let begun = Instant::now();
        // The engine need not ring meanwhile.
        self.replies.stay_awake();
        while self.is_running(run) {
            if begun.elapsed() > BRIEFLY {
                // Threads of the engine that sleep are not woken for short runs as long as one is awake; that one may be
                // busy with a run that turned out to be long.
                if self.requests.has_waiting() {
                    self.requests.wake_one();
                }
                break;
            }
            let took = match self.replies.is_empty() {
                true => None,
                false => self.replies.try_take(),
            };
            match took.map(|taking| self.take_replies(taking)) {
                Some(Ok(_)) => {}
                Some(Err(_)) => break,
                None => std::thread::yield_now(),
            }
        }
        while self.replies.about_to_sleep().is_none() {
            match self.take_replies(self.replies.take()) {
                Ok(Left::Nothing) => {}
                // The task that follows the engine goes on, or tells what is wrong.
                Ok(Left::More) | Err(_) => return self.ring(),
            }
        }
    }

    /// Wakes the task that follows the engine, as the engine does.
    fn ring(&self) {
        let _ = rustix::io::write(self.bell.get_ref(), &1u64.to_ne_bytes());
    }
}
