//! State of a node, and its backends.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An inference backend.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Backend {
    /// `rten` or `onnxruntime`.
    pub name: String,
    /// Version of the backend.
    pub version: Option<String>,
    /// Path of its library; null for a backend that is part of the server.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub path: Option<PathBuf>,
    /// Targets that it supports: `cpu`, `gpu`.
    pub targets: Vec<String>,
    /// Whether graphs can use it.
    pub available: bool,
    /// Why it cannot be used, and how to fix that.
    pub reason: Option<String>,
}

/// Inference backends of this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListBackendsResponse {
    /// The backends; the built-in one is always available.
    pub backends: Vec<Backend>,
    /// The GPUs of the node.
    pub devices: Vec<Device>,
    /// Why graphs cannot use a GPU, and how to fix that.
    pub devices_reason: Option<String>,
    /// Barriers around the processes that run graphs, in force or not; empty if graphs run in the server's process.
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
    /// Version that is in force, if it has versions.
    pub version: Option<u32>,
    /// Why it is not in force, or what this version does not restrict.
    pub reason: Option<String>,
}

/// A GPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Device {
    /// Name, as in `device` of a graph: `cuda:0` and so on.
    pub name: String,
    /// Model name of the manufacturer.
    pub model: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Free memory in bytes.
    pub free_memory_bytes: u64,
    /// Memory used by graphs of this node, in bytes.
    pub graph_memory_bytes: u64,
    /// Version of the driver.
    pub driver_version: String,
    /// Whether graphs can use it.
    pub available: bool,
    /// Why graphs cannot use it.
    pub reason: Option<String>,
}

/// A graph in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoadedGraph {
    /// Name of the graph in the manifest.
    pub name: String,
    /// Backend of the graph.
    pub backend: String,
    /// Device of the graph: `cpu`, or `cuda:0` and so on.
    pub device: String,
    /// Size of its files in bytes.
    pub size: u64,
    /// Memory in its engine in bytes, including the largest amount measured during a run; null while it is not loaded in an engine.
    pub memory_bytes: Option<u64>,
}

/// Memory of all graphs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GraphMemory {
    /// Limit in bytes, as set with `samovar serve --memory`.
    pub limit_bytes: u64,
    /// Used memory in bytes.
    pub used_bytes: u64,
}

/// An engine: a process that runs graphs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Engine {
    /// Backend of the engine.
    pub name: String,
    /// The deployment that the engine belongs to; null for a shared engine.
    pub deployment_id: Option<String>,
    /// Whether it runs one suspect graph alone, because other engines ended while that graph ran in them.
    pub suspect: bool,
    /// Process id.
    pub process: Option<u32>,
    /// Number of loaded graphs.
    pub graphs: usize,
    /// Barriers in force: `rlimits`, `no_new_privs`, `landlock` with its version, `seccomp`.
    pub confined_by: Vec<String>,
}

/// State of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusResponse {
    /// Release of the server.
    pub version: String,
    /// Milliseconds since the server's start.
    pub uptime_ms: u64,
    /// Number of models.
    pub models: usize,
    /// Number of deployments of all models.
    pub deployments: usize,
    /// Number of replicas of all deployments.
    pub active_replicas: usize,
    /// Graphs in memory.
    pub loaded_graphs: Vec<LoadedGraph>,
    /// Memory of all graphs; null if graphs run in the server's process.
    pub graph_memory: Option<GraphMemory>,
    /// The engines; empty if graphs run in the server's process, or if no graph is loaded.
    pub engines: Vec<Engine>,
    /// Barriers around engines that this machine supports; `GET /v1/backends` also lists the others, with the reason.
    pub confined_by: Vec<String>,
    /// How instances are allocated: `pooling` or `ondemand`.
    pub allocator: String,
    /// Names of the available backends.
    pub backends: Vec<Backend>,
    /// Stored documents that cannot be read and are skipped.
    pub unreadable_documents: Vec<UnreadableDocument>,
    /// Connections of clients.
    pub connections: Connections,
    /// Limit of open files and sockets of the process; null without a limit.
    pub open_files_limit: Option<u64>,
}

/// A stored document that cannot be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnreadableDocument {
    /// Key of the document in the store.
    pub key: String,
    /// Why it cannot be read.
    pub reason: String,
}

/// Connections of clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Connections {
    /// Number of open connections, including this one.
    pub open: usize,
    /// Maximum number of open connections.
    pub max: usize,
}
