//! What a node runs models with, put together: engine, artifacts, graphs and slots.

use std::path::PathBuf;
use std::sync::Arc;

use crate::admission::AdmissionError;
use crate::artifact::{ArtifactError, ArtifactStore, ComponentFile};
use crate::engine::{Allocator, EngineOptions, SharedEngine};
use crate::infer::backend::{BackendInfo, BackendOptions, Backends};
use crate::infer::graphs::{GraphInfo, GraphSpec, GraphStore};
use crate::pool::{DeploymentSpec, Machine, Pool};
use crate::slots::Slots;

/// What a runtime is made from.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Where compiled artifacts are kept.
    pub artifacts: PathBuf,
    /// The engine's settings.
    pub engine: EngineOptions,
    /// Where to find inference libraries.
    pub backends: BackendOptions,
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
            Ok(Machine {
                artifacts: Arc::new(ArtifactStore::new(engine.clone(), &options.artifacts)?),
                graphs: GraphStore::new(Backends::discover(options.backends)),
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

    /// Loads a graph and drops it again unless somebody else holds it: does it work here?
    ///
    /// # Errors
    /// What the backend says of it.
    pub async fn admit_graph(
        &self,
        spec: &GraphSpec,
    ) -> Result<(), crate::infer::graphs::GraphError> {
        self.machine.graphs.acquire(spec).await?.suits(spec)
    }

    /// A pool for a deployment; it starts nothing by itself.
    pub fn pool(&self, spec: DeploymentSpec) -> Arc<Pool> {
        Pool::new(self.machine.clone(), spec)
    }

    /// Forgets the compiled form of a component.
    pub async fn forget(&self, component_digest: &str) {
        self.machine.artifacts.remove(component_digest).await;
    }

    /// The inference backends of this machine.
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.machine.graphs.backends()
    }

    /// The graphs in memory now.
    pub fn graphs(&self) -> Vec<GraphInfo> {
        self.machine.graphs.loaded()
    }

    /// How instances get their memory here.
    pub fn allocator(&self) -> Allocator {
        self.machine.engine.allocator()
    }
}
