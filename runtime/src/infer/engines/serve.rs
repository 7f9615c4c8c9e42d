//! The engine's side: loads and runs graphs until the node closes the stream.
//!
//! One thread reads orders, and each load has its own thread. As many threads as cores receive runs from the ring. A watchdog adds
//! threads while all of them are busy with long runs and more runs wait.

mod memory_trimmer;
mod threads;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use self::memory_trimmer::MemoryTrimmer;
use self::threads::RunThreads;
use super::gauge::Gauge;
use super::handle::RunCost;
use super::libraries;
use super::ring::{self, Receiver, Sender, Sent};
use super::shared_memory::SharedMemory;
use super::tensor_store::{self, Outgoing, TensorStore};
use super::wire::{
    self, Answer, BackendHead, Failure, Length, Load, LoadSource, LoadedHead, MAX_MESSAGE_BYTES,
    Open, Order, Reply, Request, Span,
};
use crate::infer::backend::tensor::Tensor;
use crate::infer::backend::{
    Backends, GuestModel, LoadError, LoadRequest, Loaded, RunError, Source,
};
use crate::infer::compute::{Worker, guarded};
use crate::infer::run_cancel::RunCancel;
use crate::process::{confine, frames};

/// Stack of a thread that loads a model: libraries recurse over its operators.
const LOAD_STACK_BYTES: usize = 64 << 20;
/// Runs that took longer are checked for their memory use.
const MIN_MEASURED_RUN: Duration = Duration::from_millis(1);
/// Most runs that are remembered as cancelled before they were received.
const MAX_EARLY_CANCELS: usize = 1024;

struct Engine {
    backends: Arc<Backends>,
    control: UnixStream,
    /// Held while a frame is written.
    writing: Mutex<()>,
    requests: Receiver,
    replies: Sender,
    /// Written to wake the node.
    wake: OwnedFd,
    /// Whether the node has closed the stream.
    is_closed: AtomicBool,
    arena: SharedMemory,
    gauge: Gauge,
    collect: fn(),
    graphs: RwLock<HashMap<u32, Arc<Loaded>>>,
    tensors: TensorStore,
    cancellations: Mutex<Cancellations>,
    threads: RunThreads,
    memory_trimmer: MemoryTrimmer,
}

#[derive(Default)]
struct Cancellations {
    running: HashMap<u64, Arc<RunCancel>>,
    /// Cancelled before they were received.
    early: Vec<u64>,
}

/// Runs an engine until the node closes the stream. `control` is the engine's end of the socket pair that the node created. `collect`
/// makes the program's allocator return unused memory to the system.
///
/// # Errors
/// If the node violates the protocol, or the engine cannot be confined.
pub fn serve(control: UnixStream, collect: fn()) -> io::Result<()> {
    let [wake, arena, messages] = frames::receive_files(&control)?;
    let arena = SharedMemory::open(&arena)?;
    let (requests, replies) = ring::engine_ends(&SharedMemory::open(&messages)?)?;
    let Some(Order::Open(open)) = frames::read_frame(&control)? else {
        return Err(io::Error::other("the first message is invalid"));
    };
    let Open {
        backends: options,
        confinement,
    } = *open;
    let backends = Arc::new(Backends::discover_shared(options));
    let is_process = confinement.is_some();
    let gauge = Gauge::open(is_process)?;
    // After the libraries are opened, which may be anywhere; before any file of a deployment is read.
    let barriers = match confinement {
        Some(confinement) => confine::confine(&libraries::with_libraries(confinement, &backends))?,
        None => Vec::new(),
    };
    let opened = Answer::Opened {
        backends: backends.info().iter().map(BackendHead::of).collect(),
        no_gpus: backends.gpus().reason,
        barriers,
        form_folders: backends.form_folders(),
    };
    frames::write_frame(&control, &opened)?;
    let engine = Arc::new(Engine {
        backends,
        control,
        writing: Mutex::default(),
        requests,
        replies,
        wake,
        is_closed: AtomicBool::new(false),
        arena,
        gauge,
        collect,
        graphs: RwLock::default(),
        tensors: TensorStore::default(),
        cancellations: Mutex::default(),
        threads: RunThreads::default(),
        memory_trimmer: MemoryTrimmer::default(),
    });
    for _ in 0..cores() {
        engine.add_thread()?;
    }
    let watchdog = engine.clone();
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || watchdog.watch_threads())?;
    let trimmer = engine.clone();
    std::thread::Builder::new()
        .name("memory-trimmer".into())
        .spawn(move || trimmer.trim_after_runs())?;
    let followed = engine.follow();
    if is_process {
        // At once: does not wait for runs, and does not unload libraries that they use.
        // SAFETY: has no preconditions; ends the process at once.
        unsafe { libc::_exit(i32::from(followed.is_err())) };
    }
    engine.is_closed.store(true, Ordering::SeqCst);
    engine.requests.wake(i32::MAX);
    engine.memory_trimmer.record_run();
    followed
}

