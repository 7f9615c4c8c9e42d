//! The engine's side: loads graphs and runs them, for the node that started it and for as long as that is there.
//!
//! One thread reads orders; each load has a thread of its own. Runs are taken out of their ring by as many threads as there
//! are cores. Where those are all taken by long runs, and more wait, a watchman adds some.

mod crew;
mod steward;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use self::crew::Crew;
use self::steward::Steward;
use super::gauge::Gauge;
use super::libraries;
use super::ring::{self, Receiver, Sender, Sent};
use super::running::Took;
use super::shared::Shared;
use super::tensors::{self, Outgoing, Tensors};
use super::wire::{
    self, Answer, BackendHead, Failure, Length, Load, LoadSource, LoadedHead, MAX_MESSAGE_BYTES,
    Open, Order, Reply, Request, Span,
};
use crate::infer::backend::tensor::Tensor;
use crate::infer::backend::{Backends, GuestModel, LoadError, Loaded, RunError, Source, Wanted};
use crate::infer::compute::{Worker, guarded};
use crate::infer::run_cancel::RunCancel;
use crate::process::{confine, frames};

/// The stack of a thread that loads: libraries recurse over the operators of a model.
const LOAD_STACK_BYTES: usize = 64 << 20;
/// Runs that took longer are looked at for the memory that they took.
const WORTH_A_LOOK: Duration = Duration::from_millis(1);
/// Runs that were stopped before they came.
const MAX_STOPPED: usize = 1024;

struct Engine {
    backends: Arc<Backends>,
    control: UnixStream,
    /// Frames go out whole.
    answering: Mutex<()>,
    requests: Receiver,
    replies: Sender,
    /// Rung for the node when it sleeps.
    bell: OwnedFd,
    /// Whether the node is gone.
    is_over: AtomicBool,
    arena: Shared,
    gauge: Gauge,
    collect: fn(),
    graphs: RwLock<HashMap<u32, Arc<Loaded>>>,
    tensors: Tensors,
    stops: Mutex<Stops>,
    crew: Crew,
    steward: Steward,
}

#[derive(Default)]
struct Stops {
    running: HashMap<u64, Arc<RunCancel>>,
    /// Stopped before they came.
    early: Vec<u64>,
}

/// Runs an engine until its node is gone. `control` is its end of the stream that the node made. `collect` has the program's
/// allocator give back to the system what it keeps.
///
/// # Errors
/// When the node does not begin as a node does.
pub fn serve(control: UnixStream, collect: fn()) -> io::Result<()> {
    let [bell, arena, messages] = frames::receive_files(&control)?;
    let arena = Shared::open(&arena)?;
    let (requests, replies) = ring::of_engine(&Shared::open(&messages)?)?;
    let Some(Order::Open(open)) = frames::read_frame(&control)? else {
        return Err(io::Error::other("the first order is none to open"));
    };
    let Open {
        backends: options,
        confinement,
    } = *open;
    let backends = Arc::new(Backends::beside_others(options));
    let is_process = confinement.is_some();
    let gauge = Gauge::open(is_process)?;
    // After the libraries are open, which lie anywhere; before anything of a pusher is read.
    let barriers = match confinement {
        Some(confinement) => confine::confine(&libraries::with_libraries(confinement, &backends))?,
        None => Vec::new(),
    };
    let opened = Answer::Opened {
        backends: backends.info().iter().map(BackendHead::of).collect(),
        no_cards: backends.cards().reason,
        barriers,
        kept_forms: backends.kept_forms(),
    };
    frames::write_frame(&control, &opened)?;
    let engine = Arc::new(Engine {
        backends,
        control,
        answering: Mutex::default(),
        requests,
        replies,
        bell,
        is_over: AtomicBool::new(false),
        arena,
        gauge,
        collect,
        graphs: RwLock::default(),
        tensors: Tensors::default(),
        stops: Mutex::default(),
        crew: Crew::default(),
        steward: Steward::default(),
    });
    for _ in 0..cores() {
        engine.hire()?;
    }
    let watchman = engine.clone();
    std::thread::Builder::new()
        .name("watchman".into())
        .spawn(move || watchman.watch())?;
    let steward = engine.clone();
    std::thread::Builder::new()
        .name("steward".into())
        .spawn(move || steward.keep_memory())?;
    let followed = engine.follow();
    if is_process {
        // At once: what runs yet is not waited for, and libraries are not taken down under it.
        // SAFETY: ends the process, and nothing after it.
        unsafe { libc::_exit(i32::from(followed.is_err())) };
    }
    engine.is_over.store(true, Ordering::SeqCst);
    engine.requests.wake(i32::MAX);
    engine.steward.note_run();
    followed
}

/// Asked of the system once: it opens files for each answer.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

impl Engine {
    /// Obeys until the node is gone.
    fn follow(self: &Arc<Self>) -> io::Result<()> {
        while let Some(order) = frames::read_frame(&self.control)? {
            self.obey(order)?;
        }
        Ok(())
    }

