//! Processes that the node starts beside itself: what confines them, and how it talks to them.

pub(crate) mod background;
pub(crate) mod barrier;
mod cgroup;
pub(crate) mod clock;
pub(crate) mod confine;
pub(crate) mod frames;
pub(crate) mod oom;

/// A size in bytes from the text of `/proc/PID/status`, by its name with the colon.
pub(crate) fn status_bytes(text: &str, name: &str) -> Option<u64> {
    let size = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = size.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The memory that this process may take with its children: the machine's, or what its control group leaves of that. 0 when
/// the system does not say.
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
