//! Attacks on a node: a test makes a few, `cargo xtask attack` makes them for as long as one likes.
//!
//! xtask includes this folder by its path, so it uses only what stands beside it, and threads instead of an executor.

pub mod answers;
pub mod corpus;
pub mod http;
pub mod inputs;
pub mod kills;
pub mod loops;
pub mod models;
pub mod mutants;
pub mod neighbours;
pub mod processes;
pub mod protocol;
pub mod push;
pub mod report;
pub mod values;

use std::path::PathBuf;
use std::time::Duration;

use super::{dice, onnx};

/// A request without an answer after this time hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// The timeout of deployments that are attacked, as their manifests have it.
pub const TIMEOUT: &str = "2s";

/// The node that is attacked.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://HOST:PORT`.
    pub url: String,
    /// A key that allows everything; empty if the node asks for none.
    pub key: String,
    pub pid: u32,
    /// The program, for its command line.
    pub program: PathBuf,
    /// Where bundles may be written.
    pub folder: PathBuf,
    /// The backends to attack.
    pub backends: Vec<&'static str>,
}
