//! The engines of a node: started when a graph needs one, ended when none does, and which graph is loaded in which.

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
use super::blame::Blame;
#[cfg(test)]
use super::history::EndReason;
use super::history::{EngineEvent, GraphLabel, History, Suspect};
use super::memory::{Memory, Share};
use super::optimizer::Optimizer;
use super::remote::Remote;
use super::running::{Ended, Opened, Running};
use super::wire::{Open, backend_name};
use crate::fair_semaphore::{FairSemaphore, SemaphorePermit};
use crate::infer::backend::{
    BackendChoice, BackendInfo, BackendOptions, Card, Cards, DataFile, Driver, Libraries,
    LoadError, Loaded, Model, ModelDir, Source, Target, Wanted, forget_kept, rten_info,
};
use crate::infer::graph::max_loads;
use crate::permits::Owner;
use crate::process::confine::Confinement;

/// How long an engine without a graph stays, for the next one.
const LINGER: Duration = Duration::from_secs(10);
/// How long to wait before an engine is started whose last one ended at once, and the most.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// An engine that ran for so long did not end at once.
const SETTLED: Duration = Duration::from_secs(10);
/// How long an engine may take to say what it takes of the cards.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Which graphs share an engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    backend: Backend,
    /// The deployment that has it for itself.
    deployment: Option<String>,
    /// The suspect that runs in it alone, by its key.
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

/// A group's place for an engine.
#[derive(Default)]
struct Berth {
    /// Graphs that are loaded in its engine, or about to be.
    graphs: AtomicUsize,
    /// When the last graph went.
    emptied: Mutex<Option<Instant>>,
    state: Mutex<BerthState>,
}

/// The engine of a group, and how it went so far.
#[derive(Default)]
struct BerthState {
    engine: Option<Arc<Running>>,
    started: Option<Instant>,
    /// Ends in a row that came soon after the start.
    quick_ends: u32,
}

