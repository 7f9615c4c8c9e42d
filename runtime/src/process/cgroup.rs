//! Reads the control group of this process and its children.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// The mount point of control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// The folder of the process's group; unified hierarchy only.
pub(crate) fn own_folder() -> Option<PathBuf> {
    let groups = read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(GROUPS).join(path.trim_start_matches('/')))
}

/// The lowest memory limit of the group and those around it, in bytes.
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    let groups = own_folder()?;
    let groups = groups
        .ancestors()
        .take_while(|path| path.starts_with(GROUPS));
    groups
        .filter_map(|path| parse_limit(&read_to_string(path.join("memory.max")).ok()?))
        .min()
}

/// Parses a limit; `None` for `max`.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_there_is_none() {
        assert_eq!(parse_limit("1073741824\n"), Some(1 << 30));
        assert_eq!(parse_limit("max\n"), None);
    }
}
