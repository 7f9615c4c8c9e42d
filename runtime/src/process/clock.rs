//! Processor time of a worker. A limit of it holds on a busy machine as on an idle one, where workers of low priority take
//! many times as long.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a worker's processor time is looked at.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// A job that gets less than this part of a core is given up all the same: its worker hangs.
const MAX_SLOWDOWN: u32 = 20;

/// Which limit a worker exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// Of processor time.
    Processor,
    /// Of time by the clock on the wall.
    Wall(Duration),
}

/// Waits until a process has used more processor time from now on than `limit`, on all cores together, or hangs.
pub(crate) async fn exceeded(process: Option<u32>, limit: Duration) -> Exceeded {
    let used = || process.and_then(processor_time).unwrap_or_default();
    let (begun, before) = (Instant::now(), used());
    let wall = limit * MAX_SLOWDOWN;
    loop {
        sleep(CHECK_EVERY).await;
        // A process that is gone is noticed by its closed stream.
        if used().saturating_sub(before) > limit {
            return Exceeded::Processor;
        }
        if begun.elapsed() > wall {
            return Exceeded::Wall(wall);
        }
    }
}

/// Processor time that a process has used, in all its threads.
fn processor_time(process: u32) -> Option<Duration> {
    let process = libc::pid_t::try_from(process).ok()?;
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointers are to variables of ours, which live as long as the calls.
    let known = unsafe {
        libc::clock_getcpuclockid(process, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    let (seconds, nanos) = (time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?);
    known.then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_computes_exceeds_its_processor_time() {
        let own = Some(std::process::id());
        let spin = tokio::task::spawn_blocking(move || {
            let before = own.and_then(processor_time).unwrap();
            while own.and_then(processor_time).unwrap() < before + Duration::from_millis(50) {
                std::hint::spin_loop();
            }
        });
        let found = exceeded(own, Duration::from_millis(10)).await;
        assert_eq!(found, Exceeded::Processor);
        spin.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_hangs_is_given_up() {
        let limit = Duration::from_millis(1);
        assert_eq!(
            exceeded(None, limit).await,
            Exceeded::Wall(limit * MAX_SLOWDOWN)
        );
    }
}
