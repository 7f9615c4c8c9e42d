//! Cancels a run whose caller has gone.

use std::fmt;

use parking_lot::Mutex;

/// Makes the backend end the run.
type CancelFn = Box<dyn FnOnce() + Send>;

/// Cancels one run. If it is cancelled before the backend has registered its function, the function is called on registration.
#[derive(Default)]
pub(crate) struct RunCancel(Mutex<State>);

#[derive(Default)]
struct State {
    cancelled: bool,
    on_cancel: Option<CancelFn>,
}

impl fmt::Debug for RunCancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cancelled: {}", self.is_cancelled())
    }
}

impl RunCancel {
    /// Cancels the run.
    pub fn cancel(&self) {
        let mut state = self.0.lock();
        state.cancelled = true;
        // Called under the lock: the guard's drop waits for it, so the run still exists.
        if let Some(cancel) = state.on_cancel.take() {
            cancel();
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().cancelled
    }

    /// Registers the function that ends the run, until the guard is dropped. Calls it at once if the run was cancelled already.
    pub fn on_cancel<'a>(&'a self, cancel: impl FnOnce() + Send + 'static) -> CancelGuard<'a> {
        let mut state = self.0.lock();
        match state.cancelled {
            true => cancel(),
            false => state.on_cancel = Some(Box::new(cancel)),
        }
        CancelGuard(self)
    }
}

/// Removes the registered function on drop.
pub(crate) struct CancelGuard<'a>(&'a RunCancel);

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        self.0.0.lock().on_cancel = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_run_is_cancelled_once_at_any_time() {
        let ended = Arc::new(AtomicUsize::new(0));
        let end = || {
            let ended = ended.clone();
            move || {
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        let early = RunCancel::default();
        early.cancel();
        drop(early.on_cancel(end()));
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        let during = RunCancel::default();
        let ending = during.on_cancel(end());
        during.cancel();
        during.cancel();
        drop(ending);
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        let late = RunCancel::default();
        drop(late.on_cancel(end()));
        late.cancel();
        assert_eq!(ended.load(Ordering::SeqCst), 2);
        assert!(late.is_cancelled());
    }
}
