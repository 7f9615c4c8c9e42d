//! The runtime of a node: engine, artifacts, graphs and slots, put together.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::admission::AdmissionError;
use crate::artifact::{ArtifactError, ArtifactStore};
use crate::compile::{Compilation, ComponentFile};
use crate::engine::{Allocator, EngineOptions, SharedEngine};
use crate::infer::backend::{BackendInfo, BackendOptions, Backends, Gpus};
use crate::infer::engines::{EngineEvent, EngineInfo, EngineTotals, Engines, Fleet, GraphMemory};
use crate::infer::graph::loader::Loader;
use crate::infer::graph::{GraphInfo, GraphSpec, GraphStore, LoadedGraph};
use crate::pool::slots::Slots;
use crate::pool::{DeploymentSpec, NodeResources, Pool};
use crate::process::barrier::Barrier;
use crate::snapshot::Snapshot;

/// The settings of a [`Runtime`].
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The folder for artifacts, which is created if it does not exist.
    pub artifacts: PathBuf,
    /// The settings of the wasmtime engines.
    pub engine: EngineOptions,
    /// Options of the inference backends.
    pub backends: BackendOptions,
    /// Whether graphs run in this process or in engine processes.
    pub engines: Engines,
    /// Whether components are compiled in this process or in workers.
    pub compilation: Compilation,
}

fn loader(engines: Engines, options: BackendOptions) -> Result<Loader, String> {
    Ok(match engines {
        Engines::InProcess => Loader::from(Backends::discover(options)),
        Engines::Processes {
            program,
            confinement,
            load_timeout,
            memory_bytes,
        } => Loader::Engines(Fleet::open(
            program,
            confinement,
            load_timeout,
            memory_bytes,
            options,
        )?),
    })
}

/// Runs the models of a node.
pub struct Runtime {
    node: Arc<NodeResources>,
}

impl Runtime {
    /// Creates the engines, finds the inference backends and opens the artifact folder.
    ///
    /// # Errors
    /// When wasmtime refuses the settings on this machine, or the folder cannot be created.
    pub fn new(options: RuntimeOptions) -> Result<Self, AdmissionError> {
        let built = || -> wasmtime::Result<NodeResources> {
            let engine = Arc::new(SharedEngine::new(&options.engine)?);
            let loader = loader(options.engines, options.backends).map_err(wasmtime::Error::msg)?;
            Ok(NodeResources {
                artifacts: Arc::new(ArtifactStore::new(
                    &engine,
                    options.compilation,
                    &options.artifacts,
                )?),
                graphs: GraphStore::new(loader),
                slots: Slots::new(options.engine.max_replicas),
                engine,
            })
        };
        let node = built().map_err(|e| AdmissionError::Mismatch(format!("{e:#}")))?;
        Ok(Self {
            node: Arc::new(node),
        })
    }

    /// Compiles a component, unless a valid artifact of it is on disk, and checks its imports and exports.
    ///
    /// # Errors
    /// When the component is refused, or compiling or the disk fails.
    pub async fn admit(&self, component: &ComponentFile) -> Result<(), Arc<ArtifactError>> {
        self.node.artifacts.get(component).await.map(drop)
    }

    /// Makes the snapshot that a deployment asks for, even if an earlier attempt was refused. `None` if it asks for none.
    ///
    /// # Errors
    /// When the component is refused, or compiling or the disk fails. A component that can have no snapshot is
    /// [`Snapshot::Refused`], not an error.
    pub async fn admit_snapshot(
        &self,
        spec: &DeploymentSpec,
    ) -> Result<Option<Snapshot>, Arc<ArtifactError>> {
        let Some(inputs) = &spec.snapshot else {
            return Ok(None);
        };
        let (artifacts, component) = (&self.node.artifacts, &spec.component);
        artifacts.retry_snapshot(component, inputs).await;
        let artifact = artifacts
            .get_snapshot(component, inputs, self.node.snapshot_context(spec))
            .await?;
        Ok(artifact.snapshot.clone())
    }

    /// Loads a graph, unless it is loaded, to find out whether it works here. It stays loaded until the last reference is dropped.
    ///
    /// # Errors
    /// Why the backend cannot load the graph.
    pub async fn admit_graph(
        &self,
        spec: &GraphSpec,
    ) -> Result<Arc<LoadedGraph>, crate::infer::graph::GraphError> {
        let graph = self.node.graphs.acquire(spec).await?;
        graph.check(spec)?;
        Ok(graph)
    }

    /// Creates the pool of a deployment. It starts no replica until asked to.
    pub fn pool(&self, spec: DeploymentSpec) -> Arc<Pool> {
        Pool::new(self.node.clone(), spec)
    }

    /// Deletes what was derived from a file: the artifacts of a component, or the optimized form of a model.
    pub async fn forget(&self, digest: &str) {
        self.node.artifacts.remove(digest).await;
        self.node.graphs.delete_derived(digest);
    }

    /// The GPUs of this machine.
    pub fn gpus(&self) -> Gpus {
        self.node.graphs.gpus()
    }

    /// The inference backends of this machine.
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.node.graphs.backends()
    }

    /// The running engine processes.
    pub fn engines(&self) -> Vec<EngineInfo> {
        self.node.graphs.engines()
    }

    /// Subscribes to events of engines; `None` when graphs run in this process.
    pub fn engine_events(&self) -> Option<broadcast::Receiver<EngineEvent>> {
        self.node.graphs.engine_events()
    }

    /// Totals of engine events since the runtime was created; `None` when graphs run in this process.
    pub fn engine_totals(&self) -> Option<EngineTotals> {
        self.node.graphs.engine_totals()
    }

    /// The barriers around engines, active or not; `None` when graphs run in this process.
    pub fn engine_barriers(&self) -> Option<Vec<Barrier>> {
        self.node.graphs.engine_barriers()
    }

    /// The loaded graphs.
    pub fn graphs(&self) -> Vec<GraphInfo> {
        self.node.graphs.loaded()
    }

    /// The memory of all graphs and its limit; `None` where it is not counted.
    pub fn graph_memory(&self) -> Option<GraphMemory> {
        self.node.graphs.graph_memory()
    }

    /// How instances get their memory on this machine.
    pub fn allocator(&self) -> Allocator {
        self.node.engine.allocator()
    }
}
