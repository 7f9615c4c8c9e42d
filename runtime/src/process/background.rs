//! What workers of the node have in common: they give way to requests, write no more than they may, and end with the node.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit,
};

use crate::time_slice::{TimeSlice, set_time_slice};

/// How much nicer a worker is than the node: it gets a quarter of a core that requests want whole. With more, a reload of an
/// edited component would take many times as long on a busy machine.
const NICENESS: i32 = 5;
/// The kernel kills workers before anything else when the machine is out of memory.
const OOM_SCORE: &str = "1000";

/// Lowers the priority of this process. Before any thread starts, because it holds for threads that start later.
pub(crate) fn enter() {
    let nicer = getpriority_process(None).map(|nice| nice + NICENESS);
    if let Err(error) = nicer.and_then(|nice| setpriority_process(None, nice)) {
        tracing::warn!(%error, "worker runs at normal priority");
    }
    set_time_slice(TimeSlice::Normal);
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
}

/// Limits the size of the files that this process writes.
///
/// # Errors
/// When the system refuses.
pub(crate) fn limit_file_size(bytes: u64) -> io::Result<()> {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let bytes = Some(maximum.map_or(bytes, |maximum| maximum.min(bytes)));
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    Ok(setrlimit(Resource::Fsize, limit)?)
}

/// Ends this process as soon as the node closes the stream, also in the middle of a job. Starts a thread, which Landlock does not
/// hold for if it is turned on later.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn end_with(stream: &UnixStream) -> io::Result<()> {
    let stream = stream.try_clone()?;
    let watch = move || {
        loop {
            let mut polled = [PollFd::new(&stream, PollFlags::RDHUP)];
            if poll(&mut polled, None).is_ok_and(|ready| ready > 0) {
                // SAFETY: ends the process, and nothing after it.
                unsafe { libc::_exit(0) };
            }
        }
    };
    let thread = std::thread::Builder::new().name("node-watch".into());
    thread.spawn(watch).map(drop)
}
