//! What a node and a compile worker say to each other, in frames.
//!
//! The first is `Open`, which the worker answers with `Opened`. Then each job is two open files (the component, and where the
//! code goes) and a `Job`, answered with any number of lines and one `Done`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{Allocator, Calls};
use crate::log::Level;
use crate::process::barrier::Barrier;

/// From the node: what a worker needs to know before its first job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    /// The node's allocator, which decides how code checks bounds.
    pub allocator: Allocator,
    /// Bytes of private memory that the worker may have.
    pub memory_bytes: u64,
    /// The folder below which deployments have their files.
    pub files: PathBuf,
}

/// From the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is ready.
    Opened {
        /// Hashes of what its engines compile for.
        compatibility: [u64; 2],
        /// What confines it, and what does not.
        barriers: Vec<Barrier>,
    },
    /// A line that `init` printed.
    Line { level: Level, message: String },
    /// The job's end. The code is in the file; an error says what is wrong with the component.
    Done(Result<Calls, String>),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::job::Job;
    use super::*;
    use crate::process::frames::decode;

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let _ = decode::<Answer>(&bytes);
            let _ = decode::<Job>(&bytes);
            let _ = decode::<Open>(&bytes);
        }
    }
}
