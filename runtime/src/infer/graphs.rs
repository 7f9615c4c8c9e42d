//! The graphs loaded on this node: each once, shared by whoever holds it, unloaded with its last holder.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::infer::backend::port::{Port, arrange};
use crate::infer::backend::tensor::Tensor;
use crate::infer::backend::{
    BackendChoice, BackendInfo, Backends, LoadError, Loaded, Runs, SharedBackends, Source, Target,
};
use crate::infer::compute::{Compute, Worker, guarded};

/// A run that is known to be shorter than this stays on the thread that asks for it: a hop would cost as much.
const SHORT: Duration = Duration::from_micros(100);
/// A graph larger than this is never run on the caller's thread, however fast: its stack needs are unknown.
const SMALL_BYTES: u64 = 4 << 20;

/// A graph of a deployment.
#[derive(Clone, Debug)]
pub struct GraphSpec {
    /// Its name in the manifest.
    pub name: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// The file.
    pub path: PathBuf,
    /// Which backend is meant to run it.
    pub backend: BackendChoice,
    /// Where it is meant to run.
    pub target: Target,
    /// Threads that one run may use.
    pub threads: usize,
}

/// Why a graph cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GraphError {
    /// No backend runs it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A bug: loading stopped.
    #[error("loading stopped unexpectedly: {0}")]
    Stopped(String),
}

/// Why a run gave nothing.
#[derive(Clone, Debug)]
pub(crate) enum ComputeFailure {
    /// The inputs do not fit.
    Inputs(String),
    /// The backend failed.
    Backend(String),
}

/// A graph in memory.
pub struct LoadedGraph {
    loaded: Arc<Loaded>,
    compute: Arc<Compute>,
    name: String,
    threads: usize,
    bytes: u64,
    /// What runs have taken; 0 until the first. Rises at once, falls slowly.
    typical_ns: AtomicU64,
    /// The largest inputs that a run was quick with, in bytes.
    proven_bytes: AtomicU64,
}

/// A graph in memory, for people and programs that ask.
#[derive(Clone, Debug)]
pub struct GraphInfo {
    /// Name of the deployment's graph that had it loaded first.
    pub name: String,
    /// Who runs it.
    pub backend: &'static str,
    /// Size of its file.
    pub bytes: u64,
    /// What it wants.
    pub inputs: Vec<Port>,
    /// What it gives.
    pub outputs: Vec<Port>,
}

impl LoadedGraph {
    /// What it is.
    pub fn info(&self) -> GraphInfo {
        GraphInfo {
            name: self.name.clone(),
            backend: self.loaded.backend,
            bytes: self.bytes,
            inputs: self.loaded.inputs.clone(),
            outputs: self.loaded.outputs.clone(),
        }
    }