    fn obey(self: &Arc<Self>, order: Order) -> io::Result<()> {
        match order {
            Order::Open(_) => {}
            Order::Load(load) => {
                let (graph, engine) = (load.graph, self.clone());
                let started = std::thread::Builder::new()
                    .name("load".into())
                    .stack_size(LOAD_STACK_BYTES)
                    .spawn(move || engine.load(load));
                if let Err(error) = started {
                    let error = format!("no thread can be started to load it: {error}");
                    self.answer(&Answer::NotLoaded { graph, error })?;
                }
            }
            Order::UsedOfCards { asked } => {
                let cards = self.backends.cards().cards;
                let bytes = cards.into_iter().map(|(card, used)| (card.number, used));
                let bytes = bytes.collect();
                self.answer(&Answer::UsedOfCards { asked, bytes })?;
            }
            Order::Ping { asked } => self.answer(&Answer::Pong { asked })?,
        }
        Ok(())
    }

    fn answer(&self, answer: &Answer) -> io::Result<()> {
        let _whole = lock(&self.answering);
        frames::write_frame(&self.control, answer)
    }

    fn load(&self, load: Load) {
        let graph = load.graph;
        let activity = self.gauge.begin();
        let loaded = guarded(|| self.loaded(load))
            .map_err(|e| LoadError(e.to_string()))
            .flatten();
        let load_peak_bytes = activity.peak_bytes();
        // What reading and optimizing took is not the graph's.
        self.give_back();
        let weight_bytes = activity.growth_bytes();
        drop(activity);
        self.gauge.settle();
        let answer = match loaded {
            Ok(loaded) => {
                let head = Box::new(LoadedHead {
                    backend: loaded.backend.into(),
                    device: loaded.device,
                    place: loaded.model.place(),
                    runs: loaded.runs,
                    inputs: loaded.inputs.clone(),
                    outputs: loaded.outputs.clone(),
                    mixes_rows: loaded.mixes_rows.clone(),
                    weight_bytes,
                    load_peak_bytes,
                    lacks_form: loaded.lacks_form,
                });
                let mut graphs = self.graphs.write().unwrap_or_else(PoisonError::into_inner);
                graphs.insert(graph, Arc::new(loaded));
                Answer::Loaded {
                    graph,
                    loaded: head,
                }
            }
            Err(LoadError(error)) => Answer::NotLoaded { graph, error },
        };
        if let Err(error) = self.answer(&answer) {
            let error = format!("its description cannot be sent: {error}");
            let _ = self.answer(&Answer::NotLoaded { graph, error });
        }
    }

    fn loaded(&self, load: Load) -> Result<Loaded, LoadError> {
        let wanted = Wanted {
            choice: load.choice,
            target: load.target,
            threads: load.threads,
            data: &[],
            digest: load.digest.as_deref(),
            ..Wanted::default()
        };
        match load.source {
            LoadSource::File(path) => self.backends.load(&Source::File(&path), wanted),
            LoadSource::ModelDir(path) => self.backends.load_laid(&path, wanted),
            LoadSource::Bytes(span) => {
                let bytes = self.arena.copy(span).map_err(LoadError)?;
                // The node has read it within the limits of its guest.
                let model = GuestModel::read(bytes, u64::MAX)?;
                self.backends.load(&Source::Bytes(&model), wanted)
            }
        }
    }

    fn take(&self, message: &[u8], pools: &mut Pools) {
        let (request, behind) = match wire::decode::<Request>(message) {
            Ok(read) => read,
            Err(error) => return tracing::error!(error, "a message of the node is left out"),
        };
        match request {
            Request::Run {
                run,
                graph,
                threads,
                length,
                inputs,
            } => {
                if length == Length::Unknown {
                    self.call_others();
                }
                let stop = self.begin(run);
                let ran = match &stop {
                    None => Err(Failure::Backend("it was stopped before it began".into())),
                    Some(stop) => {
                        let worker = Worker::of_engine(pools.of(threads as usize), stop.clone());
                        let inputs = self.tensors.arrived(inputs, behind, &self.arena);
                        guarded(|| self.run(graph, length, inputs?, &worker))
                            .map_err(|e| Failure::Backend(e.to_string()))
                            .flatten()
                    }
                };
                lock(&self.stops).running.remove(&run);
                self.reply(run, ran);
                if length == Length::Unknown {
                    self.steward.note_run();
                }
            }
            Request::Read { read, tensor, to } => {
                let error = self.read(tensor, to).err();
                self.send(&Reply::Read { read, error }, &[]);
            }
            Request::Drop { tensors } => self.tensors.forget(&tensors),
            Request::Stop { run } => self.stop(run),
            Request::Unload { graph } => {
                let mut graphs = self.graphs.write().unwrap_or_else(PoisonError::into_inner);
                let gone = graphs.remove(&graph);
                drop(graphs);
                drop(gone);
                self.give_back();
                self.gauge.settle();
            }
            Request::Long(span) => match self.arena.copy(span) {
                Ok(message) => self.take(&message, pools),
                Err(error) => tracing::error!(error, "a message of the node is left out"),
            },
        }
    }

