//! Engines: processes that load graphs and run them, so that native code which crashes, hangs or takes all memory harms its
//! own process and not the node.
//!
//! The node starts `samovar engine`, hands it a socket and shared memory (`ring.rs`, `arena.rs`, `wire.rs`), and has it
//! confined (`process/confine.rs`). `serve.rs` is what the engine does; `running.rs` is one engine as the node sees it; `fleet.rs`
//! starts them and decides which graph is loaded where, with `blame.rs`; `optimizer.rs` has models brought into a form that loads quicker; `history.rs` counts what happens to them and sends it to
//! those who follow; `remote.rs` is a graph in an engine, for those who run it.

mod arena;
mod blame;
mod fleet;
mod gauge;
mod history;
mod kept;
mod libraries;
mod memory;
mod optimizer;
mod remote;
mod ring;
mod running;
mod serve;
mod shared;
mod slot;
mod tensors;
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
pub(crate) use remote::Remote;
pub use serve::serve;
pub(crate) use wire::Length;

/// What is run as an engine.
#[derive(Clone, Debug)]
pub enum Program {
    /// A program that calls [`serve`] when its first argument is `engine`.
    Process(PathBuf),
    /// A thread of this process, which is confined by nothing.
    #[cfg(test)]
    Thread,
}

/// An engine that runs, for people and programs that ask.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// The backend that it was started for.
    pub backend: &'static str,
    /// The deployment's id that has it for itself; nothing when it is shared.
    pub deployment: Option<String>,
    /// Whether it runs one graph alone, because engines ended that this graph ran in.
    pub is_suspect: bool,
    /// Its process.
    pub process: Option<u32>,
    /// Bytes of memory that it has in RAM, as far as the system says.
    pub resident_bytes: Option<u64>,
    /// How many graphs it has loaded.
    pub graphs: usize,
    /// What confines it.
    pub confined_by: Vec<String>,
}

/// Where graphs are loaded and run.
#[derive(Clone, Debug, Default)]
pub enum Engines {
    /// In this process.
    #[default]
    InProcess,
    /// In processes of their own.
    Processes {
        /// What they run.
        program: Program,
        /// What they may use.
        confinement: Confinement,
        /// How long a graph may take to load.
        load_timeout: Duration,
        /// Memory that all graphs may take together.
        memory_bytes: u64,
    },
}
