//! The handshake between executor threads, which begin turns of guests, and the ticker, which sleeps while there are none.
//!
//! An executor thread first says that its turn began and then looks whether the ticker is parked. The ticker first says that
//! it is parked and then looks at the turns. Each puts a sequentially consistent fence between the two steps, so that at
//! least one of them sees the other: a turn never begins beside a ticker that stays asleep.

use super::sync::{AtomicBool, AtomicU64, Ordering, fence};

/// The turns of guests on one executor thread.
///
/// Aligned to two cache lines of its own, because processors fetch lines in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Turn {
    /// How many turns began and ended: odd while one goes on.
    changes: AtomicU64,
    /// The value of `changes` at the ticker's last look.
    seen: AtomicU64,
}

/// What a look at turns found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Look {
    /// No guest has run since the last look.
    Quiet,
    /// Guests ran, and each let go of its thread.
    Brisk,
    /// A guest has computed since the last look, and still does.
    Long,
}

/// Whether the ticker sleeps, and whether it shall end.
#[derive(Default)]
pub(super) struct Parking {
    parked: AtomicBool,
    stopped: AtomicBool,
}

impl Turn {
    /// Begins a turn on the calling thread, to which `self` belongs, and calls `wake` if the ticker is parked. Within another
    /// turn it does nothing.
    pub fn begin(&self, parking: &Parking, wake: impl FnOnce()) -> TurnGuard<'_> {
        // Only this thread writes it.
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

    /// Compares the turn with the last look at it. Only the ticker calls this.
    pub fn look(&self) -> Look {
        let now = self.changes.load(Ordering::Acquire);
        let before = self.seen.swap(now, Ordering::Relaxed);
        match (now == before, now % 2) {
            (true, 1) => Look::Long,
            (true, _) => Look::Quiet,
            (false, _) => Look::Brisk,
        }
    }
}

/// A turn, or what happens within one.
pub(super) struct TurnGuard<'a>(Option<(&'a Turn, u64)>);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        if let Some((turn, after)) = self.0 {
            turn.changes.store(after, Ordering::Release);
        }
    }
}

impl Parking {
    /// Sleeps until a guest runs or the ticker is stopped. `sleep` must return when it was woken before it began.
    pub fn park(&self, look: impl FnOnce() -> Look, sleep: impl FnOnce()) {
        self.parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if look() == Look::Quiet && !self.is_stopped() {
            sleep();
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    /// Tells the ticker to end, and wakes it for that.
    pub fn stop(&self, wake: impl FnOnce()) {
        self.stopped.store(true, Ordering::SeqCst);
        wake();
    }

    /// Whether the ticker shall end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}
