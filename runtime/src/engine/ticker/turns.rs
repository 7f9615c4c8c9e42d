//! The handshake between executor threads, which begin turns of guests, and the ticker, which sleeps while there are none.
//!
//! An executor thread first stores that its turn began, then loads whether the ticker is parked. The ticker first stores that it
//! is parked, then loads the turns. Each has a sequentially consistent fence between the two steps, so that at least one of them
//! sees the other: a ticker never stays asleep during a turn.

use super::sync::{AtomicBool, AtomicU64, Ordering, fence};

/// The turns of guests on one executor thread.
///
/// Aligned to two cache lines, because processors fetch lines in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Turn {
    /// Counts beginnings and ends of turns: odd during a turn.
    changes: AtomicU64,
    /// The value of `changes` at the ticker's last check.
    seen: AtomicU64,
}

/// What a check of turns found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Activity {
    /// No guest has run since the last check.
    Idle,
    /// Guests have run, and each has yielded since.
    Short,
    /// A guest has computed since the last check, and still does.
    Long,
}

/// Whether the ticker sleeps, and whether it must end.
#[derive(Default)]
pub(super) struct Parking {
    parked: AtomicBool,
    stopped: AtomicBool,
}

impl Turn {
    /// Begins a turn on the calling thread, which `self` belongs to, and calls `wake` if the ticker is parked. Does nothing within
    /// another turn.
    pub fn begin(&self, parking: &Parking, wake: impl FnOnce()) -> TurnGuard<'_> {
        // Only this thread writes the counter.
        let before = self.changes.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return TurnGuard(None);
        }
        self.changes.store(before + 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if parking.parked.load(Ordering::Relaxed) {
            wake();
        }
        TurnGuard(Some((self, before + 2)))
    }

    /// Compares the turns with the last check. Only the ticker calls this.
    pub fn check(&self) -> Activity {
        let now = self.changes.load(Ordering::Acquire);
        let before = self.seen.swap(now, Ordering::Relaxed);
        match (now == before, now % 2) {
            (true, 1) => Activity::Long,
            (true, _) => Activity::Idle,
            (false, _) => Activity::Short,
        }
    }
}

/// A turn, which ends when this is dropped; nothing for a nested one.
pub(super) struct TurnGuard<'a>(Option<(&'a Turn, u64)>);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        if let Some((turn, after)) = self.0 {
            turn.changes.store(after, Ordering::Release);
        }
    }
}

impl Parking {
    /// Sleeps until a guest runs or the ticker is stopped. `sleep` must return at once if it was woken before.
    pub fn park(&self, check: impl FnOnce() -> Activity, sleep: impl FnOnce()) {
        self.parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if check() == Activity::Idle && !self.is_stopped() {
            sleep();
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    /// Tells the ticker to end, and wakes it.
    pub fn stop(&self, wake: impl FnOnce()) {
        self.stopped.store(true, Ordering::SeqCst);
        wake();
    }

    /// Whether the ticker must end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}