    /// Size of its file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs it once; says how long the backend took.
    pub(crate) async fn run(
        &self,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<(Vec<(String, Tensor)>, Duration), ComputeFailure> {
        let inputs = arrange(&self.loaded.inputs, inputs).map_err(ComputeFailure::Inputs)?;
        let input_bytes: u64 = inputs
            .iter()
            .map(|tensor| tensor.data.bytes() as u64)
            .sum();
        let loaded = self.loaded.clone();
        let job = move |worker: &Worker| {
            let begun = Instant::now();
            let outputs = loaded.model.run(inputs, worker);
            (outputs, begun.elapsed())
        };
        let ran = if self.is_short(input_bytes) {
            guarded(|| job(&Worker::CALLER))
        } else {
            self.compute.run(self.threads, job).await
        };
        let (outputs, took) = ran.map_err(|e| ComputeFailure::Backend(e.to_string()))?;
        self.remember(took, input_bytes);
        let outputs = outputs.map_err(ComputeFailure::Backend)?;
        let names = self.loaded.outputs.iter().map(|port| port.name.clone());
        Ok((names.zip(outputs).collect(), took))
    }

    fn remember(&self, took: Duration, input_bytes: u64) {
        if took < SHORT {
            self.proven_bytes.fetch_max(input_bytes, Ordering::Relaxed);
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.typical_ns.load(Ordering::Relaxed);
        self.typical_ns
            .store(typical(before, took), Ordering::Relaxed);
    }
}

/// A slow run counts at once, quick ones by an eighth each, so that no mixture of both passes for quick.
fn typical(before: u64, new: u64) -> u64 {
    new.max(before - before / 8).max(1)
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    digest: String,
    backend: BackendChoice,
    target: Target,
    threads: usize,
}

type Slot = Arc<tokio::sync::Mutex<Weak<LoadedGraph>>>;

/// The graphs of a node.
pub struct GraphStore {
    backends: SharedBackends,
    compute: Arc<Compute>,
    slots: Mutex<HashMap<Key, Slot>>,
}

impl GraphStore {
    /// A store that loads with these backends.
    pub fn new(backends: Backends) -> Arc<Self> {
        Arc::new(Self {
            backends: Arc::new(backends),
            compute: Arc::default(),
            slots: Mutex::default(),
        })
    }

    /// The graph, loaded now if nobody holds it. Loads once for all who ask at once, on a thread that may block.
    ///
    /// # Errors
    /// What the backends say of it.
    pub async fn acquire(&self, spec: &GraphSpec) -> Result<Arc<LoadedGraph>, GraphError> {
        let key = Key {
            digest: spec.digest.clone(),
            backend: spec.backend,
            target: spec.target,
            threads: spec.threads,
        };
        let slot = self.lock().entry(key).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(graph) = slot.upgrade() {
            return Ok(graph);
        }
        let spec = spec.clone();
        let backends = self.backends.clone();
        let compute = self.compute.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            guarded(|| {
                let bytes = std::fs::metadata(&spec.path).map_or(0, |meta| meta.len());
                let source = Source::File(&spec.path);
                let loaded = backends.load(&source, spec.backend, spec.target, spec.threads)?;
                Ok(Arc::new(LoadedGraph::new(
                    loaded,
                    compute,
                    spec.name.clone(),
                    spec.threads,
                    bytes,
                )))
            })
        });
        let graph = loaded
            .await
            .map_err(|e| GraphError::Stopped(e.to_string()))?
            .map_err(|e| GraphError::Stopped(e.to_string()))?
            .map_err(GraphError::Load)?;
        *slot = Arc::downgrade(&graph);
        drop(slot);
        self.lock().retain(|_, slot| match slot.try_lock() {
            Ok(graph) => graph.strong_count() > 0,
            Err(_) => true,
        });
        Ok(graph)
    }

    /// A graph from a guest's own bytes; nobody else shares it.
    ///
    /// # Errors
    /// What the backends say of it.
    pub(crate) async fn load_bytes(&self, bytes: Vec<u8>) -> Result<Arc<LoadedGraph>, GraphError> {
        let backends = self.backends.clone();
        let compute = self.compute.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            guarded(|| {
                let source = Source::Bytes(&bytes);
                let loaded = backends.load(&source, BackendChoice::Auto, Target::Cpu, 1)?;
                let size = bytes.len() as u64;
                Ok(Arc::new(LoadedGraph::new(
                    loaded,
                    compute,
                    String::new(),
                    1,
                    size,
                )))
            })
        });
        loaded
            .await
            .map_err(|e| GraphError::Stopped(e.to_string()))?
            .map_err(|e| GraphError::Stopped(e.to_string()))?
            .map_err(GraphError::Load)
    }

    /// What is in memory now.
    pub fn loaded(&self) -> Vec<GraphInfo> {
        self.lock()
            .values()
            .filter_map(|slot| slot.try_lock().ok()?.upgrade())
            .map(|graph| graph.info())
            .collect()
    }

    /// The backends of this machine.
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.backends.info()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Slot>> {
        // A map of slots is whole at every instant.
        self.slots
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl LoadedGraph {
    fn new(
        loaded: Loaded,
        compute: Arc<Compute>,
        name: String,
        threads: usize,
        bytes: u64,
    ) -> Self {
        Self {
            loaded: Arc::new(loaded),
            compute,
            name,
            threads: threads.max(1),
            bytes,
            typical_ns: AtomicU64::new(0),
            proven_bytes: AtomicU64::new(0),
        }
    }

    /// Whether the next run may happen on the thread that asks for it.
    fn is_short(&self, input_bytes: u64) -> bool {
        let typical = self.typical_ns.load(Ordering::Relaxed);
        self.loaded.runs == Runs::Anywhere
            && self.bytes <= SMALL_BYTES
            && input_bytes <= self.proven_bytes.load(Ordering::Relaxed)
            && typical != 0
            && u128::from(typical) < SHORT.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::typical;

    #[test]
    fn one_slow_run_outweighs_many_quick_ones() {
        let slow = typical(typical(0, 1_000), 1_000_000);
        assert_eq!(slow, 1_000_000);
        assert!(typical(slow, 1_000) > 800_000);
    }
}
