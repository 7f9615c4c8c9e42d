//! Engines: processes that load and run graphs, so that native code which crashes, hangs or uses all memory takes down its own
//! process and not the node.
//!
//! The node starts `samovar engine`, passes it a socket and shared memory (`ring.rs`, `arena.rs`, `wire.rs`), and confines
//! it (`process/confine.rs`). `serve.rs` is the engine's side; `handle.rs` is the node's side of one engine; `fleet.rs`
//! starts engines and decides which graph is loaded in which, with `crash_history.rs`; `optimizer.rs`
//! makes forms of models that load faster; `history.rs` counts and publishes events of engines; `remote.rs` is a graph in an engine.

mod arena;
mod crash_history;
mod fleet;
mod gauge;
mod graph_slot;
mod handle;
mod history;
mod libraries;
mod memory;
mod optimizer;
mod remote;
mod remote_data;
mod ring;
mod serve;
mod shared_memory;
mod tensor_store;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use crate::process::confine::Confinement;
pub(crate) use fleet::Fleet;
pub use history::{EndReason, EngineEvent, EngineLabel, EngineTotals, GraphLabel, Suspect};
pub use memory::GraphMemory;
pub use optimizer::serve as serve_optimizer;
pub(crate) use remote::RemoteGraph;
pub use serve::serve;
pub(crate) use wire::Length;

/// The program that runs as an engine.
#[derive(Clone, Debug)]
pub enum Program {
    /// A program that calls [`serve`] if its first argument is `engine`.
    Process(PathBuf),
    /// A thread of this process, which is not confined.
    #[cfg(test)]
    Thread,
}

/// A running engine.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// The backend that it runs.
    pub backend: &'static str,
    /// ID of the deployment that owns it; `None` if it is shared.
    pub deployment: Option<String>,
    /// Whether it runs a single graph, in whose engines crashes have occurred.
    pub is_suspect: bool,
    /// Its process ID.
    pub process: Option<u32>,
    /// Resident memory in bytes, if the system reports it.
    pub resident_bytes: Option<u64>,
    /// Number of loaded graphs.
    pub graphs: usize,
    /// Names of the mechanisms that confine it.
    pub confined_by: Vec<String>,
}

/// Where graphs are loaded and run.
#[derive(Clone, Debug, Default)]
pub enum Engines {
    /// In this process.
    #[default]
    InProcess,
    /// In separate processes.
    Processes {
        /// The program of the engines.
        program: Program,
        /// The resources that engines may use.
        confinement: Confinement,
        /// Time limit for loading a graph.
        load_timeout: Duration,
        /// Limit of the memory of all graphs together, in bytes.
        memory_bytes: u64,
    },
}