/// A graph, as it is loaded and loaded again.
pub(super) struct Spec {
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

/// Where a graph is loaded. It is unloaded when this is dropped.
pub(super) struct At {
    pub engine: Arc<Running>,
    pub graph: u32,
    pub executor: Handle,
    /// What it takes of the memory.
    pub share: Share,
    /// Its name, for people.
    label: Arc<GraphLabel>,
    /// The files that it is loaded from again.
    _laid: Option<ModelDir>,
    counted: Counted,
}

/// Keeps the engine of a group from ending for want of graphs.
struct Counted {
    fleet: Arc<Fleet>,
    group: Group,
    berth: Arc<Berth>,
}

/// The engines.
pub(crate) struct Fleet {
    program: Program,
    confinement: Confinement,
    /// How long a graph may take to load.
    load_timeout: Duration,
    pub(super) memory: Arc<Memory>,
    options: BackendOptions,
    executor: Handle,
    driver: Driver,
    /// Has models brought into the form that loads quickest, where such are kept.
    optimizer: Option<Optimizer>,
    berths: Mutex<HashMap<Group, Arc<Berth>>>,
    blame: Mutex<Blame>,
    history: History,
    next: AtomicU32,
    /// Graphs that are loaded again by runs, at once. Those that replicas wait for have turns of their own.
    loads_again: FairSemaphore,
    /// What the first engine with ONNX Runtime said of itself.
    opened: OnceLock<Opened>,
}

impl Fleet {
    /// Engines that find their libraries by these options. Starts one to learn what there is.
    ///
    /// # Errors
    /// When no engine can be started, or the caller is on no executor.
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
            memory: Memory::new(memory_bytes),
            options,
            executor,
            driver: Driver::find(),
            berths: Mutex::default(),
            blame: Mutex::default(),
            history: History::new(),
            next: AtomicU32::new(1),
            loads_again: FairSemaphore::lending(max_loads()),
            opened: OnceLock::new(),
        });
        let group = Group {
            backend: Backend::Onnxruntime,
            deployment: None,
            suspect: None,
        };
        let counted = Counted::new(&fleet, group);
        let engine = fleet
            .engine(&counted)
            .map_err(|e| format!("no engine starts: {e}"))?;
        let _ = fleet.opened.set(engine.opened().clone());
        // It lingers from here on.
        drop(counted);
        Ok(fleet)
    }

    fn scratch(&self) -> PathBuf {
        let scratch = self.options.scratch.clone();
        scratch.unwrap_or_else(std::env::temp_dir)
    }

    /// Forgets the form of a model that loads quickest, of whatever backend.
    pub fn forget(&self, digest: &str) {
        if let Some(optimizer) = &self.optimizer {
            optimizer.forget(digest);
        }
        if let Some(folder) = &self.options.optimized {
            forget_kept(folder, digest);
        }
    }

    /// Ends every engine.
    #[cfg(test)]
    pub async fn kill_all(&self, why: &str) {
        let engines: Vec<_> = lock(&self.berths)
            .values()
            .filter_map(|berth| lock(&berth.state).engine.clone())
            .collect();
        for engine in engines {
            engine.kill(EndReason::Unresponsive, why.into(), None);
            while engine.is_there() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Every backend, also those that cannot be used.
    pub fn info(&self) -> Vec<BackendInfo> {
        let opened = self.opened.get().into_iter();
        let found = opened.flat_map(|opened| opened.backends.iter().cloned());
        let mut found: Vec<_> = found.filter_map(super::wire::BackendHead::info).collect();
        if !found.iter().any(|info| info.name == rten_info().name) {
            found.push(rten_info());
        }
        found
    }

    /// The cards of this machine. May wait for an engine.
    pub fn cards(&self) -> Cards {
        let reason = match self.opened.get() {
            Some(opened) => opened.no_cards.clone(),
            None => Some("no engine has started".into()),
        };
        match self.driver.cards() {
            Err(reason) => Cards {
                cards: Vec::new(),
                reason: Some(reason),
            },
            Ok(cards) => {
                let used = self.used_of_cards();
                let used = |card: &Card| used.get(&card.number).copied().unwrap_or(0);
                let cards = cards.into_iter().map(|card| {
                    let used = used(&card);
                    (card, used)
                });
                Cards {
                    cards: cards.collect(),
                    reason,
                }
            }
        }
    }

    fn used_of_cards(&self) -> HashMap<u32, u64> {
        let engines: Vec<Arc<Running>> = lock(&self.berths)
            .values()
            .filter_map(|berth| berth.state.try_lock().ok()?.engine.clone())
            .collect();
        let mut used = HashMap::new();
        for engine in engines {
            let answer = engine.used_of_cards();
            let timeout = tokio::time::timeout(ASK_TIMEOUT, answer);
            let _entered = self.executor.enter();
            if let Ok(Ok(bytes)) = futures::executor::block_on(timeout) {
                for (card, bytes) in bytes {
                    *used.entry(card).or_default() += bytes;
                }
            }
        }
        used
    }

    /// Loads a model. For threads that may block.
    ///
    /// # Errors
    /// What the backends say of it, or how their engines ended.
    pub fn load(
        self: &Arc<Self>,
        source: &Source<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Loaded, LoadError> {
        let choice = match wanted.choice {
            BackendChoice::Auto => self.options.default,
            chosen => chosen,
        };
        let load = |backend| self.load_with(backend, source, wanted);
        let missing = self.missing_onnxruntime();
        let loaded = match (choice, missing, wanted.target) {
            // It says itself that it has no card.
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

    /// Why ONNX Runtime cannot be used, if it cannot.
    fn missing_onnxruntime(&self) -> Option<String> {
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
        wanted: Wanted<'_>,
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
        let spec = Arc::new(Spec {
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
            .ok_or_else(|| format!("an engine has a backend `{}`", head.backend))?;
        let model: Box<dyn Model> = Box::new(Remote::new(self.clone(), spec, head.place, at));
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

    /// Loads a graph whose engine has ended.
    ///
    /// # Errors
    /// What the backend says of it now, or why it is not loaded.
    pub(super) async fn load_again(self: &Arc<Self>, spec: &Arc<Spec>) -> Result<At, String> {
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
        let (reloads, owner) = (self.loads_again.clone(), Owner::named(&label.key()));
        // A task, because batched runs wait on threads without timers.
        let waiting = self
            .executor
            .spawn(async move { reloads.acquire(owner).await });
        let permit = (&mut Waiting(waiting).0).await;
        permit.map_err(|e| format!("waiting for a permit to load stopped: {e}"))
    }

    /// The engine of a group, started now if there is none.
    fn engine(self: &Arc<Self>, counted: &Counted) -> Result<Arc<Running>, String> {
        let group = &counted.group;
        let mut berth = lock(&counted.berth.state);
        if let Some(engine) = &berth.engine {
            if engine.is_there() {
                return Ok(engine.clone());
            }
            // Graphs that are blamed for its end load elsewhere from now on, so the next engine need not end for the same reason.
            let was_quick = berth.started.is_some_and(|at| at.elapsed() < SETTLED)
                && !engine.ended_with_suspects();
            berth.quick_ends = if was_quick { berth.quick_ends + 1 } else { 0 };
            berth.engine = None;
        }
        std::thread::sleep(backoff(berth.quick_ends));
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
        let (fleet, its) = (Arc::downgrade(self), group.clone());
        let told = Box::new(move |ended: &Ended, suspects: Vec<Suspect>| {
            if let Some(fleet) = fleet.upgrade() {
                fleet.note_end(&its, ended, suspects);
            }
        });
        let engine = Running::start(&self.executor, &self.program, open, scratch, told)
            .map_err(|e| format!("an engine cannot be started: {e}"))?;
        if let Some(optimizer) = &self.optimizer {
            for (backend, folder) in &engine.opened().kept_forms {
                optimizer.prepare(backend, folder);
            }
        }
        self.note_start(group, &engine);
        berth.started = Some(Instant::now());
        berth.engine = Some(engine.clone());
        Ok(engine)
    }

    /// Ends the engine of a group when it has had no graph for a while.
    fn let_linger(self: &Arc<Self>, group: Group) {
        let fleet = Arc::downgrade(self);
        self.executor.spawn(async move {
            tokio::time::sleep(LINGER).await;
            let Some(fleet) = fleet.upgrade() else { return };
            // Graphs are counted under this lock, so that none comes meanwhile.
            let mut berths = lock(&fleet.berths);
            let Some(berth) = berths.get(&group) else {
                return;
            };
            // One that came and went meanwhile left a wait of its own behind.
            let emptied = *lock(&berth.emptied);
            let is_recent = emptied.is_some_and(|at| at.elapsed() < LINGER);
            if berth.graphs.load(Ordering::Relaxed) > 0 || is_recent {
                return;
            }
            // While somebody starts one there is a graph for it.
            let engine = match berth.state.try_lock() {
                Ok(mut state) => {
                    // It does not end by itself, so the next one starts at once.
                    state.quick_ends = 0;
                    state.engine.take()
                }
                Err(_) => return,
            };
            if group.deployment.is_some() || group.suspect.is_some() {
                berths.remove(&group);
            }
            drop(berths);
            if let Some(engine) = engine {
                fleet.note_idle_end(&group, &engine);
                engine.close();
            }
        });
    }
}

impl Counted {
    fn new(fleet: &Arc<Fleet>, group: Group) -> Self {
        let mut berths = lock(&fleet.berths);
        let berth = berths.entry(group.clone()).or_default().clone();
        berth.graphs.fetch_add(1, Ordering::Relaxed);
        drop(berths);
        Self {
            fleet: fleet.clone(),
            group,
            berth,
        }
    }
}

impl At {
    /// Notes that it goes for others.
    pub(super) fn note_eviction(&self) {
        let bytes = self.share.bytes();
        tracing::info!(
            graph = self.label.name,
            bytes,
            "idle graph unloaded to make room for another"
        );
        let graph = self.label.clone();
        let history = &self.counted.fleet.history;
        history.record(EngineEvent::Evicted { graph, bytes });
    }
}

impl Drop for At {
    fn drop(&mut self) {
        self.engine.unload(self.graph);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.berth.graphs.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&self.berth.emptied) = Some(Instant::now());
            self.fleet.let_linger(self.group.clone());
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for berth in lock(&self.berths).values() {
            if let Some(engine) = lock(&berth.state).engine.take() {
                engine.close();
            }
        }
    }
}

/// How long to wait before the next start after so many ends that came at once.
fn backoff(quick_ends: u32) -> Duration {
    match quick_ends {
        0 => Duration::ZERO,
        ends => FIRST_BACKOFF
            .saturating_mul(2u32.saturating_pow(ends - 1))
            .min(LONGEST_BACKOFF),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and records, whole at every instant; a start that panics leaves no engine behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_end_at_once_are_started_later_each_time() {
        assert_eq!(backoff(0), Duration::ZERO);
        assert_eq!(backoff(1), FIRST_BACKOFF);
        assert_eq!(backoff(2), FIRST_BACKOFF * 2);
        assert_eq!(backoff(u32::MAX), LONGEST_BACKOFF);
    }
}
