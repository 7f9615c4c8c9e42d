//! The graphs loaded on this node: each once, shared by whoever holds it, unloaded with its last holder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use samovar_onnx::port::Port;
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use crate::budget::Owner;
use crate::infer::backend::tensor::{Place, Tensor};
use crate::infer::backend::{
    BackendChoice, BackendInfo, Cards, DataFile, Device, GuestModel, LoadError, Loaded, Source,
    Target, Wanted,
};
pub use crate::infer::batch::Batching;
use crate::infer::batch::rows::joinable;
use crate::infer::compute::{Compute, Computes, Worker, guarded};
use crate::infer::engines::{EngineEvent, EngineInfo, EngineTotals, GraphMemory, Remote};
use crate::infer::interest::{Interest, Interested};
use crate::infer::loader::Loader;
use crate::infer::run::Pace;
pub use crate::infer::tally::{Distribution, Totals};
use crate::infer::unloading::Unloading;
pub use crate::infer::usage::GraphUse;
use crate::process::barrier::Barrier;
use crate::turns::Turns;

/// A graph of a deployment.
#[derive(Clone, Debug)]
pub struct GraphSpec {
    /// Its name in the manifest.
    pub name: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// The file.
    pub path: PathBuf,
    /// Files with weights of it; its digest tells them too.
    pub data: Vec<DataFile>,
    /// Which backend is meant to run it.
    pub backend: BackendChoice,
    /// Where it is meant to run.
    pub target: Target,
    /// Threads that one run may use.
    pub threads: usize,
    /// How calls of the deployment's replicas are joined, if they are.
    pub batching: Option<Batching>,
    /// Who has an engine for itself that it belongs in: its deployment, or nobody.
    pub own_engine: Option<String>,
    /// Whose turn it is when it is loaded.
    pub owner: Owner,
}

impl GraphSpec {
    /// Sizes of its files.
    fn bytes(&self) -> u64 {
        let paths = self.data.iter().map(|file| &file.path);
        let paths = paths.chain([&self.path]);
        paths
            .filter_map(|path| Some(std::fs::metadata(path).ok()?.len()))
            .sum()
    }
}

/// Why a graph cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GraphError {
    /// No backend runs it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its calls cannot be joined, though that is asked for.
    #[error(
        "`batch` joins calls along the first dimension, but {0}; take `batch` out of the graph's section"
    )]
    Batch(String),
    /// A bug: loading stopped.
    #[error("loading stopped unexpectedly: {0}")]
    Stopped(String),
}

/// A graph in memory.
pub struct LoadedGraph {
    pub(super) loaded: Unloading<Loaded>,
    pub(super) compute: Arc<Compute>,
    name: String,
    pub(super) threads: usize,
    pub(super) bytes: u64,
    pub(super) pace: Arc<Pace>,
    /// Whether runs of it can be joined, or why not.
    pub(super) joinable: Result<(), String>,
}

