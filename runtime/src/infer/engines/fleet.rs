//! The engines of a node: starts one when a graph needs it, closes it when idle, and decides which graph is loaded in which.

mod ends;
mod folders;
mod inspect;
mod loads;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use folders::{engine_options, make_folders, with_folders};

use super::Program;
use super::crash_history::CrashHistory;
use super::handle::{Capabilities, Ended, EngineHandle};
#[cfg(test)]
use super::history::EndReason;
use super::history::{EngineEvent, GraphLabel, History, Suspect};
use super::memory::{MemoryBudget, MemoryCharge};
use super::optimizer::Optimizer;
use super::remote::RemoteGraph;
use super::wire::{Open, backend_name};
use crate::fair_semaphore::{FairSemaphore, SemaphorePermit};
use crate::infer::backend::{
    BackendChoice, BackendInfo, BackendOptions, DataFile, Driver, Gpu, Gpus, Libraries, LoadError,
    LoadRequest, Loaded, Model, ModelDir, Source, Target, delete_cached, rten_info,
};
use crate::infer::graph::max_loads;
use crate::permits::Owner;
use crate::process::confine::Confinement;

/// How long an engine without graphs is kept for the next graph.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest wait before an engine is started whose predecessor ended soon after its start.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// An engine that ran for less ended soon after its start.
const QUICK_END: Duration = Duration::from_secs(10);
/// Timeout for the answer of an engine about the GPU memory that it uses.
const GPU_MEMORY_TIMEOUT: Duration = Duration::from_secs(1);

/// The graphs that share an engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    backend: Backend,
    /// The deployment that owns it.
    deployment: Option<String>,
    /// Key of the suspect graph that it runs alone.
    suspect: Option<String>,
}

/// The backend of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Backend {
    Rten,
    Onnxruntime,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Rten => "rten",
            Self::Onnxruntime => "onnxruntime",
        }
    }
}

/// The engine of a group, if one runs.
#[derive(Default)]
struct EngineSlot {
    /// Number of graphs that are loaded or loading in it.
    graphs: AtomicUsize,
    /// When the last graph was unloaded.
    emptied: Mutex<Option<Instant>>,
    state: Mutex<EngineSlotState>,
}

/// The engine of a group and its recent ends.
#[derive(Default)]
struct EngineSlotState {
    engine: Option<Arc<EngineHandle>>,
    started: Option<Instant>,
    /// Consecutive engines that ended soon after their start.
    quick_ends: u32,
}

/// How to load a graph, the first time and again.
pub(super) struct LoadSpec {
    pub label: Arc<GraphLabel>,
    pub threads: usize,
    backend: Backend,
    target: Target,
    digest: Option<String>,
    source: OwnedSource,
}

#[derive(Clone)]
enum OwnedSource {
    File { path: PathBuf, data: Vec<DataFile> },
    Bytes(Arc<[u8]>),
}

/// A graph that is loaded in an engine. It is unloaded on drop.
pub(super) struct EngineGraph {
    pub engine: Arc<EngineHandle>,
    pub graph: u32,
    pub executor: Handle,
    /// The memory that it is charged.
    pub share: MemoryCharge,
    /// Its name for logs and events.
    label: Arc<GraphLabel>,
    /// The files that it may be loaded from again.
    _model_dir: Option<ModelDir>,
    hold: EngineHold,
}

/// Keeps the engine of a group from being closed as idle.
struct EngineHold {
    fleet: Arc<Fleet>,
    group: Group,
    slot: Arc<EngineSlot>,
}

/// All engines of a node.
pub(crate) struct Fleet {
    program: Program,
    confinement: Confinement,
    /// Time limit for loading a graph.
    load_timeout: Duration,
    pub(super) memory: Arc<MemoryBudget>,
    options: BackendOptions,
    executor: Handle,
    driver: Driver,
    /// Makes forms of models that load faster, if they are cached.
    optimizer: Option<Optimizer>,
    slots: Mutex<HashMap<Group, Arc<EngineSlot>>>,
    crash_history: Mutex<CrashHistory>,
    history: History,
    next_graph: AtomicU32,
    /// Permits for loads that runs wait for, separate from those for loads that replicas wait for.
    reloads: FairSemaphore,
    /// The capabilities that the first engine with ONNX Runtime reported.
    capabilities: OnceLock<Capabilities>,
}

