//! Common to all workers of the node: low priority, a limit of file sizes, and an end with the node.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit,
};

use crate::time_slice::{TimeSlice, set_time_slice};

/// How much a worker's nice value is above the node's: beside a request that wants a whole core it gets a quarter. With a larger
/// value, a reload of an edited component would take many times as long on a busy machine.
const NICENESS: i32 = 5;
/// Makes the kernel kill workers first when the machine is out of memory.
const OOM_SCORE: &str = "1000";

/// Lowers the priority of this process. Call it before any thread starts, because only threads that start later inherit it.
pub(crate) fn lower_priority() {
    let nicer = getpriority_process(None).map(|nice| nice + NICENESS);
    if let Err(error) = nicer.and_then(|nice| setpriority_process(None, nice)) {
        tracing::warn!(%error, "worker runs at normal priority");
    }
    set_time_slice(TimeSlice::Normal);
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
}

/// Limits the size of each file that this process writes.
///
/// # Errors
/// The error of the system.
pub(crate) fn limit_file_size(bytes: u64) -> io::Result<()> {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let bytes = Some(maximum.map_or(bytes, |maximum| maximum.min(bytes)));
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    Ok(setrlimit(Resource::Fsize, limit)?)
}

/// Ends this process as soon as the node closes the stream, even during a job. Starts a thread, which Landlock does not confine if it
/// is enabled later.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn exit_with_node(stream: &UnixStream) -> io::Result<()> {
    let stream = stream.try_clone()?;
    let watch = move || {
        loop {
            let mut polled = [PollFd::new(&stream, PollFlags::RDHUP)];
            if poll(&mut polled, None).is_ok_and(|ready| ready > 0) {
                // SAFETY: has no preconditions; ends the process at once.
                unsafe { libc::_exit(0) };
            }
        }
    };
    let thread = std::thread::Builder::new().name("node-watch".into());
    thread.spawn(watch).map(drop)
}
