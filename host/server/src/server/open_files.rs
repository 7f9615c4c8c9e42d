//! How many files and sockets the process may have open, and how many of them connections may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections at most, unless more are asked for.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Files that are kept for models, logs, the store and calls out, at least.
const MIN_RESERVE: u64 = 64;

/// Raises the soft limit to the hard one, and answers what holds now; `None` is no limit.
pub fn raise_limit() -> Option<u64> {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: found.maximum,
        maximum: found.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {}
        Err(error) => tracing::warn!(
            %error,
            limit = found.current,
            wanted = found.maximum,
            "cannot raise the limit of open files"
        ),
    }
    getrlimit(Resource::Nofile).current
}

/// How many connections such a limit leaves room for: a quarter of the files is for everything else.
pub fn connections_within(limit: Option<u64>) -> usize {
    let Some(limit) = limit else {
        return usize::MAX;
    };
    let reserve = (limit / 4).max(MIN_RESERVE);
    let room = usize::try_from(limit.saturating_sub(reserve)).unwrap_or(usize::MAX);
    room.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_other_files() {
        for (limit, connections) in [
            (None, usize::MAX),
            (Some(1_048_576), 786_432),
            (Some(13_000), 9_750),
            (Some(1024), 768),
            (Some(100), 36),
            (Some(10), 1),
        ] {
            assert_eq!(connections_within(limit), connections, "{limit:?}");
        }
    }
}
