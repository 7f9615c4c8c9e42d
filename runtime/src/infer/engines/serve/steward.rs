//! The thread of an engine that gives back memory which runs have left with the libraries, a while after the runs.
//!
//! It sleeps until a run has ended, and looks once for all runs of the next second: a look costs more than a short run does, and
//! libraries keep memory for further runs, which often come at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Engine, lock};

/// How long after a run the thread looks.
const DELAY: Duration = Duration::from_secs(1);

/// Has the thread look.
#[derive(Default)]
pub(super) struct Steward {
    /// Whether runs have ended since the last look began.
    is_due: AtomicBool,
    asleep: Mutex<()>,
    called: Condvar,
}

impl Steward {
    /// Notes that a run has ended.
    pub fn note_run(&self) {
        if self.is_due.load(Ordering::Relaxed) || self.is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let _asleep = lock(&self.asleep);
        self.called.notify_one();
    }

    /// Waits until a run has ended.
    fn wait(&self) {
        let mut asleep = lock(&self.asleep);
        while !self.is_due.load(Ordering::Acquire) {
            asleep = self
                .called
                .wait(asleep)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs that end from now on want another look.
    fn begin_look(&self) {
        self.is_due.store(false, Ordering::SeqCst);
    }
}

impl Engine {
    /// Gives memory back after runs, until the node is gone.
    pub(super) fn keep_memory(self: Arc<Self>) {
        loop {
            self.steward.wait();
            std::thread::sleep(DELAY);
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            self.steward.begin_look();
            if self.gauge.is_in_excess() {
                self.ask_back();
            }
        }
    }

    /// Has memory given back that runs have left with the libraries.
    fn ask_back(&self) {
        // Without the lock: giving back takes as long as a run does.
        let graphs: Vec<_> = {
            let graphs = self.graphs.read().unwrap_or_else(PoisonError::into_inner);
            graphs.values().cloned().collect()
        };
        for loaded in graphs {
            loaded.model.give_back_memory();
        }
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_followed_by_a_look() {
        let steward = Arc::new(Steward::default());
        for _ in 0..100 {
            let runs = steward.clone();
            let run = std::thread::spawn(move || {
                runs.note_run();
                runs.note_run();
            });
            steward.wait();
            run.join().unwrap();
            steward.begin_look();
            assert!(!steward.is_due.load(Ordering::Relaxed));
        }
    }
}
