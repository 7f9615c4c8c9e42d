//! What the kernel says of the control group that this process and its children are in.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Where the files of control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// The folder of the group, of the unified hierarchy only.
pub(crate) fn own() -> Option<PathBuf> {
    let groups = read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(GROUPS).join(path.trim_start_matches('/')))
}

/// The memory that the group may take, by its own limit or by one of a group around it.
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    let groups = own()?;
    let groups = groups
        .ancestors()
        .take_while(|path| path.starts_with(GROUPS));
    groups
        .filter_map(|path| limit(&read_to_string(path.join("memory.max")).ok()?))
        .min()
}

/// Reads a limit; nothing for `max`.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_there_is_none() {
        assert_eq!(limit("1073741824\n"), Some(1 << 30));
        assert_eq!(limit("max\n"), None);
    }
}
