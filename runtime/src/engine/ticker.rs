//! The ticker that advances epochs, at which guests yield. It does so only while a guest computes for long: guests that are
//! quick, or wait for inference, cause no ticks.

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

use turns::{Activity, Parking, Turn, TurnGuard};

/// The atomics that `turns` uses; `interleavings` runs it on those of loom.
mod sync {
    pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

/// How often a guest that computes yields to other tasks of its executor thread.
///
/// Short, because an endless loop in one guest delays its neighbours on that thread by up to twice this long each turn.
pub const EPOCH_TICK: Duration = Duration::from_micros(250);
/// How often the ticker checks while no guest computes for long. The first turn of one that does is up to twice as long.
const CHECK_INTERVAL: Duration = Duration::from_millis(4);
/// Checks at each tick after the last long turn.
const ALERT_CHECKS: u32 = 400;
/// Checks in a row without any turn after which the ticker parks.
const IDLE_CHECKS: u32 = 25;

/// A thread that checks the turns of guests and advances the epochs while one of them is long.
///
/// A turn is one poll of a guest's future. Turns are far more frequent than epochs: waking the thread for each would cost more
/// than most guests take, and so would a counter that all executor threads share.
#[derive(Default)]
pub(super) struct Ticker {
    /// The turns of each executor thread.
    turns: ThreadLocal<Turn>,
    parking: Parking,
    thread: OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread, which advances the epochs of these engines.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(engines: [&Engine; 2]) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::<Self>::default();
        let engines = engines.map(Engine::weak);
        let for_thread = ticker.clone();
        let handle = std::thread::Builder::new()
            .name("epoch-ticker".into())
            .spawn(move || or_abort(|| for_thread.run(&engines)))?;
        // The cell is new, so nothing else has set it.
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.parking.stop(|| self.wake());
    }

    /// Runs a future that runs guest code; each poll is a turn.
    pub async fn run_preemptible<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let _turn = self.turn();
            future.as_mut().poll(cx)
        })
        .await
    }

    fn run(&self, engines: &[EngineWeak]) {
        let mut schedule = Schedule::default();
        while !self.parking.is_stopped() {
            match schedule.next_pause() {
                Some(pause) => std::thread::sleep(pause),
                None => self.parking.park(|| self.check(), std::thread::park),
            }
            let activity = self.check();
            schedule.record(activity);
            if activity == Activity::Long {
                for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                    engine.increment_epoch();
                }
            }
        }
    }

    fn check(&self) -> Activity {
        let activities = self.turns.iter().map(Turn::check);
        activities.max().unwrap_or(Activity::Idle)
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

/// Runs the ticker's loop, and aborts the process if it panics; the service manager restarts it. Without epochs a guest in an
/// endless loop would keep its executor thread past its deadline, and the node could not even drain. Running the loop again
/// would hide a bug that is likely to panic again at the next check.
fn or_abort(run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        // The panic hook has logged the reason.
        tracing::error!(
            thread = "epoch-ticker",
            "epoch ticker panicked; without it guests that compute never yield, so the process aborts"
        );
        std::process::abort();
    }
}

/// When to check next, by what the last checks found.
#[derive(Default)]
struct Schedule {
    /// Checks in a row without a turn.
    idle: u32,
    /// Checks left at each tick.
    alert: u32,
}

impl Schedule {
    fn record(&mut self, activity: Activity) {
        self.idle = match activity {
            Activity::Idle => self.idle + 1,
            Activity::Short | Activity::Long => 0,
        };
        self.alert = match activity {
            Activity::Long => ALERT_CHECKS,
            Activity::Idle | Activity::Short => self.alert.saturating_sub(1),
        };
    }

    /// The time until the next check; `None` to park until a guest runs.
    fn next_pause(&mut self) -> Option<Duration> {
        if self.idle >= IDLE_CHECKS {
            *self = Self::default();
            return None;
        }
        Some(if self.alert > 0 {
            EPOCH_TICK
        } else {
            CHECK_INTERVAL
        })
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
    fn a_loop_that_returns_does_not_abort() {
        let mut ran = false;
        or_abort(|| ran = true);
        assert!(ran);
    }

    #[test]
    fn a_turn_is_long_when_it_lasts_from_one_check_to_the_next() {
        let ticker = Ticker::default();
        assert_eq!(ticker.check(), Activity::Idle);
        let turn = ticker.turn();
        assert_eq!(ticker.check(), Activity::Short);
        assert_eq!(ticker.check(), Activity::Long);
        drop(ticker.turn());
        assert_eq!(
            ticker.check(),
            Activity::Long,
            "a nested turn is part of the outer one"
        );
        drop(turn);
        assert_eq!(ticker.check(), Activity::Short);
        assert_eq!(ticker.check(), Activity::Idle);
        let turn = ticker.turn();
        assert_eq!(ticker.check(), Activity::Short);
        drop(turn);
        let _next = ticker.turn();
        assert_eq!(ticker.check(), Activity::Short, "it is another turn");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(ticker.turn()));
        });
        assert_eq!(
            ticker.check(),
            Activity::Long,
            "the longest of all threads counts"
        );
    }

    #[test]
    fn it_checks_often_while_turns_are_long_and_parks_when_there_are_none() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.next_pause(), Some(CHECK_INTERVAL));
        schedule.record(Activity::Long);
        for _ in 0..ALERT_CHECKS {
            assert_eq!(schedule.next_pause(), Some(EPOCH_TICK));
            schedule.record(Activity::Short);
        }
        for _ in 0..IDLE_CHECKS {
            assert_eq!(schedule.next_pause(), Some(CHECK_INTERVAL));
            schedule.record(Activity::Idle);
        }
        assert_eq!(schedule.next_pause(), None);
        assert_eq!(schedule.next_pause(), Some(CHECK_INTERVAL), "it was woken");
    }
}
