//! The graphs in memory on this node: each is loaded once, shared by its users, and unloaded with the last of them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::loader::Loader;
use super::{GraphError, GraphInfo, GraphSpec, LoadedGraph};
use crate::fair_semaphore::FairSemaphore;
use crate::infer::backend::tensor::Tensor;
use crate::infer::backend::{
    BackendChoice, BackendInfo, Gpus, GuestModel, LoadError, LoadRequest, Source, Target,
};
use crate::infer::compute::{ComputePools, Worker, guarded};
use crate::infer::engines::{EngineEvent, EngineInfo, EngineTotals, GraphMemory};
use crate::permits::Owner;
use crate::process::barrier::Barrier;

#[derive(Clone, PartialEq, Eq, Hash)]
struct GraphKey {
    digest: String,
    backend: BackendChoice,
    target: Target,
    threads: usize,
    own_engine: Option<String>,
}

/// How long a graph without users stays in memory after its load has ended.
const UNCLAIMED_TIME: Duration = Duration::from_secs(60);

/// The slot of a graph, locked while the graph loads.
type GraphSlot = Arc<tokio::sync::Mutex<SlotState>>;

#[derive(Default)]
struct SlotState {
    graph: Weak<LoadedGraph>,
    /// The graph after its load, until its first user takes it.
    unclaimed: Option<Arc<LoadedGraph>>,
}

impl SlotState {
    /// The graph, if it is in memory.
    fn take(&mut self) -> Option<Arc<LoadedGraph>> {
        self.unclaimed.take().or_else(|| self.graph.upgrade())
    }

    fn is_used(&self) -> bool {
        self.graph.strong_count() > 0
    }
}

/// How often a dropped claim checks whether others wait for its graph.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// References to the slot of a graph that loads without users: the map, the load, and the task of the dropped claim.
const IDLE_REFERENCES: usize = 3;

/// The claim of a caller that waits for a load. If it is dropped before the graph is there, it cancels the load unless others wait
/// for the graph, and unloads the graph unless it is used in time.
struct LoadClaim {
    waiting: Option<(GraphSlot, DropGuard)>,
}

impl LoadClaim {
    fn complete(mut self) {
        self.waiting = None;
    }
}

impl Drop for LoadClaim {
    fn drop(&mut self) {
        let Some((slot, abandoned)) = self.waiting.take() else {
            return;
        };
        // Without an executor the node is shutting down.
        let Ok(executor) = Handle::try_current() else {
            return;
        };
        executor.spawn(async move {
            // Each other caller that waits holds a reference to the slot.
            while slot.try_lock().is_err() && Arc::strong_count(&slot) > IDLE_REFERENCES {
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
            drop(abandoned);
            // Unlocked when the load has ended.
            drop(slot.lock().await);
            tokio::time::sleep(UNCLAIMED_TIME).await;
            slot.lock().await.unclaimed = None;
        });
    }
}

/// The graphs of a node.
pub struct GraphStore {
    loader: Loader,
    pools: ComputePools,
    slots: Mutex<HashMap<GraphKey, GraphSlot>>,
    /// Loading takes a core and much memory, so at most as many graphs load at once as there are cores.
    loads: FairSemaphore,
}

/// Most loads at once. At least two, because one may wait for memory of a GPU.
pub(crate) fn max_loads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

impl GraphStore {
    /// A store that loads graphs with `loader`.
    pub(crate) fn new(loader: impl Into<Loader>) -> Arc<Self> {
        Arc::new(Self {
            loader: loader.into(),
            pools: ComputePools::default(),
            slots: Mutex::default(),
            loads: FairSemaphore::lending(max_loads()),
        })
    }

    /// Reads the elements of a tensor on a GPU, on a thread that may wait for it.
    pub(crate) fn fetch(
        &self,
        owner: Owner,
        tensor: Arc<Tensor>,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send + use<> {
        let pool = self.pools.pool_for(tensor.data.place());
        async move {
            let read = move |_: &Worker| tensor.data.read().map(Cow::into_owned);
            let read = pool.run(owner, 1, read, drop).await;
            read.unwrap_or_else(|error| Err(error.to_string()))
        }
    }

    /// Returns a graph, which is loaded now, on a blocking thread, unless it is in memory. Concurrent calls share one load.
    ///
    /// # Errors
    /// Why the backend cannot load it.
    pub async fn acquire(&self, spec: &GraphSpec) -> Result<Arc<LoadedGraph>, GraphError> {
        let key = GraphKey {
            digest: spec.digest.clone(),
            backend: spec.backend,
            target: spec.target,
            threads: spec.threads,
            own_engine: spec.own_engine.clone(),
        };
        let slot = self.slots.lock().entry(key).or_default().clone();
        let mut state = slot.clone().lock_owned().await;
        if let Some(graph) = state.take() {
            return Ok(graph);
        }
        let spec = spec.clone();
        let loader = self.loader.clone();
        let pools = self.pools.clone();
        let permit = self.loads.acquire(spec.owner).await;
        // Dropped with this future: the load is cancelled unless others wait for it.
        let abandoned = CancellationToken::new();
        let claim = LoadClaim {
            waiting: Some((slot, abandoned.clone().drop_guard())),
        };
        let loading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let loaded = guarded(|| {
                let bytes = spec.bytes();
                let source = Source::File(&spec.path);
                let wanted = LoadRequest {
                    choice: spec.backend,
                    target: spec.target,
                    threads: spec.threads,
                    data: &spec.data,
                    digest: Some(&spec.digest),
                    name: &spec.name,
                    own_engine: spec.own_engine.as_deref(),
                    abandoned: Some(&abandoned),
                    ..LoadRequest::default()
                };
                let loaded = loader.load(&source, wanted)?;
                Ok(Arc::new(LoadedGraph::new(
                    loaded,
                    pools,
                    spec.name.clone(),
                    spec.threads,
                    bytes,
                )))
            });
            let graph = loaded
                .map_err(|e| GraphError::Stopped(e.to_string()))?
                .map_err(GraphError::Load)?;
            state.graph = Arc::downgrade(&graph);
            state.unclaimed = Some(graph);
            Ok::<_, GraphError>(state)
        });
        let loaded = loading.await;
        claim.complete();
        let mut state = loaded.map_err(|e| GraphError::Stopped(e.to_string()))??;
        let graph = state.take();
        drop(state);
        self.slots.lock().retain(|_, slot| match slot.try_lock() {
            Ok(state) => state.is_used(),
            Err(_) => true,
        });
        graph.ok_or_else(|| GraphError::Stopped("the graph was unloaded at once".into()))
    }