    fn run(
        &self,
        graph: u32,
        length: Length,
        inputs: Vec<Tensor>,
        worker: &Worker,
    ) -> Result<(Vec<Outgoing>, Took), Failure> {
        let graphs = self.graphs.read().unwrap_or_else(PoisonError::into_inner);
        let loaded = graphs.get(&graph).cloned();
        drop(graphs);
        let loaded =
            loaded.ok_or_else(|| Failure::Backend(format!("there is no graph {graph}")))?;
        // To look costs more than a short run does.
        let activity = (length == Length::Unknown).then(|| self.gauge.begin());
        let begun = Instant::now();
        let outputs = loaded
            .model
            .run(inputs, worker)
            .map_err(|error| match error {
                RunError::Inputs(text) => Failure::Inputs(text),
                RunError::Failed(text) => Failure::Backend(text),
            })?;
        let time = begun.elapsed();
        let mut peak_bytes = 0;
        if let Some(activity) = activity
            && time > WORTH_A_LOOK
        {
            peak_bytes = activity.peak_bytes().unwrap_or(0);
        }
        let outputs = tensors::departing(outputs, &self.tensors).map_err(Failure::Backend)?;
        Ok((outputs, Took { time, peak_bytes }))
    }

    /// Gives memory back to the system that allocators keep for later: this program's, and the C library's, which others use.
    fn give_back(&self) {
        (self.collect)();
        #[cfg(target_env = "gnu")]
        // SAFETY: may be called at any time, from any thread.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn reply(&self, run: u64, ran: Result<(Vec<Outgoing>, Took), Failure>) {
        match ran {
            Ok((outputs, took)) => {
                let (heads, elements): (Vec<_>, Vec<_>) = outputs
                    .into_iter()
                    .map(|one| (one.head, one.inline))
                    .unzip();
                let reply = Reply::Ran {
                    run,
                    took_ns: u64::try_from(took.time.as_nanos()).unwrap_or(u64::MAX),
                    peak_bytes: took.peak_bytes,
                    outputs: heads,
                };
                self.send(&reply, &elements);
            }
            Err(failure) => self.send(&Reply::Failed { run, failure }, &[]),
        }
    }

    fn send(&self, reply: &Reply, behind: &[Vec<u8>]) {
        let head = match wire::encode(reply) {
            Ok(head) => head,
            Err(error) => return tracing::error!(error, "a reply cannot be written"),
        };
        let total = head.len() + behind.iter().map(Vec::len).sum::<usize>();
        if total > MAX_MESSAGE_BYTES {
            if let Reply::Ran { run, outputs, .. } = reply {
                self.tensors.forget_all(outputs);
                let error = format!(
                    "what {} outputs say of themselves takes {total} bytes, at most {MAX_MESSAGE_BYTES} are sent",
                    outputs.len()
                );
                self.reply(*run, Err(Failure::Backend(error)));
            }
            return;
        }
        let mut parts = Vec::with_capacity(1 + behind.len());
        parts.push(&*head);
        parts.extend(behind.iter().map(|bytes| &**bytes));
        while !self.is_over.load(Ordering::Relaxed) {
            match self.replies.try_send(&parts) {
                Ok(Sent::Awake) => return,
                Ok(Sent::Asleep) => return self.ring(),
                Ok(Sent::Full) => self.replies.wait_for_room(),
                Err(error) => return tracing::error!(%error, "a reply cannot be sent"),
            }
        }
    }

    fn read(&self, tensor: u64, to: Span) -> Result<(), String> {
        let tensor = self
            .tensors
            .get(tensor)
            .ok_or_else(|| format!("there is no tensor {tensor}"))?;
        let bytes = tensor.data.read()?;
        self.arena.write(to, &bytes)
    }

    /// Notes that a run begins; nothing when it was stopped before.
    fn begin(&self, run: u64) -> Option<Arc<RunCancel>> {
        let mut stops = lock(&self.stops);
        if let Some(at) = stops.early.iter().position(|early| *early == run) {
            stops.early.swap_remove(at);
            return None;
        }
        let stop = Arc::new(RunCancel::default());
        stops.running.insert(run, stop.clone());
        Some(stop)
    }

    fn stop(&self, run: u64) {
        let mut stops = lock(&self.stops);
        let running = stops.running.get(&run).cloned();
        match running {
            Some(stop) => {
                drop(stops);
                stop.cancel();
            }
            None => {
                if stops.early.len() >= MAX_STOPPED {
                    stops.early.remove(0);
                }
                stops.early.push(run);
            }
        }
    }
}

/// rten's pools of one thread that runs graphs, by their threads.
struct Pools(Vec<(usize, Arc<rten::ThreadPool>)>);

impl Pools {
    fn of(&mut self, threads: usize) -> Arc<rten::ThreadPool> {
        let threads = threads.clamp(1, cores());
        if let Some((_, pool)) = self.0.iter().find(|(of, _)| *of == threads) {
            return pool.clone();
        }
        let pool = Arc::new(rten::ThreadPool::with_num_threads(threads));
        self.0.push((threads, pool.clone()));
        pool
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is a single one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
