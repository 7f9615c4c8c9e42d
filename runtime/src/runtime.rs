//! What a node runs models with, put together: engine, artifacts, graphs and slots.

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
use crate::pool::{DeploymentSpec, Machine, Pool};
use crate::process::barrier::Barrier;
use crate::snapshot::Snapshot;

/// What a runtime is made from.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Where compiled artifacts are kept.
    pub artifacts: PathBuf,
    /// The engine's settings.
    pub engine: EngineOptions,
    /// Where to find inference libraries.
    pub backends: BackendOptions,
    /// Where graphs are loaded and run.
    pub engines: Engines,
    /// Where components are compiled.
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
    machine: Arc<Machine>,
}

impl Runtime {
    /// Builds the engine, finds the backends and opens the artifact folder.
    ///
    /// # Errors
    /// When the engine's settings or the folder fail on this machine.
    pub fn new(options: RuntimeOptions) -> Result<Self, AdmissionError> {
        let built = || -> wasmtime::Result<Machine> {
            let engine = Arc::new(SharedEngine::new(&options.engine)?);
            let loader = loader(options.engines, options.backends).map_err(wasmtime::Error::msg)?;
            Ok(Machine {
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
        let machine = built().map_err(|e| AdmissionError::Mismatch(format!("{e:#}")))?;
        Ok(Self {
            machine: Arc::new(machine),
        })
    }

    /// Compiles a component and checks what it imports and exports.
    ///
    /// # Errors
    /// When the component is refused or the disk fails.
    pub async fn admit(&self, component: &ComponentFile) -> Result<(), Arc<ArtifactError>> {
        self.machine.artifacts.get(component).await.map(drop)
    }

    /// Makes the snapshot that a deployment wants, also when it was tried before in vain. Nothing when it wants none.
    ///
    /// # Errors
    /// When the component is refused or the disk fails; that there can be no snapshot is none.
    pub async fn admit_snapshot(
        &self,
        spec: &DeploymentSpec,
    ) -> Result<Option<Snapshot>, Arc<ArtifactError>> {
        let Some(seen) = &spec.snapshot else {
            return Ok(None);
        };
        let (artifacts, component) = (&self.machine.artifacts, &spec.component);
        artifacts.retry_snapshot(component, seen).await;
        let artifact = artifacts
            .get_snapshot(component, seen, self.machine.setting(spec))
            .await?;
        Ok(artifact.snapshot.clone())
    }

    /// Loads a graph, or finds it loaded: does it work here? It stays as long as somebody holds it.
    ///
    /// # Errors
    /// What the backend says of it.
    pub async fn admit_graph(
        &self,
        spec: &GraphSpec,
    ) -> Result<Arc<LoadedGraph>, crate::infer::graphs::GraphError> {
        let graph = self.machine.graphs.acquire(spec).await?;
        graph.suits(spec)?;
        Ok(graph)
    }

    /// A pool for a deployment; it starts nothing by itself.
    pub fn pool(&self, spec: DeploymentSpec) -> Arc<Pool> {
        Pool::new(self.machine.clone(), spec)
    }

    /// Forgets what was made of a file: the compiled form of a component, the optimized form of a model.
    pub async fn forget(&self, digest: &str) {
        self.machine.artifacts.remove(digest).await;
        self.machine.graphs.forget(digest);
    }

    /// The cards of this machine.
    pub fn cards(&self) -> Cards {
        self.machine.graphs.cards()
    }

    /// The inference backends of this machine.
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.machine.graphs.backends()
    }

    /// The engines that run.
    pub fn engines(&self) -> Vec<EngineInfo> {
        self.machine.graphs.engines()
    }

    /// What happens to engines from now on; nothing when graphs run in this process.
    pub fn engine_events(&self) -> Option<broadcast::Receiver<EngineEvent>> {
        self.machine.graphs.engine_events()
    }

    /// What happened to engines since the node started; nothing when graphs run in this process.
    pub fn engine_totals(&self) -> Option<EngineTotals> {
        self.machine.graphs.engine_totals()
    }

    /// What confines the engines that run graphs, and what does not; nothing when graphs run in this process.
    pub fn engine_barriers(&self) -> Option<Vec<Barrier>> {
        self.machine.graphs.engine_barriers()
    }

    /// The graphs in memory now.
    pub fn graphs(&self) -> Vec<GraphInfo> {
        self.machine.graphs.loaded()
    }

    /// Memory that all graphs may take together, and that they take; nothing where it is not counted.
    pub fn graph_memory(&self) -> Option<GraphMemory> {
        self.machine.graphs.graph_memory()
    }

    /// How instances get their memory here.
    pub fn allocator(&self) -> Allocator {
        self.machine.engine.allocator()
    }
}
