//! How a node is, and what it can run on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What runs graphs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Backend {
    /// `rten` or `onnxruntime`.
    pub name: String,
    /// Version of the backend.
    pub version: Option<String>,
    /// Where it was found; null when it is part of the server.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub path: Option<PathBuf>,
    /// `cpu` and `gpu`, as far as it has them.
    pub targets: Vec<String>,
    /// Whether it can be used.
    pub available: bool,
    /// Why not, and what would help.
    pub reason: Option<String>,
}

/// What runs graphs on this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListBackendsResponse {
    /// The built-in one is always among them.
    pub backends: Vec<Backend>,
    /// The cards of the node.
    pub devices: Vec<Device>,
    /// Why graphs cannot use a card, if they cannot, and what would help.
    pub devices_reason: Option<String>,
    /// What confines the processes that run graphs, and what does not; empty when graphs run in the server's own process.
    pub confinement: Vec<Confinement>,
}

/// A barrier around a process that runs graphs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Confinement {
    /// `rlimits`, `no_new_privs`, `landlock` or `seccomp`.
    pub name: String,
    /// Whether it is in force.
    pub active: bool,
    /// The version of it that is in force, where it has versions.
    pub version: Option<u32>,
    /// Why it is not in force, or what this version of it does not confine.
    pub reason: Option<String>,
}

/// A card.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Device {
    /// What a graph's `device` says: `cuda:0` and so on.
    pub name: String,
    /// What it is, as its maker calls it.
    pub model: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of that which nobody uses.
    pub free_memory_bytes: u64,
    /// Bytes that graphs of this node take.
    pub graph_memory_bytes: u64,
    /// Version of its driver.
    pub driver_version: String,
    /// Whether graphs can use it.
    pub available: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// A graph in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoadedGraph {
    /// Its name in the manifest.
    pub name: String,
    /// What runs it.
    pub backend: String,
    /// What it runs on: `cpu`, or `cuda:0` and so on.
    pub device: String,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of memory that it takes in its engine, with the most that runs were seen to take; null while it is not loaded
    /// there.
    pub memory_bytes: Option<u64>,
}

/// The memory that all graphs take together.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GraphMemory {
    /// Bytes that they may take, as `samovar serve --memory` says.
    pub limit_bytes: u64,
    /// Bytes that they take.
    pub used_bytes: u64,
}

/// A process that runs graphs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Engine {
    /// The backend that it was started for.
    pub name: String,
    /// The deployment that has it for itself; null when it is shared.
    pub deployment_id: Option<String>,
    /// Whether it runs one graph alone, because engines ended that this graph ran in.
    pub suspect: bool,
    /// Id of the process.
    pub process: Option<u32>,
    /// How many graphs it has loaded.
    pub graphs: usize,
    /// What confines it: `rlimits`, `no_new_privs`, `landlock` with its version, `seccomp`.
    pub confined_by: Vec<String>,
}

/// How a node is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusResponse {
    /// Release of the server.
    pub version: String,
    /// Since its start.
    pub uptime_ms: u64,
    /// Models.
    pub models: usize,
    /// Deployments of all models.
    pub deployments: usize,
    /// Replicas of all deployments.
    pub active_replicas: usize,
    /// Graphs in memory.
    pub loaded_graphs: Vec<LoadedGraph>,
    /// The memory that they take together; null when graphs run in the server's own process.
    pub graph_memory: Option<GraphMemory>,
    /// The processes that run graphs; none when graphs run in the server's own, or when none is loaded.
    pub engines: Vec<Engine>,
    /// What confines such processes on this machine, as of each engine; `GET /v1/backends` says what does not, and why.
    pub confined_by: Vec<String>,
    /// `pooling` or `ondemand`.
    pub allocator: String,
    /// What runs graphs.
    pub backends: Vec<Backend>,
    /// Stored documents that cannot be read and are passed over.
    pub unreadable_documents: Vec<UnreadableDocument>,
    /// Connections of clients.
    pub connections: Connections,
    /// Files and sockets that the process may have open; null for no limit.
    pub open_files_limit: Option<u64>,
}

/// A stored document that cannot be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnreadableDocument {
    /// Its key in the store, which says what it is of.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Connections of clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Connections {
    /// Open now, this one included.
    pub open: usize,
    /// Open at most.
    pub max: usize,
}
