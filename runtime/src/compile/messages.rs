//! The protocol between a node and a compile worker, in frames.
//!
//! The node sends `Setup`, and the worker answers `Ready`. For each job the node sends two open files (the component, and where
//! the code goes) and a `Job`; the worker answers with any number of `Line` and one `Done`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{Allocator, AsyncSupport};
use crate::log::Level;
use crate::process::barrier::Barrier;

/// From the node: what a worker needs before its first job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The node's allocator, which decides how code checks bounds.
    pub allocator: Allocator,
    /// Private memory that the worker may use, in bytes.
    pub memory_bytes: u64,
    /// The folder that holds the files of all deployments.
    pub files: PathBuf,
}

/// From the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum WorkerMessage {
    /// The worker is ready for jobs.
    Ready {
        /// [`SharedEngine::compatibility_hashes`](crate::engine::SharedEngine::compatibility_hashes) of the worker.
        compatibility: [u64; 2],
        /// What confines the worker, and what does not.
        barriers: Vec<Barrier>,
    },
    /// A line that `init` printed.
    Line { level: Level, message: String },
    /// The job has ended. The code is in the file; an error says what is wrong with the component.
    Done(Result<AsyncSupport, String>),
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
            let _ = decode::<WorkerMessage>(&bytes);
            let _ = decode::<Job>(&bytes);
            let _ = decode::<Setup>(&bytes);
        }
    }
}
