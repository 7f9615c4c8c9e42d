//! The CPU time limit of a job. Unlike a limit on wall time it is fair on a busy machine, where workers, which have low priority,
//! take many times as long.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a worker's CPU time is checked.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// A job that has used less than this fraction of a core is cancelled as hanging.
const MAX_SLOWDOWN: u32 = 20;

/// Which limit a worker exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// CPU time.
    Cpu,
    /// Wall time.
    Wall(Duration),
}

/// Waits until a process has used `limit` of CPU time from now on, added up over all cores, or hangs.
pub(crate) async fn wait_exceeded(process: Option<u32>, limit: Duration) -> Exceeded {
    let used = || process.and_then(cpu_time).unwrap_or_default();
    let (begun, before) = (Instant::now(), used());
    let wall = limit * MAX_SLOWDOWN;
    loop {
        sleep(CHECK_EVERY).await;
        // The end of the process is noticed elsewhere, by its closed stream.
        if used().saturating_sub(before) > limit {
            return Exceeded::Cpu;
        }
        if begun.elapsed() > wall {
            return Exceeded::Wall(wall);
        }
    }
}

/// CPU time that a process has used, in all its threads.
fn cpu_time(process: u32) -> Option<Duration> {
    let process = libc::pid_t::try_from(process).ok()?;
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointers are to local variables that outlive the calls.
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
    async fn a_process_that_computes_exceeds_its_cpu_time() {
        let own = Some(std::process::id());
        let spin = tokio::task::spawn_blocking(move || {
            let before = own.and_then(cpu_time).unwrap();
            while own.and_then(cpu_time).unwrap() < before + Duration::from_millis(50) {
                std::hint::spin_loop();
            }
        });
        let found = wait_exceeded(own, Duration::from_millis(10)).await;
        assert_eq!(found, Exceeded::Cpu);
        spin.await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_hangs_exceeds_its_wall_time() {
        let limit = Duration::from_millis(1);
        assert_eq!(
            wait_exceeded(None, limit).await,
            Exceeded::Wall(limit * MAX_SLOWDOWN)
        );
    }
}
