//! The thread of an engine that returns memory to the system which libraries keep after runs.
//!
//! It sleeps until a run has ended, and checks once for all runs of the next second: a check costs more than a short run, and
//! libraries keep memory for further runs, which often follow at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Engine, lock};

/// Time from a run to the check.
const DELAY: Duration = Duration::from_secs(1);

/// Wakes the thread after runs.
#[derive(Default)]
pub(super) struct MemoryTrimmer {
    /// Whether runs have ended since the last check started.
    is_due: AtomicBool,
    asleep: Mutex<()>,
    wake: Condvar,
}

impl MemoryTrimmer {
    /// Records that a run has ended.
    pub fn record_run(&self) {
        if self.is_due.load(Ordering::Relaxed) || self.is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let _asleep = lock(&self.asleep);
        self.wake.notify_one();
    }

    /// Waits until a run has ended.
    fn wait(&self) {
        let mut asleep = lock(&self.asleep);
        while !self.is_due.load(Ordering::Acquire) {
            asleep = self
                .wake
                .wait(asleep)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts a check. Runs that end later require another one.
    fn begin_check(&self) {
        self.is_due.store(false, Ordering::SeqCst);
    }
}

impl Engine {
    /// Returns memory to the system after runs, until the node closes the stream.
    pub(super) fn trim_after_runs(self: Arc<Self>) {
        loop {
            self.memory_trimmer.wait();
            std::thread::sleep(DELAY);
            if self.is_closed.load(Ordering::SeqCst) {
                return;
            }
            self.memory_trimmer.begin_check();
            if self.gauge.has_excess() {
                self.trim();
            }
        }
    }

    /// Returns memory to the system that libraries keep after runs.
    fn trim(&self) {
        // Without the lock, because this takes as long as a run.
        let graphs: Vec<_> = {
            let graphs = self.graphs.read().unwrap_or_else(PoisonError::into_inner);
            graphs.values().cloned().collect()
        };
        for loaded in graphs {
            loaded.model.release_memory();
        }
        self.release_memory();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_followed_by_a_check() {
        let trimmer = Arc::new(MemoryTrimmer::default());
        for _ in 0..100 {
            let runs = trimmer.clone();
            let run = std::thread::spawn(move || {
                runs.record_run();
                runs.record_run();
            });
            trimmer.wait();
            run.join().unwrap();
            trimmer.begin_check();
            assert!(!trimmer.is_due.load(Ordering::Relaxed));
        }
    }
}
