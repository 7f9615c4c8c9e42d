//! Tells a run that goes on that nobody waits for it any more.

use std::fmt;

use parking_lot::Mutex;

/// How a backend ends one run.
type End = Box<dyn FnOnce() + Send>;

/// For one run. Asked before the backend has said how, it ends the run as soon as that is known.
#[derive(Default)]
pub(crate) struct Stop(Mutex<State>);

#[derive(Default)]
struct State {
    asked: bool,
    end: Option<End>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "asked: {}", self.is_asked())
    }
}

impl Stop {
    /// Asks the run to end.
    pub fn ask(&self) {
        let mut state = self.0.lock();
        state.asked = true;
        let end = state.end.take();
        // Called under the lock, so that what it ends is there: `forget` waits.
        if let Some(end) = end {
            end();
        }
    }

    /// Whether it was asked to end.
    pub fn is_asked(&self) -> bool {
        self.0.lock().asked
    }

    /// Says how the run ends, while it goes on. Called at once when it was asked to already.
    pub fn by<'a>(&'a self, end: impl FnOnce() + Send + 'static) -> Ending<'a> {
        let mut state = self.0.lock();
        match state.asked {
            true => end(),
            false => state.end = Some(Box::new(end)),
        }
        Ending(self)
    }
}

/// While it is there, the run can be ended.
pub(crate) struct Ending<'a>(&'a Stop);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.0.lock().end = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_run_is_ended_once_whenever_it_is_asked_to() {
        let ended = Arc::new(AtomicUsize::new(0));
        let end = || {
            let ended = ended.clone();
            move || {
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        let early = Stop::default();
        early.ask();
        drop(early.by(end()));
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        let during = Stop::default();
        let ending = during.by(end());
        during.ask();
        during.ask();
        drop(ending);
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        let late = Stop::default();
        drop(late.by(end()));
        late.ask();
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        assert!(late.is_asked());
    }
}
