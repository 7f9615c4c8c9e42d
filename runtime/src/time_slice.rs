//! Scheduler time slices: how soon a thread that wakes up gets a core on which other threads compute.
//!
//! By default Linux lets a thread use up its slice of three milliseconds before a thread that wakes up gets its core. Since version 6.12 a
//! thread with a shorter slice does not have to wait for that. Threads that serve requests compute for microseconds and wake up often, so
//! without this each step of a request would wait for the slice of a running graph or compilation. On two cores, during
//! `cargo xtask attack --only inputs`, a neighbour's p99 was 6.3 ms with short slices and 8.0 ms without.

use std::time::Duration;

/// The slice of threads that serve requests: long enough for the guest of a typical request.
const SHORT: Duration = Duration::from_micros(200);

/// How long a thread may compute before other threads of its priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSlice {
    /// For threads that serve requests.
    Short,
    /// The kernel's default, for threads that compute for long.
    Normal,
}

/// Sets the slice of the calling thread, which threads and processes started by it inherit. Does nothing on kernels before 6.12.
pub fn set_time_slice(slice: TimeSlice) {
    let runtime = match slice {
        TimeSlice::Short => SHORT,
        TimeSlice::Normal => Duration::ZERO,
    };
    // SAFETY: plain numbers, of which each pattern of bits is one.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let bytes = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes to the attributes no more than `bytes`.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, bytes, 0) };
    // For real-time threads the same field means something else.
    if got != 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    attributes.sched_runtime = u64::try_from(runtime.as_nanos()).unwrap_or(0);
    // SAFETY: the kernel reads the attributes, whose size is in them.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_a_slice_leaves_the_priority_as_it_was() {
        // SAFETY: reads a number.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        set_time_slice(TimeSlice::Short);
        set_time_slice(TimeSlice::Normal);
        assert_eq!(nice(), before);
    }
}
