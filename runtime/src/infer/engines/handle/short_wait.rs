//! Waits for a short run on the thread that started it.
//!
//! Sleeping until the engine wakes the node takes several times as long as such a run. In this process a thread of the executor would
//! compute the run itself, so it may wait for it as well. Meanwhile it yields its core to other ready threads, above all the engine's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EngineHandle;
use super::follow::Left;

/// The longest wait: most short runs have ended by then. Longer waits cost many clients more than they save a single one.
const MAX_WAIT: Duration = Duration::from_micros(30);

impl EngineHandle {
    /// Handles replies until that of `run` has arrived, for [`MAX_WAIT`] at most.
    pub fn wait_for_short_run(self: &Arc<Self>, run: u64) {
        let begun = Instant::now();
        // The engine need not wake the node meanwhile.
        self.replies.stay_awake();
        while self.is_running(run) {
            if begun.elapsed() > MAX_WAIT {
                // Sleeping threads of the engine are not woken for short runs while one is awake, which may be busy with a long run.
                if self.requests.has_unreceived() {
                    self.requests.wake_one();
                }
                break;
            }
            let receiver = match self.replies.is_empty() {
                true => None,
                false => self.replies.try_lock(),
            };
            match receiver.map(|receiver| self.receive_replies(receiver)) {
                Some(Ok(_)) => {}
                Some(Err(_)) => break,
                None => std::thread::yield_now(),
            }
        }
        while self.replies.about_to_sleep().is_none() {
            match self.receive_replies(self.replies.lock()) {
                Ok(Left::Nothing) => {}
                // The task that follows the engine continues, or handles the error.
                Ok(Left::More) | Err(_) => return self.wake_task(),
            }
        }
    }

    /// Wakes the task that follows the engine.
    fn wake_task(&self) {
        let _ = rustix::io::write(self.wake.get_ref(), &1u64.to_ne_bytes());
    }
}
