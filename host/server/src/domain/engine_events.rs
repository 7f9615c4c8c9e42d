//! What happens to engines, as it is told: with the deployments that it concerns.

use samovar_types::engine::{ConcernedDeployment, EngineGraph};

/// An engine started or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineNote {
    /// The backend that it was started for.
    pub backend: &'static str,
    /// Its process.
    pub process: Option<u32>,
    /// Whether it ran one graph alone, because engines ended that this graph ran in.
    pub suspect: bool,
    /// How it ended; nothing when it started.
    pub end: Option<EngineEnd>,
    /// The deployment that has it for itself, and those that have a graph which may have ended it.
    pub deployments: Vec<ConcernedDeployment>,
}

/// How an engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEnd {
    /// For programs, as `signal`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The graphs that may have ended it.
    pub graphs: Vec<EngineGraph>,
}

/// A graph is not run for a while, or may be run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineNote {
    /// The graph.
    pub graph: EngineGraph,
    /// How long it is not run, and how often it ended its own engine; nothing when it may be run again.
    pub begun: Option<QuarantineBegin>,
    /// The deployments that have it.
    pub deployments: Vec<ConcernedDeployment>,
}

/// An idle graph was unloaded to make room for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionNote {
    /// The graph.
    pub graph: EngineGraph,
    /// The memory that it was counted with.
    pub bytes: u64,
    /// The deployments that have it.
    pub deployments: Vec<ConcernedDeployment>,
}

/// The beginning of a quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineBegin {
    /// How long the graph is not run.
    pub seconds: u64,
    /// How often it ended its own engine lately.
    pub ends: usize,
}
