//! The barriers around a confined process: which are active, and why others are not.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A mechanism of the kernel that confines a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// `rlimits`, `no_new_privs`, `landlock` or `seccomp`.
    pub name: String,
    /// Whether the barrier is active.
    pub active: bool,
    /// The active version, if the barrier has versions.
    pub version: Option<u32>,
    /// Why the barrier is not active, or what its version does not confine.
    pub reason: Option<String>,
}

impl Barrier {
    /// An active barrier.
    pub(super) fn active(name: &str) -> Self {
        Self {
            name: name.into(),
            active: true,
            version: None,
            reason: None,
        }
    }

    /// A barrier that is not active, and why.
    pub(super) fn missing(name: &str, reason: impl fmt::Display) -> Self {
        Self {
            name: name.into(),
            active: false,
            version: None,
            reason: Some(reason.to_string()),
        }
    }

    /// The names of the active barriers, with their versions.
    pub fn names(barriers: &[Self]) -> Vec<String> {
        let active = barriers.iter().filter(|barrier| barrier.active);
        active.map(Self::to_string).collect()
    }
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.version {
            Some(version) => write!(f, " {version}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_active_barriers_are_named() {
        let landlock = Barrier {
            version: Some(3),
            ..Barrier::active("landlock")
        };
        let missing = Barrier::missing("seccomp", "the kernel has none");
        let barriers = [Barrier::active("rlimits"), landlock, missing];
        assert_eq!(Barrier::names(&barriers), ["rlimits", "landlock 3"]);
    }
}
