//! What compile workers and engines have in common: confinement, messages, and what the kernel says of their memory.

pub(crate) mod background;
pub(crate) mod barrier;
mod cgroup;
pub(crate) mod clock;
pub(crate) mod confine;
pub(crate) mod frames;
pub(crate) mod oom;

/// Reads a size from the text of `/proc/PID/status`, in bytes. `name` includes the colon.
pub(crate) fn status_bytes(text: &str, name: &str) -> Option<u64> {
    let size = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = size.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The memory that this process and its children may use, in bytes: the machine's, or the limit of the control group if that is
/// lower. 0 if the system does not tell.
pub fn memory_limit_bytes() -> u64 {
    let machine = crate::machine_memory_bytes();
    cgroup::memory_limit_bytes().map_or(machine, |limit| limit.min(machine))
}

/// The name of a signal that ends processes.
pub(crate) fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGFPE => "SIGFPE",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXFSZ => "SIGXFSZ",
        _ => return format!("signal {signal}"),
    };
    name.into()
}
