//! The graphs of a node: what a manifest says of one, one in memory, and how deployments use it.

mod background_drop;
mod latency;
pub(crate) mod loader;
pub(crate) mod loading;
mod metrics;
pub(crate) mod run;
mod store;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use samovar_onnx::port::Port;

use crate::infer::backend::tensor::Place;
use crate::infer::backend::{BackendChoice, DataFile, Device, LoadError, Loaded, Target};
pub use crate::infer::batch::Batching;
use crate::infer::batch::rows::joinable;
use crate::infer::compute::{ComputePool, ComputePools};
use crate::infer::engines::RemoteGraph;
use crate::permits::Owner;
use background_drop::BackgroundDrop;
use latency::LatencyEstimate;
pub use metrics::{GraphTotals, Histogram};
pub use store::GraphStore;
pub(crate) use store::max_loads;
pub use usage::DeploymentGraph;

/// A graph of a deployment, as its manifest describes it.
#[derive(Clone, Debug)]
pub struct GraphSpec {
    /// The graph's name in the manifest.
    pub name: String,
    /// SHA-256 of the model file, 64 hex digits. It also covers the digests of `data`.
    pub digest: String,
    /// The model file.
    pub path: PathBuf,
    /// Files beside the model that hold weights.
    pub data: Vec<DataFile>,
    /// The backend that runs the graph.
    pub backend: BackendChoice,
    /// The device that the graph runs on.
    pub target: Target,
    /// Threads that one run may use.
    pub threads: usize,
    /// How calls of the deployment's replicas are joined; `None` runs each alone.
    pub batching: Option<Batching>,
    /// The deployment's id if it has engine processes of its own, where the graph is loaded.
    pub own_engine: Option<String>,
    /// On whose behalf the graph is loaded: owners take turns.
    pub owner: Owner,
}

impl GraphSpec {
    /// The size of all files, in bytes.
    fn bytes(&self) -> u64 {
        let paths = self.data.iter().map(|file| &file.path);
        let paths = paths.chain([&self.path]);
        paths
            .filter_map(|path| Some(std::fs::metadata(path).ok()?.len()))
            .sum()
    }
}

#[cfg(test)]
impl GraphSpec {
    /// A model file for rten, as a graph with this digest and name.
    fn for_test(digest: &str, path: impl Into<PathBuf>) -> Self {
        Self {
            name: digest.into(),
            digest: digest.into(),
            path: path.into(),
            data: Vec::new(),
            backend: BackendChoice::Rten,
            target: Target::Cpu,
            threads: 1,
            batching: None,
            own_engine: None,
            owner: Owner::named("tests"),
        }
    }
}

/// Why a graph cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GraphError {
    /// The backend cannot load it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The manifest asks for batching, but calls of this graph cannot be joined.
    #[error(
        "`batch` joins calls along the first dimension, but {0}; take `batch` out of the graph's section"
    )]
    Batch(String),
    /// Loading panicked, which is a bug.
    #[error("loading stopped unexpectedly: {0}")]
    Stopped(String),
}

/// A graph in memory.
pub struct LoadedGraph {
    loaded: BackgroundDrop<Loaded>,
    compute: Arc<ComputePool>,
    name: String,
    threads: usize,
    bytes: u64,
    latency: Arc<LatencyEstimate>,
    /// Whether calls can be joined, or why not.
    joinable: Result<(), String>,
}

/// What the API reports of a graph in memory.
#[derive(Clone, Debug)]
pub struct GraphInfo {
    /// The graph's name in the deployment that loaded it first.
    pub name: String,
    /// The backend: `rten` or `onnxruntime`.
    pub backend: &'static str,
    /// The device that it runs on.
    pub device: Device,
    /// The size of its files, in bytes.
    pub bytes: u64,
    /// Memory of the graph and its runs in bytes; `None` unless it is loaded in an engine now.
    pub memory_bytes: Option<u64>,
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
}

impl LoadedGraph {
    fn new(loaded: Loaded, pools: ComputePools, name: String, threads: usize, bytes: u64) -> Self {
        let place = loaded.model.place();
        Self {
            joinable: joinable(&loaded.inputs, &loaded.outputs).and_then(|()| {
                match &loaded.mixes_rows {
                    None => Ok(()),
                    Some(operator) => Err(format!(
                        "{operator} computes over all rows of a run, so that the answer to one call would depend on the others"
                    )),
                }
            }),
            loaded: BackgroundDrop::new(loaded, bytes),
            compute: pools.pool_for(place),
            name,
            // A run on a GPU needs one thread, which waits.
            threads: match place {
                Place::Host => threads.max(1),
                Place::Cuda(_) => 1,
            },
            bytes,
            latency: Arc::default(),
        }
    }

    /// What the API reports of the graph.
    pub fn info(&self) -> GraphInfo {
        GraphInfo {
            name: self.name.clone(),
            backend: self.backend(),
            device: self.device(),
            bytes: self.bytes,
            memory_bytes: self
                .loaded
                .model
                .remote()
                .and_then(RemoteGraph::memory_bytes),
            inputs: self.loaded.inputs.clone(),
            outputs: self.loaded.outputs.clone(),
        }
    }

    /// The backend: `rten` or `onnxruntime`.
    pub fn backend(&self) -> &'static str {
        self.loaded.backend
    }

    /// The device that the graph runs on.
    pub fn device(&self) -> Device {
        self.loaded.device
    }

    /// The size of the graph's files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks that the graph can be used as the manifest asks.
    ///
    /// # Errors
    /// What in the graph prevents it.
    pub fn check(&self, spec: &GraphSpec) -> Result<(), GraphError> {
        match (spec.batching, &self.joinable) {
            (Some(_), Err(reason)) => Err(GraphError::Batch(reason.clone())),
            _ => Ok(()),
        }
    }
}