/// Number of cores. Cached, because the system call opens files.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

impl Engine {
    /// Handles orders until the node closes the stream.
    fn follow(self: &Arc<Self>) -> io::Result<()> {
        while let Some(order) = frames::read_frame(&self.control)? {
            self.handle_order(order)?;
        }
        Ok(())
    }

    fn handle_order(self: &Arc<Self>, order: Order) -> io::Result<()> {
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
            Order::GpuMemory { id } => {
                let gpus = self.backends.gpus().gpus;
                let bytes = gpus.into_iter().map(|(gpu, used)| (gpu.number, used));
                let bytes = bytes.collect();
                self.answer(&Answer::GpuMemory { id, bytes })?;
            }
            Order::Ping { id } => self.answer(&Answer::Pong { id })?,
        }
        Ok(())
    }

    fn answer(&self, answer: &Answer) -> io::Result<()> {
        let _writing = lock(&self.writing);
        frames::write_frame(&self.control, answer)
    }

    fn load(&self, load: Load) {
        let graph = load.graph;
        let activity = self.gauge.begin();
        let loaded = guarded(|| self.load_model(load))
            .map_err(|e| LoadError(e.to_string()))
            .flatten();
        let load_peak_bytes = activity.peak_bytes();
        // Memory that only reading and optimizing used is not the graph's.
        self.release_memory();
        let weight_bytes = activity.growth_bytes();
        drop(activity);
        self.gauge.set_baseline();
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

    fn load_model(&self, load: Load) -> Result<Loaded, LoadError> {
        let wanted = LoadRequest {
            choice: load.choice,
            target: load.target,
            threads: load.threads,
            data: &[],
            digest: load.digest.as_deref(),
            ..LoadRequest::default()
        };
        match load.source {
            LoadSource::File(path) => self.backends.load(&Source::File(&path), wanted),
            LoadSource::ModelDir(path) => self.backends.load_model_dir(&path, wanted),
            LoadSource::Bytes(span) => {
                let bytes = self.arena.copy(span).map_err(LoadError)?;
                // The node has checked it against the limits of the guest.
                let model = GuestModel::read(bytes, u64::MAX)?;
                self.backends.load(&Source::Bytes(&model), wanted)
            }
        }
    }

    fn handle_message(&self, message: &[u8], pools: &mut RtenPools) {
        let (request, inline) = match wire::decode::<Request>(message) {
            Ok(read) => read,
            Err(error) => return tracing::error!(error, "invalid message of the node ignored"),
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
                    self.wake_another();
                }
                let cancel = self.begin(run);
                let ran = match &cancel {
                    None => Err(Failure::Backend("it was cancelled before it began".into())),
                    Some(cancel) => {
                        let worker = Worker::of_engine(pools.get(threads as usize), cancel.clone());
                        let inputs = self.tensors.unpack(inputs, inline, &self.arena);
                        guarded(|| self.run(graph, length, inputs?, &worker))
                            .map_err(|e| Failure::Backend(e.to_string()))
                            .flatten()
                    }
                };
                lock(&self.cancellations).running.remove(&run);
                self.reply(run, ran);
                if length == Length::Unknown {
                    self.memory_trimmer.record_run();
                }
            }
            Request::Read { read, tensor, to } => {
                let error = self.read(tensor, to).err();
                self.send(&Reply::Read { read, error }, &[]);
            }
            Request::Drop { tensors } => self.tensors.remove(&tensors),
            Request::Cancel { run } => self.cancel(run),
            Request::Unload { graph } => {
                let mut graphs = self.graphs.write().unwrap_or_else(PoisonError::into_inner);
                let gone = graphs.remove(&graph);
                drop(graphs);
                drop(gone);
                self.release_memory();
                self.gauge.set_baseline();
            }
            Request::Long(span) => match self.arena.copy(span) {
                Ok(message) => self.handle_message(&message, pools),
                Err(error) => tracing::error!(error, "invalid message of the node ignored"),
            },
        }
    }

    fn run(
        &self,
        graph: u32,
        length: Length,
        inputs: Vec<Tensor>,
        worker: &Worker,
    ) -> Result<(Vec<Outgoing>, RunCost), Failure> {
        let graphs = self.graphs.read().unwrap_or_else(PoisonError::into_inner);
        let loaded = graphs.get(&graph).cloned();
        drop(graphs);
        let loaded =
            loaded.ok_or_else(|| Failure::Backend(format!("there is no graph {graph}")))?;
        // Measuring costs more than a short run.
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
            && time > MIN_MEASURED_RUN
        {
            peak_bytes = activity.peak_bytes().unwrap_or(0);
        }
        let outputs = tensor_store::pack(outputs, &self.tensors).map_err(Failure::Backend)?;
        Ok((outputs, RunCost { time, peak_bytes }))
    }

    /// Returns memory to the system that is unused in this program's allocator and in that of the C library.
    fn release_memory(&self) {
        (self.collect)();
        #[cfg(target_env = "gnu")]
        // SAFETY: may be called at any time, from any thread.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn reply(&self, run: u64, ran: Result<(Vec<Outgoing>, RunCost), Failure>) {
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

    fn send(&self, reply: &Reply, inline: &[Vec<u8>]) {
        let head = match wire::encode(reply) {
            Ok(head) => head,
            Err(error) => return tracing::error!(error, "reply cannot be encoded"),
        };
        let total = head.len() + inline.iter().map(Vec::len).sum::<usize>();
        if total > MAX_MESSAGE_BYTES {
            if let Reply::Ran { run, outputs, .. } = reply {
                self.tensors.remove_outputs(outputs);
                let error = format!(
                    "the description of {} outputs has {total} bytes; the limit is {MAX_MESSAGE_BYTES}",
                    outputs.len()
                );
                self.reply(*run, Err(Failure::Backend(error)));
            }
            return;
        }
        let mut parts = Vec::with_capacity(1 + inline.len());
        parts.push(&*head);
        parts.extend(inline.iter().map(|bytes| &**bytes));
        while !self.is_closed.load(Ordering::Relaxed) {
            match self.replies.try_send(&parts) {
                Ok(Sent::Awake) => return,
                Ok(Sent::Asleep) => return self.wake_node(),
                Ok(Sent::Full) => self.replies.wait_for_room(),
                Err(error) => return tracing::error!(%error, "reply cannot be sent"),
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

    /// Registers a run; `None` if it was already cancelled.
    fn begin(&self, run: u64) -> Option<Arc<RunCancel>> {
        let mut cancellations = lock(&self.cancellations);
        if let Some(at) = cancellations.early.iter().position(|early| *early == run) {
            cancellations.early.swap_remove(at);
            return None;
        }
        let cancel = Arc::new(RunCancel::default());
        cancellations.running.insert(run, cancel.clone());
        Some(cancel)
    }

    fn cancel(&self, run: u64) {
        let mut cancellations = lock(&self.cancellations);
        let running = cancellations.running.get(&run).cloned();
        match running {
            Some(cancel) => {
                drop(cancellations);
                cancel.cancel();
            }
            None => {
                if cancellations.early.len() >= MAX_EARLY_CANCELS {
                    cancellations.early.remove(0);
                }
                cancellations.early.push(run);
            }
        }
    }
}

/// The rten pools of one thread, by number of threads.
struct RtenPools(Vec<(usize, Arc<rten::ThreadPool>)>);

impl RtenPools {
    fn get(&mut self, threads: usize) -> Arc<rten::ThreadPool> {
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
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