/// A graph in memory, for people and programs that ask.
#[derive(Clone, Debug)]
pub struct GraphInfo {
    /// Name of the deployment's graph that had it loaded first.
    pub name: String,
    /// Who runs it.
    pub backend: &'static str,
    /// Where.
    pub device: Device,
    /// Size of its files.
    pub bytes: u64,
    /// Memory that it takes, its runs included, if it is in an engine and loaded there just now.
    pub memory_bytes: Option<u64>,
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
            backend: self.backend(),
            device: self.device(),
            bytes: self.bytes,
            memory_bytes: self.loaded.model.remote().and_then(Remote::memory_bytes),
            inputs: self.loaded.inputs.clone(),
            outputs: self.loaded.outputs.clone(),
        }
    }

    /// Who runs it.
    pub fn backend(&self) -> &'static str {
        self.loaded.backend
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.loaded.device
    }

    /// Size of its files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it can be used as a manifest wants it.
    ///
    /// # Errors
    /// Names what in the graph is against it.
    pub fn suits(&self, spec: &GraphSpec) -> Result<(), GraphError> {
        match (spec.batching, &self.joinable) {
            (Some(_), Err(reason)) => Err(GraphError::Batch(reason.clone())),
            _ => Ok(()),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    digest: String,
    backend: BackendChoice,
    target: Target,
    threads: usize,
    own_engine: Option<String>,
}

/// How long a graph stays in memory whose users had gone before it was loaded.
const UNCLAIMED_TIME: Duration = Duration::from_secs(60);

/// Locked while the graph loads.
type Slot = Arc<tokio::sync::Mutex<Shared>>;

/// A graph for all who use it.
#[derive(Default)]
struct Shared {
    graph: Weak<LoadedGraph>,
    /// Loaded, and nobody has it yet.
    unclaimed: Option<Arc<LoadedGraph>>,
}

impl Shared {
    /// The graph, if it is in memory.
    fn take(&mut self) -> Option<Arc<LoadedGraph>> {
        self.unclaimed.take().or_else(|| self.graph.upgrade())
    }

    fn is_held(&self) -> bool {
        self.graph.strong_count() > 0
    }
}

/// How often it is looked whether anything else waits for a graph whose claim was dropped while it loaded.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Who has the slot of a graph that nothing waits for: the map, the load and the task of a dropped claim.
const HOLDERS: usize = 3;

/// Waits for a graph that loads. Dropped before it is there, it has the load given up, if nothing else waits for the graph; or
/// lets the graph go, if nothing comes for it in time.
struct Claim {
    waiting: Option<(Slot, Interest)>,
}

impl Claim {
    fn done(mut self) {
        self.waiting = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some((slot, interest)) = self.waiting.take() else {
            return;
        };
        // Without an executor the node is going down.
        let Ok(executor) = Handle::try_current() else {
            return;
        };
        executor.spawn(async move {
            // Everything else that waits for it has the slot too.
            while slot.try_lock().is_err() && Arc::strong_count(&slot) > HOLDERS {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            drop(interest);
            // Free once it has loaded.
            drop(slot.lock().await);
            tokio::time::sleep(UNCLAIMED_TIME).await;
            slot.lock().await.unclaimed = None;
        });
    }
}

/// The graphs of a node.
pub struct GraphStore {
    loader: Loader,
    compute: Computes,
    slots: Mutex<HashMap<Key, Slot>>,
    /// Loading takes a core and much memory, so no more graphs load at once than there are cores.
    loads: Turns,
}

/// So many graphs load at once: one of them may wait for room on a card.
pub(super) fn loads_at_once() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

impl GraphStore {
    /// A store that loads with these backends.
    pub(crate) fn new(loader: impl Into<Loader>) -> Arc<Self> {
        Arc::new(Self {
            loader: loader.into(),
            compute: Computes::default(),
            slots: Mutex::default(),
            loads: Turns::lending(loads_at_once()),
        })
    }

    /// The elements of a tensor that lies on a card, read on a thread that may wait for it.
    pub(crate) fn fetch(
        &self,
        owner: Owner,
        tensor: Arc<Tensor>,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send + use<> {
        let compute = self.compute.at(tensor.data.place());
        async move {
            let read = move |_: &Worker| tensor.data.read().map(Cow::into_owned);
            let read = compute.run(owner, 1, read, drop).await;
            read.unwrap_or_else(|error| Err(error.to_string()))
        }
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
            own_engine: spec.own_engine.clone(),
        };
        let slot = self.lock().entry(key).or_default().clone();
        let mut shared = slot.clone().lock_owned().await;
        if let Some(graph) = shared.take() {
            return Ok(graph);
        }
        let spec = spec.clone();
        let loader = self.loader.clone();
        let compute = self.compute.clone();
        let permit = self.loads.take(spec.owner).await;
        // Should those go that wait for it, it is there for those that come next, if it loads soon.
        let (interest, interested) = Interest::new();
        let claim = Claim {
            waiting: Some((slot, interest)),
        };
        let loading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let loaded = guarded(|| {
                let bytes = spec.bytes();
                let source = Source::File(&spec.path);
                let wanted = Wanted {
                    choice: spec.backend,
                    target: spec.target,
                    threads: spec.threads,
                    data: &spec.data,
                    digest: Some(&spec.digest),
                    name: &spec.name,
                    own_engine: spec.own_engine.as_deref(),
                    interested: Some(&interested),
                    ..Wanted::default()
                };
                let loaded = loader.load(&source, wanted)?;
                Ok(Arc::new(LoadedGraph::new(
                    loaded,
                    compute,
                    spec.name.clone(),
                    spec.threads,
                    bytes,
                )))
            });
            let graph = loaded
                .map_err(|e| GraphError::Stopped(e.to_string()))?
                .map_err(GraphError::Load)?;
            shared.graph = Arc::downgrade(&graph);
            shared.unclaimed = Some(graph);
            Ok::<_, GraphError>(shared)
        });
        let loaded = loading.await;
        claim.done();
        let mut shared = loaded.map_err(|e| GraphError::Stopped(e.to_string()))??;
        let graph = shared.take();
        drop(shared);
        self.lock().retain(|_, slot| match slot.try_lock() {
            Ok(shared) => shared.is_held(),
            Err(_) => true,
        });
        graph.ok_or_else(|| GraphError::Stopped("it was loaded and is gone".into()))
    }

    /// Reads a guest's own bytes, which may take `max_bytes`.
    ///
    /// # Errors
    /// Says why they are no model that can be loaded.
    pub(crate) async fn read_bytes(
        &self,
        owner: Owner,
        bytes: Vec<u8>,
        max_bytes: u64,
    ) -> Result<GuestModel, GraphError> {
        self.load(owner, move |_| GuestModel::read(bytes, max_bytes))
            .await
    }

    /// A graph from a guest's own bytes; nobody else shares it.
    ///
    /// # Errors
    /// What the backends say of it.
    pub(crate) async fn load_guest_model(
        &self,
        owner: Owner,
        own_engine: Option<String>,
        model: GuestModel,
    ) -> Result<Arc<LoadedGraph>, GraphError> {
        let loader = self.loader.clone();
        let compute = self.compute.clone();
        self.load(owner, move |interested| {
            let wanted = Wanted {
                target: Target::Cpu,
                threads: 1,
                name: "from bytes",
                own_engine: own_engine.as_deref(),
                interested: Some(interested),
                ..Wanted::default()
            };
            let loaded = loader.load(&Source::Bytes(&model), wanted)?;
            let bytes = model.loaded_bytes();
            let graph = LoadedGraph::new(loaded, compute, String::new(), 1, bytes);
            Ok(Arc::new(graph))
        })
        .await
    }

    /// Does something that loads, on a thread that may block, when its turn has come. It keeps its permit until it has ended,
    /// also when its caller goes, which it is told.
    async fn load<T: Send + 'static>(
        &self,
        owner: Owner,
        work: impl FnOnce(&Interested) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<T, GraphError> {
        let stopped = |why: &dyn std::fmt::Display| GraphError::Stopped(why.to_string());
        let permit = self.loads.take(owner).await;
        let (_interest, interested) = Interest::new();
        let loaded = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            guarded(|| work(&interested))
        });
        loaded
            .await
            .map_err(|e| stopped(&e))?
            .map_err(|e| stopped(&e))?
            .map_err(GraphError::Load)
    }

    /// What is in memory now.
    pub fn loaded(&self) -> Vec<GraphInfo> {
        self.lock()
            .values()
            .filter_map(|slot| slot.try_lock().ok()?.graph.upgrade())
            .map(|graph| graph.info())
            .collect()
    }

    /// The cards of this machine.
    pub fn cards(&self) -> Cards {
        self.loader.cards()
    }

    /// The engines that run.
    pub fn engines(&self) -> Vec<EngineInfo> {
        self.loader.engines()
    }

    /// What happens to engines from now on; nothing when graphs run in this process.
    pub fn engine_events(&self) -> Option<broadcast::Receiver<EngineEvent>> {
        self.loader.engine_events()
    }

    /// What happened to engines since the node started; nothing when graphs run in this process.
    pub fn engine_totals(&self) -> Option<EngineTotals> {
        self.loader.engine_totals()
    }

    /// Memory that all graphs may take together, and that they take; nothing where it is not counted.
    pub fn graph_memory(&self) -> Option<GraphMemory> {
        self.loader.graph_memory()
    }

    /// What confines the engines, and what does not; nothing when there are none.
    pub fn engine_barriers(&self) -> Option<Vec<Barrier>> {
        self.loader.engine_barriers()
    }

    /// Forgets what is kept of a model on disk. Whoever has it loaded goes on with it.
    pub fn forget(&self, digest: &str) {
        self.loader.forget(digest);
    }

    /// The backends of this machine.
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.loader.info()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Slot>> {
        // A map of slots is whole at every instant.
        self.slots
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl LoadedGraph {
    fn new(loaded: Loaded, computes: Computes, name: String, threads: usize, bytes: u64) -> Self {
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
            loaded: Unloading::new(loaded, bytes),
            compute: computes.at(place),
            name,
            // A run on a card needs one thread, to wait.
            threads: match place {
                Place::Host => threads.max(1),
                Place::Cuda(_) => 1,
            },
            bytes,
            pace: Arc::default(),
        }
    }
}

#[cfg(test)]
#[path = "graphs_tests.rs"]
mod tests;