impl Fleet {
    /// Engines with these options. Starts one to find out which backends are available.
    ///
    /// # Errors
    /// If no engine can be started, or the caller is outside of a tokio runtime.
    pub fn open(
        program: Program,
        confinement: Confinement,
        load_timeout: Duration,
        memory_bytes: u64,
        options: BackendOptions,
    ) -> Result<Arc<Self>, String> {
        let executor = Handle::try_current().map_err(|e| e.to_string())?;
        if let Some(scratch) = &options.scratch {
            let _ = std::fs::remove_dir_all(scratch);
        }
        let optimizer = match (&program, &options.optimized) {
            (Program::Process(program), Some(root)) => Some(Optimizer::new(
                program.clone(),
                confinement.memory_bytes,
                root.clone(),
            )),
            _ => None,
        };
        let fleet = Arc::new(Self {
            optimizer,
            program,
            confinement,
            load_timeout,
            memory: MemoryBudget::new(memory_bytes),
            options,
            executor,
            driver: Driver::find(),
            slots: Mutex::default(),
            crash_history: Mutex::default(),
            history: History::new(),
            next_graph: AtomicU32::new(1),
            reloads: FairSemaphore::lending(max_loads()),
            capabilities: OnceLock::new(),
        });
        let group = Group {
            backend: Backend::Onnxruntime,
            deployment: None,
            suspect: None,
        };
        let hold = EngineHold::new(&fleet, group);
        let engine = fleet
            .engine(&hold)
            .map_err(|e| format!("no engine can be started: {e}"))?;
        let _ = fleet.capabilities.set(engine.capabilities().clone());
        // Starts its idle timeout.
        drop(hold);
        Ok(fleet)
    }

    fn scratch(&self) -> PathBuf {
        let scratch = self.options.scratch.clone();
        scratch.unwrap_or_else(std::env::temp_dir)
    }

    /// Deletes the cached forms of a model of all backends.
    pub fn delete_derived(&self, digest: &str) {
        if let Some(optimizer) = &self.optimizer {
            optimizer.delete_derived(digest);
        }
        if let Some(folder) = &self.options.optimized {
            delete_cached(folder, digest);
        }
    }