    /// Parses a model from a guest's own bytes. Loaded, it may take `max_bytes`.
    ///
    /// # Errors
    /// Why the bytes cannot be loaded.
    pub(crate) async fn read_bytes(
        &self,
        owner: Owner,
        bytes: Vec<u8>,
        max_bytes: u64,
    ) -> Result<GuestModel, GraphError> {
        self.load(owner, move |_| GuestModel::read(bytes, max_bytes))
            .await
    }

    /// Loads a model from a guest's own bytes. The graph is not shared.
    ///
    /// # Errors
    /// Why the backend cannot load it.
    pub(crate) async fn load_guest_model(
        &self,
        owner: Owner,
        own_engine: Option<String>,
        model: GuestModel,
    ) -> Result<Arc<LoadedGraph>, GraphError> {
        let loader = self.loader.clone();
        let pools = self.pools.clone();
        self.load(owner, move |abandoned| {
            let wanted = LoadRequest {
                target: Target::Cpu,
                threads: 1,
                name: "from bytes",
                own_engine: own_engine.as_deref(),
                abandoned: Some(abandoned),
                ..LoadRequest::default()
            };
            let loaded = loader.load(&Source::Bytes(&model), wanted)?;
            let bytes = model.loaded_bytes();
            let graph = LoadedGraph::new(loaded, pools, String::new(), 1, bytes);
            Ok(Arc::new(graph))
        })
        .await
    }

    /// Runs `work` on a blocking thread when it is its owner's turn. The permit is held until the work has ended, even if the
    /// caller has gone, which the work can see.
    async fn load<T: Send + 'static>(
        &self,
        owner: Owner,
        work: impl FnOnce(&CancellationToken) -> Result<T, LoadError> + Send + 'static,
    ) -> Result<T, GraphError> {
        let stopped = |why: &dyn std::fmt::Display| GraphError::Stopped(why.to_string());
        let permit = self.loads.acquire(owner).await;
        let abandoned = CancellationToken::new();
        let _guard = abandoned.clone().drop_guard();
        let loaded = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            guarded(|| work(&abandoned))
        });
        loaded
            .await
            .map_err(|e| stopped(&e))?
            .map_err(|e| stopped(&e))?
            .map_err(GraphError::Load)
    }

    /// The graphs in memory.
    pub fn loaded(&self) -> Vec<GraphInfo> {
        self.slots
            .lock()
            .values()
            .filter_map(|slot| slot.try_lock().ok()?.graph.upgrade())
            .map(|graph| graph.info())
            .collect()
    }

    /// The GPUs of this machine.
    pub fn gpus(&self) -> Gpus {
        self.loader.gpus()
    }

    /// The running engine processes.
    pub fn engines(&self) -> Vec<EngineInfo> {
        self.loader.engines()
    }

    /// Subscribes to events of engines; `None` when graphs run in this process.
    pub fn engine_events(&self) -> Option<broadcast::Receiver<EngineEvent>> {
        self.loader.engine_events()
    }

    /// Totals of engine events so far; `None` when graphs run in this process.
    pub fn engine_totals(&self) -> Option<EngineTotals> {
        self.loader.engine_totals()
    }

    /// The memory of all graphs and its limit; `None` where it is not counted.
    pub fn graph_memory(&self) -> Option<GraphMemory> {
        self.loader.graph_memory()
    }

    /// The barriers around engines, active or not; `None` when graphs run in this process.
    pub fn engine_barriers(&self) -> Option<Vec<Barrier>> {
        self.loader.engine_barriers()
    }

    /// Deletes what was derived from a model on disk. Loaded graphs are not affected.
    pub fn delete_derived(&self, digest: &str) {
        self.loader.delete_derived(digest);
    }

    /// The inference backends of this machine.
    pub fn backends(&self) -> Vec<BackendInfo> {
        self.loader.info()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
