//! Epochs, by which long-running guests yield. They advance only while a guest has computed for a while: guests that are
//! quick, or wait for inference, are never looked after.

#[cfg(test)]
mod interleavings;
mod turns;

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use thread_local::ThreadLocal;
use wasmtime::{Engine, EngineWeak};

use turns::{Look, Parking, Turn, TurnGuard};

/// The atomics that `turns` runs on; `interleavings` runs it on loom's.
mod sync {
    pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

/// How often a guest that computes lets other tasks of its executor thread run.
///
/// Short, because an endless loop in one guest delays the neighbours on its thread by up to twice this much each turn.
pub const EPOCH_TICK: Duration = Duration::from_micros(250);
/// How often the ticker looks while no guest computes for long: the first turn of one that does is up to twice as long.
const LOOK: Duration = Duration::from_millis(4);
/// How long after the last long turn the ticker goes on looking at each tick.
const ALERT_LOOKS: u32 = 400;
/// Looks in a row that find that no guest has run, after which the ticker parks.
const QUIET_LOOKS: u32 = 25;

/// One thread that looks at the turns of guests and advances the epochs while one of them is long.
///
/// Requests come and go far more often than epochs: waking the thread for each would cost more than the guest does, and so
/// would a count of running guests that all executor threads share.
#[derive(Default)]
pub(super) struct Ticker {
    /// Those of each executor thread.
    turns: ThreadLocal<Turn>,
    parking: Parking,
    thread: OnceLock<Thread>,
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
            .spawn(move || or_abort(|| for_thread.run(&engines)))?;
        // The cell was just made, so nothing else can have set it.
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    /// Ends its thread.
    pub fn stop(&self) {
        self.parking.stop(|| self.wake());
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
        while !self.parking.is_stopped() {
            match pace.next() {
                Some(pause) => std::thread::sleep(pause),
                None => self.parking.park(|| self.look(), std::thread::park),
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
        let looks = self.turns.iter().map(Turn::look);
        looks.max().unwrap_or(Look::Quiet)
    }

    fn turn(&self) -> TurnGuard<'_> {
        let turn = self.turns.get_or_default();
        turn.begin(&self.parking, || self.wake())
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Runs the ticker's loop. If it panics, aborts the process, which its service manager restarts: without epochs a guest in an
/// endless loop keeps its executor thread for ever, past its own deadline, so that the node could not even drain. Running the
/// loop again would hide a bug that is likely to panic at the next look, too.
fn or_abort(run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        // The panic hook has written the reason.
        tracing::error!(
            thread = "epoch-ticker",
            "thread panicked; without it guests that compute never yield, so the process aborts"
        );
        std::process::abort();
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Set in the process whose ticker panics.
    const PANICS: &str = "SAMOVAR_TEST_TICKER_PANICS";

    /// Panics in a process of its own, because it ends with it.
    #[test]
    fn a_ticker_that_panics_ends_the_process_and_is_named() {
        if std::env::var_os(PANICS).is_some() {
            let thread = std::thread::Builder::new().name("epoch-ticker".into());
            let ticker = thread.spawn(|| or_abort(|| panic!("on purpose")));
            let _ = ticker.unwrap().join();
            return;
        }
        let test = concat!(
            module_path!(),
            "::a_ticker_that_panics_ends_the_process_and_is_named"
        );
        let (_, test) = test.split_once("::").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(PANICS, "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
        assert!(
            said.contains("epoch-ticker") && said.contains("on purpose"),
            "{said}"
        );
    }

    #[test]
    fn a_loop_that_ends_ends_nothing_else() {
        let mut ran = false;
        or_abort(|| ran = true);
        assert!(ran);
    }

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
