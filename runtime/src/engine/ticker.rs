//! Epochs, by which long-running guests yield. They advance only while a guest has computed for a while: guests that are
//! quick, or wait for inference, are never looked after.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use thread_local::ThreadLocal;
use wasmtime::{Engine, EngineWeak};

/// How often a guest that computes lets other tasks of its executor thread run.
///
/// Short, because an endless loop in one guest delays the neighbours on its thread by up to twice this much each turn.
pub const EPOCH_TICK: Duration = Duration::from_millis(1);
/// How often the ticker looks while no guest computes for long: the first turn of one that does is up to twice as long.
const LOOK: Duration = Duration::from_millis(4);
/// How long after the last long turn the ticker goes on looking at each tick.
const ALERT_LOOKS: u32 = 100;
/// Looks in a row that find that no guest has run, after which the ticker parks.
const QUIET_LOOKS: u32 = 25;

/// One thread that looks at the turns of guests and advances the epochs while one of them is long.
///
/// Requests come and go far more often than epochs: waking the thread for each would cost more than the guest does, and so
/// would a count of running guests that all executor threads share.
#[derive(Default)]
pub(super) struct Ticker {
    turns: ThreadLocal<Turn>,
    parked: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The turns of guests on one executor thread. On a cache line of its own, and beside it the one that is fetched with it.
#[derive(Default)]
#[repr(align(128))]
struct Turn {
    /// How many began and ended: odd while one goes on.
    changes: AtomicU64,
    /// What the ticker saw last.
    seen: AtomicU64,
}

/// What a look at all turns found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// No guest has run since the last one.
    Quiet,
    /// Guests ran, and each let go of its thread.
    Brisk,
    /// A guest has computed since the last one, and still does.
    Long,
}

impl Ticker {
    /// Advances the epochs of these engines from now on.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(engines: [&Engine; 2]) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::<Self>::default();
        let engines = engines.map(Engine::weak);
        let for_thread = ticker.clone();
        let handle = std::thread::Builder::new()
            .name("epoch-ticker".into())
            .spawn(move || for_thread.run(&engines))?;
        // The cell was just made, so nothing else can have set it.
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    /// Ends its thread.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Runs what may run guest code, each poll a turn.
    pub async fn watch<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let _turn = self.turn();
            future.as_mut().poll(cx)
        })
        .await
    }

    fn run(&self, engines: &[EngineWeak]) {
        let mut pace = Pace::default();
        while !self.stopped.load(Ordering::Relaxed) {
            match pace.next() {
                Some(pause) => std::thread::sleep(pause),
                None => self.park(),
            }
            let look = self.look();
            pace.saw(look);
            if look == Look::Long {
                for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                    engine.increment_epoch();
                }
            }
        }
    }

    fn look(&self) -> Look {
        let one = |turn: &Turn| {
            let now = turn.changes.load(Ordering::Acquire);
            let before = turn.seen.swap(now, Ordering::Relaxed);
            match (now == before, now % 2) {
                (true, 1) => Look::Long,
                (true, _) => Look::Quiet,
                (false, _) => Look::Brisk,
            }
        };
        self.turns.iter().map(one).max().unwrap_or(Look::Quiet)
    }

    fn turn(&self) -> TurnGuard<'_> {
        let turn = self.turns.get_or_default();
        // Only this thread writes it.
        let before = turn.changes.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return TurnGuard(None);
        }
        turn.changes.store(before + 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) {
            self.wake();
        }
        TurnGuard(Some((turn, before + 2)))
    }

    /// Sleeps until a guest runs. Whoever begins to run one says so first and looks at the flag then; this sets the flag
    /// first and looks at the turns then: one of the two always sees the other.
    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.look() == Look::Quiet && !self.stopped.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// How long to wait for the next look, by what the last ones found.
#[derive(Default)]
struct Pace {
    quiet: u32,
    alert: u32,
}

impl Pace {
    fn saw(&mut self, look: Look) {
        self.quiet = match look {
            Look::Quiet => self.quiet + 1,
            Look::Brisk | Look::Long => 0,
        };
        self.alert = match look {
            Look::Long => ALERT_LOOKS,
            Look::Quiet | Look::Brisk => self.alert.saturating_sub(1),
        };
    }

    /// `None`: not before a guest runs again.
    fn next(&mut self) -> Option<Duration> {
        if self.quiet >= QUIET_LOOKS {
            *self = Self::default();
            return None;
        }
        Some(if self.alert > 0 { EPOCH_TICK } else { LOOK })
    }
}

/// A turn, or what happens within one.
struct TurnGuard<'a>(Option<(&'a Turn, u64)>);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        if let Some((turn, after)) = self.0 {
            turn.changes.store(after, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_long_when_it_goes_on_from_one_look_to_the_next() {
        let ticker = Ticker::default();
        assert_eq!(ticker.look(), Look::Quiet);
        let turn = ticker.turn();
        assert_eq!(ticker.look(), Look::Brisk);
        assert_eq!(ticker.look(), Look::Long);
        drop(ticker.turn());
        assert_eq!(
            ticker.look(),
            Look::Long,
            "one within it is none of its own"
        );
        drop(turn);
        assert_eq!(ticker.look(), Look::Brisk);
        assert_eq!(ticker.look(), Look::Quiet);
        let turn = ticker.turn();
        assert_eq!(ticker.look(), Look::Brisk);
        drop(turn);
        let _next = ticker.turn();
        assert_eq!(ticker.look(), Look::Brisk, "it is another one");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(ticker.turn()));
        });
        assert_eq!(
            ticker.look(),
            Look::Long,
            "the longest of all threads counts"
        );
    }

    #[test]
    fn it_looks_often_while_turns_are_long_and_parks_when_there_are_none() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(), Some(LOOK));
        pace.saw(Look::Long);
        for _ in 0..ALERT_LOOKS {
            assert_eq!(pace.next(), Some(EPOCH_TICK));
            pace.saw(Look::Brisk);
        }
        for _ in 0..QUIET_LOOKS {
            assert_eq!(pace.next(), Some(LOOK));
            pace.saw(Look::Quiet);
        }
        assert_eq!(pace.next(), None);
        assert_eq!(pace.next(), Some(LOOK), "somebody woke it");
    }
}
