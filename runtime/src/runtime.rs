//! The runtime of a node: engine, artifacts, graphs and replica slots.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::admission::AdmissionError;
use crate::artifact::{ArtifactError, ArtifactStore};
use crate::compile::{Compilation, ComponentFile};
use crate::engine::{Allocator, EngineOptions, SharedEngine};
use crate::infer::backend::{BackendInfo, BackendOptions, Backends, Cards};
use crate::infer::engines::{EngineEvent, EngineInfo, EngineTotals, Engines, Fleet, GraphMemory};
use crate::infer::graphs::{GraphInfo, GraphSpec, GraphStore, LoadedGraph};
use crate::infer::loader::Loader;
use crate::pool::slots::Slots;
use crate::pool::{DeploymentSpec, NodeResources, Pool};
use crate::process::barrier::Barrier;
use crate::snapshot::Snapshot;

/// Options of a runtime.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Folder for compiled artifacts.
    pub artifacts: PathBuf,
    /// Settings of the Wasmtime engines.
    pub engine: EngineOptions,
    /// Options of the inference backends.
    pub backends: BackendOptions,
    /// Where graphs are loaded and run: in engines or in this process.
    pub engines: Engines,
    /// Where components are compiled: in workers or in this process.
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
    /// Creates the engines, finds the backends and opens the folder of artifacts.
    ///
    /// # Errors
    /// If the engines cannot be created with these settings, or the folder cannot be used.
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

    /// Compiles a component and checks its imports and exports.
    ///
    /// # Errors
    /// If the component is refused or the disk fails.
    pub async fn admit(&self, component: &ComponentFile) -> Result<(), Arc<ArtifactError>> {
        self.node.artifacts.get(component).await.map(drop)
    }

    /// Takes the snapshot of a deployment, even if an earlier attempt failed. `None` if the deployment has no snapshot setting.
    ///
    /// # Errors
    /// If the component is refused or the disk fails. It is not an error if a snapshot is impossible.
    pub async fn admit_snapshot(
        &self,
        spec: &DeploymentSpec,
    ) -> Result<Option<Snapshot>, Arc<ArtifactError>> {
        let Some(seen) = &spec.snapshot else {
            return Ok(None);
        };
        let (artifacts, component) = (&self.node.artifacts, &spec.component);
        artifacts.retry_snapshot(component, seen).await;
        let artifact = artifacts
            .get_snapshot(component, seen, self.node.snapshot_context(spec))
            .await?;
        Ok(artifact.snapshot.clone())
    }

    /// Loads a graph, or returns the loaded one. It stays in memory as long as the returned value or another user exists.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn admit_graph(
        &self,
        spec: &GraphSpec,
    ) -> Result<Arc<LoadedGraph>, crate::infer::graphs::GraphError> {
        let graph = self.node.graphs.acquire(spec).await?;
        graph.suits(spec)?;
        Ok(graph)
    }

    /// Creates a pool for a deployment, without replicas.
    pub fn pool(&self, spec: DeploymentSpec) -> Arc<Pool> {
        Pool::new(self.node.clone(), spec)
    }

    /// Deletes cached forms of a file: the compiled form of a component, the optimized form of a model.
    pub async fn forget(&self, digest: &str) {
        self.node.artifacts.remove(digest).await;
        self.node.graphs.forget(digest);
    }

    /// The GPUs of this machine.
    pub fn cards(&self) -> Cards {
        self.node.graphs.cards()
    }

    /// The inference backends of this machine.
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.node.graphs.backends()
    }

    /// The running engines.
    pub fn engines(&self) -> Vec<EngineInfo> {
        self.node.graphs.engines()
    }

    /// Subscribes to events of engines; `None` if graphs run in this process.
    pub fn engine_events(&self) -> Option<broadcast::Receiver<EngineEvent>> {
        self.node.graphs.engine_events()
    }

    /// Counters of engines since the node started; `None` if graphs run in this process.
    pub fn engine_totals(&self) -> Option<EngineTotals> {
        self.node.graphs.engine_totals()
    }

    /// The barriers around engines, in force or not; empty if graphs run in this process.
    pub fn engine_barriers(&self) -> Option<Vec<Barrier>> {
        self.node.graphs.engine_barriers()
    }

    /// The graphs in memory.
    pub fn graphs(&self) -> Vec<GraphInfo> {
        self.node.graphs.loaded()
    }

    /// Limit and use of memory of all graphs; `None` if it is not measured.
    pub fn graph_memory(&self) -> Option<GraphMemory> {
        self.node.graphs.graph_memory()
    }

    /// How instances are allocated.
    pub fn allocator(&self) -> Allocator {
        self.node.engine.allocator()
    }
}
