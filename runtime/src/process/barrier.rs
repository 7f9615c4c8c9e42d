//! Barriers around a confined process: which are in force, and why others are not.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A barrier around a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// `rlimits`, `no_new_privs`, `landlock` or `seccomp`.
    pub name: String,
    /// Whether it is in force.
    pub active: bool,
    /// Version that is in force, if it has versions.
    pub version: Option<u32>,
    /// Why it is not in force, or what this version does not restrict.
    pub reason: Option<String>,
}

impl Barrier {
    /// Creates a barrier that is in force.
    pub(super) fn active(name: &str) -> Self {
        Self {
            name: name.into(),
            active: true,
            version: None,
            reason: None,
        }
    }

    /// Creates a barrier that is not in force, with the reason.
    pub(super) fn missing(name: &str, reason: impl fmt::Display) -> Self {
        Self {
            name: name.into(),
            active: false,
            version: None,
            reason: Some(reason.to_string()),
        }
    }

    /// The names of the barriers in force, with their versions.
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
    fn only_what_is_in_force_is_named() {
        let landlock = Barrier {
            version: Some(3),
            ..Barrier::active("landlock")
        };
        let missing = Barrier::missing("seccomp", "the kernel has none");
        let barriers = [Barrier::active("rlimits"), landlock, missing];
        assert_eq!(Barrier::names(&barriers), ["rlimits", "landlock 3"]);
    }
}
