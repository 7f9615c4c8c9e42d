//! How often the kernel killed a process because memory was short.

use std::fs::read_to_string;

use super::cgroup;

/// What the kernel counts for the whole machine.
const MACHINE: &str = "/proc/vmstat";

/// Processes killed so far: of this process's control group where the kernel counts them, else of the machine. Nothing where it
/// counts neither.
pub(crate) fn kills() -> Option<u64> {
    own_group()
        .or_else(|| read_to_string(MACHINE).ok())
        .and_then(|text| count(&text))
}

/// What the kernel counts for the control group that this process and its children are in.
fn own_group() -> Option<String> {
    read_to_string(cgroup::own()?.join("memory.events")).ok()
}

fn count(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_among_others() {
        let events = "low 0\nhigh 3\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(count(events), Some(1));
        assert_eq!(count("pgfault 7\noom_kill 12\n"), Some(12));
        assert_eq!(count("oom_kill_disable 0\n"), None);
    }
}
