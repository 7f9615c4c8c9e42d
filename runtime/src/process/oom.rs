//! Counts the processes that the kernel killed because memory ran out.

use std::fs::read_to_string;

use super::cgroup;

/// The counters of the whole machine.
const MACHINE: &str = "/proc/vmstat";

/// Processes killed so far in this process's control group or, if the kernel does not count them, on the machine. `None` if it
/// counts neither.
pub(crate) fn kills() -> Option<u64> {
    group_counters()
        .or_else(|| read_to_string(MACHINE).ok())
        .and_then(|text| parse_count(&text))
}

/// The counters of this process's control group.
fn group_counters() -> Option<String> {
    read_to_string(cgroup::own_folder()?.join("memory.events")).ok()
}

fn parse_count(text: &str) -> Option<u64> {
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
        assert_eq!(parse_count(events), Some(1));
        assert_eq!(parse_count("pgfault 7\noom_kill 12\n"), Some(12));
        assert_eq!(parse_count("oom_kill_disable 0\n"), None);
    }
}