    /// Ends every engine.
    #[cfg(test)]
    pub async fn kill_all(&self, why: &str) {
        let engines: Vec<_> = lock(&self.slots)
            .values()
            .filter_map(|slot| lock(&slot.state).engine.clone())
            .collect();
        for engine in engines {
            engine.kill(EndReason::Unresponsive, why.into(), None);
            while engine.is_alive() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// All backends, including those that are not usable.
    pub fn info(&self) -> Vec<BackendInfo> {
        let opened = self.capabilities.get().into_iter();
        let found = opened.flat_map(|opened| opened.backends.iter().cloned());
        let mut found: Vec<_> = found.filter_map(super::wire::BackendHead::info).collect();
        if !found.iter().any(|info| info.name == rten_info().name) {
            found.push(rten_info());
        }
        found
    }

    /// The GPUs of this machine. May block on engines.
    pub fn gpus(&self) -> Gpus {
        let reason = match self.capabilities.get() {
            Some(opened) => opened.no_gpus.clone(),
            None => Some("no engine has started".into()),
        };
        match self.driver.gpus() {
            Err(reason) => Gpus {
                gpus: Vec::new(),
                reason: Some(reason),
            },
            Ok(gpus) => {
                let used = self.gpu_memory();
                let used = |gpu: &Gpu| used.get(&gpu.number).copied().unwrap_or(0);
                let gpus = gpus.into_iter().map(|gpu| {
                    let used = used(&gpu);
                    (gpu, used)
                });
                Gpus {
                    gpus: gpus.collect(),
                    reason,
                }
            }
        }
    }

    fn gpu_memory(&self) -> HashMap<u32, u64> {
        let engines: Vec<Arc<EngineHandle>> = lock(&self.slots)
            .values()
            .filter_map(|slot| slot.state.try_lock().ok()?.engine.clone())
            .collect();
        let mut used = HashMap::new();
        for engine in engines {
            let answer = engine.gpu_memory();
            let timeout = tokio::time::timeout(GPU_MEMORY_TIMEOUT, answer);
            let _entered = self.executor.enter();
            if let Ok(Ok(bytes)) = futures::executor::block_on(timeout) {
                for (gpu, bytes) in bytes {
                    *used.entry(gpu).or_default() += bytes;
                }
            }
        }
        used
    }

    /// Loads a model. Blocks.
    ///
    /// # Errors
    /// The errors of the backends, or how their engines ended.
    pub fn load(
        self: &Arc<Self>,
        source: &Source<'_>,
        wanted: LoadRequest<'_>,
    ) -> Result<Loaded, LoadError> {
        let choice = match wanted.choice {
            BackendChoice::Auto => self.options.default,
            chosen => chosen,
        };
        let load = |backend| self.load_with(backend, source, wanted);
        let missing = self.onnxruntime_obstacle();
        let loaded = match (choice, missing, wanted.target) {
            // It refuses the GPU target itself.
            (BackendChoice::Rten, _, Target::Cpu | Target::Auto) => load(Backend::Rten),
            (BackendChoice::Auto, Some(why), Target::Cpu | Target::Auto) => load(Backend::Rten)
                .map_err(|e| format!("{e}; onnxruntime, which could perhaps run it: {why}")),
            (BackendChoice::Auto, None, Target::Cpu | Target::Auto) => load(Backend::Onnxruntime)
                .or_else(|first| {
                    load(Backend::Rten).map_err(|second| format!("{first}; {second}"))
                }),
            _ => load(Backend::Onnxruntime),
        };
        loaded.map_err(LoadError)
    }

    /// Why ONNX Runtime is not usable; `None` if it is.
    fn onnxruntime_obstacle(&self) -> Option<String> {
        let info = self.info();
        let found = info.iter().find(|info| info.name != rten_info().name)?;
        match (&found.version, &found.reason) {
            (Some(_), None) => None,
            (_, reason) => Some(reason.clone().unwrap_or_else(|| "not found".into())),
        }
    }

    fn load_with(
        self: &Arc<Self>,
        backend: Backend,
        source: &Source<'_>,
        wanted: LoadRequest<'_>,
    ) -> Result<Loaded, String> {
        let (source, digest) = match source {
            Source::File(path) => {
                let digest = wanted
                    .digest
                    .map_or_else(|| path.display().to_string(), str::to_owned);
                let source = OwnedSource::File {
                    path: path.to_path_buf(),
                    data: wanted.data.to_vec(),
                };
                (source, digest)
            }
            Source::Bytes(model) => {
                let bytes = model.bytes();
                (
                    OwnedSource::Bytes(bytes.into()),
                    hex::encode(Sha256::digest(bytes)),
                )
            }
        };
        let spec = Arc::new(LoadSpec {
            label: Arc::new(GraphLabel {
                name: wanted.name.to_owned(),
                digest,
                deployment: wanted.own_engine.map(str::to_owned),
            }),
            threads: wanted.threads,
            backend,
            target: wanted.target,
            // An optimized copy would hold the weights once more.
            digest: wanted
                .digest
                .filter(|_| wanted.data.is_empty())
                .map(str::to_owned),
            source,
        });
        let (at, head) = self.load_spec(&spec, wanted.abandoned)?;
        let backend = backend_name(&head.backend)
            .ok_or_else(|| format!("an engine reported an unknown backend `{}`", head.backend))?;
        let model: Box<dyn Model> = Box::new(RemoteGraph::new(self.clone(), spec, head.place, at));
        Ok(Loaded {
            model,
            backend,
            device: head.device,
            runs: head.runs,
            inputs: head.inputs,
            outputs: head.outputs,
            mixes_rows: head.mixes_rows,
            lacks_form: false,
        })
    }

    /// Loads a graph again whose engine has ended or that was evicted.
    ///
    /// # Errors
    /// The error of the backend or of the engine.
    pub(super) async fn reload(
        self: &Arc<Self>,
        spec: &Arc<LoadSpec>,
    ) -> Result<EngineGraph, String> {
        let permit = self.acquire_reload(&spec.label).await?;
        let (fleet, spec) = (self.clone(), spec.clone());
        let loading = self.executor.spawn_blocking(move || {
            let _permit = permit;
            fleet
                .load_spec(&spec, None)
                .map(|(at, _)| at)
                .map_err(|e| format!("graph `{}` cannot be loaded again: {e}", spec.label.name))
        });
        loading
            .await
            .unwrap_or_else(|e| Err(format!("loading stopped unexpectedly: {e}")))
    }

    /// Waits for a permit to load a graph again.
    async fn acquire_reload(&self, label: &GraphLabel) -> Result<SemaphorePermit, String> {
        /// Cancels the request on drop.
        struct Waiting(JoinHandle<SemaphorePermit>);
        impl Drop for Waiting {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let (reloads, owner) = (self.reloads.clone(), Owner::named(&label.key()));
        // A task, because batched runs wait on threads without timers.
        let waiting = self
            .executor
            .spawn(async move { reloads.acquire(owner).await });
        let permit = (&mut Waiting(waiting).0).await;
        permit.map_err(|e| format!("waiting for a permit to load stopped: {e}"))
    }

    /// The engine of a group. Starts one if none runs.
    fn engine(self: &Arc<Self>, hold: &EngineHold) -> Result<Arc<EngineHandle>, String> {
        let group = &hold.group;
        let mut state = lock(&hold.slot.state);
        if let Some(engine) = &state.engine {
            if engine.is_alive() {
                return Ok(engine.clone());
            }
            // Graphs that are suspects of its end are loaded elsewhere from now on, so the next engine need not end for the same reason.
            let was_quick = state.started.is_some_and(|at| at.elapsed() < QUICK_END)
                && !engine.ended_with_suspects();
            state.quick_ends = if was_quick { state.quick_ends + 1 } else { 0 };
            state.engine = None;
        }
        std::thread::sleep(backoff(state.quick_ends));
        let scratch =
            make_folders(&self.options).map_err(|e| format!("its folder cannot be made: {e}"))?;
        let own = scratch.as_ref().map(TempDir::path);
        let mut options = engine_options(&self.options, own);
        if group.backend == Backend::Rten {
            options.libraries = Libraries::OnlyRten;
        }
        let open = Open {
            backends: options,
            confinement: match self.program {
                Program::Process(_) => {
                    let own = with_folders(self.confinement.clone(), &self.options, own);
                    Some(own)
                }
                #[cfg(test)]
                Program::Thread => None,
            },
        };
        let (fleet, of_group) = (Arc::downgrade(self), group.clone());
        let on_end = Box::new(move |ended: &Ended, suspects: Vec<Suspect>| {
            if let Some(fleet) = fleet.upgrade() {
                fleet.record_end(&of_group, ended, suspects);
            }
        });
        let engine = EngineHandle::start(&self.executor, &self.program, open, scratch, on_end)
            .map_err(|e| format!("an engine cannot be started: {e}"))?;
        if let Some(optimizer) = &self.optimizer {
            for (backend, folder) in &engine.capabilities().form_folders {
                optimizer.prepare(backend, folder);
            }
        }
        self.record_start(group, &engine);
        state.started = Some(Instant::now());
        state.engine = Some(engine.clone());
        Ok(engine)
    }

    /// Closes the engine of a group once it has been without graphs for [`IDLE_TIMEOUT`].
    fn close_when_idle(self: &Arc<Self>, group: Group) {
        let fleet = Arc::downgrade(self);
        self.executor.spawn(async move {
            tokio::time::sleep(IDLE_TIMEOUT).await;
            let Some(fleet) = fleet.upgrade() else { return };
            // Holds are taken under this lock, so that no graph is added meanwhile.
            let mut slots = lock(&fleet.slots);
            let Some(slot) = slots.get(&group) else {
                return;
            };
            // A graph that was added and removed meanwhile has started another wait.
            let emptied = *lock(&slot.emptied);
            let is_recent = emptied.is_some_and(|at| at.elapsed() < IDLE_TIMEOUT);
            if slot.graphs.load(Ordering::Relaxed) > 0 || is_recent {
                return;
            }
            // A locked state belongs to a start, which has a graph.
            let engine = match slot.state.try_lock() {
                Ok(mut state) => {
                    // A deliberate end, so the next engine starts without a delay.
                    state.quick_ends = 0;
                    state.engine.take()
                }
                Err(_) => return,
            };
            if group.deployment.is_some() || group.suspect.is_some() {
                slots.remove(&group);
            }
            drop(slots);
            if let Some(engine) = engine {
                fleet.record_idle_end(&group, &engine);
                engine.close();
            }
        });
    }
}

impl EngineHold {
    fn new(fleet: &Arc<Fleet>, group: Group) -> Self {
        let mut slots = lock(&fleet.slots);
        let slot = slots.entry(group.clone()).or_default().clone();
        slot.graphs.fetch_add(1, Ordering::Relaxed);
        drop(slots);
        Self {
            fleet: fleet.clone(),
            group,
            slot,
        }
    }
}

impl EngineGraph {
    /// Records that it was evicted to make room for another graph.
    pub(super) fn record_eviction(&self) {
        let bytes = self.share.bytes();
        tracing::info!(
            graph = self.label.name,
            bytes,
            "idle graph unloaded to make room for another"
        );
        let graph = self.label.clone();
        let history = &self.hold.fleet.history;
        history.record(EngineEvent::Evicted { graph, bytes });
    }
}

impl Drop for EngineGraph {
    fn drop(&mut self) {
        self.engine.unload(self.graph);
    }
}

impl Drop for EngineHold {
    fn drop(&mut self) {
        if self.slot.graphs.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&self.slot.emptied) = Some(Instant::now());
            self.fleet.close_when_idle(self.group.clone());
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for slot in lock(&self.slots).values() {
            if let Some(engine) = lock(&slot.state).engine.take() {
                engine.close();
            }
        }
    }
}

/// The wait before the next start after this number of consecutive quick ends.
fn backoff(quick_ends: u32) -> Duration {
    match quick_ends {
        0 => Duration::ZERO,
        ends => FIRST_BACKOFF
            .saturating_mul(2u32.saturating_pow(ends - 1))
            .min(LONGEST_BACKOFF),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_ends_delay_the_next_start() {
        assert_eq!(backoff(0), Duration::ZERO);
        assert_eq!(backoff(1), FIRST_BACKOFF);
        assert_eq!(backoff(2), FIRST_BACKOFF * 2);
        assert_eq!(backoff(u32::MAX), LONGEST_BACKOFF);
    }
}
