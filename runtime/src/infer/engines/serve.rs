//! The engine's side: loads graphs and runs them, for the node that started it and for as long as that is there.
//!
//! One thread reads orders; each load has a thread of its own. Runs are taken out of their ring by as many threads as there
//! are cores. Where those are all taken by long runs, and more wait, a watchman adds some.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::libraries;
use super::ring::{self, Receiver, Sender, Sent};
use super::shared::Shared;
use super::tensors::{self, Outgoing, Tensors};
use super::wire::{
    self, Answer, BackendHead, Failure, Length, Load, LoadSource, LoadedHead, MAX_MESSAGE_BYTES,
    Open, Order, Reply, Request, Span,
};
use crate::infer::backend::tensor::Tensor;
use crate::infer::backend::{Backends, GuestModel, LoadError, Loaded, RunError, Source, Wanted};
use crate::infer::compute::{Worker, guarded};
use crate::infer::stop::Stop;
use crate::process::{confine, frames};

/// The stack of a thread that loads: libraries recurse over the operators of a model.
const LOAD_STACK_BYTES: usize = 64 << 20;
/// Threads that run graphs, for each core, at most.
const MAX_THREADS_PER_CORE: usize = 4;
/// How long runs wait for a thread before there is one more.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long a thread looks for the next message before it sleeps.
const LOOKOUT: Duration = Duration::from_micros(50);
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
    graphs: RwLock<HashMap<u32, Arc<Loaded>>>,
    tensors: Tensors,
    stops: Mutex<Stops>,
    crew: Crew,
}

#[derive(Default)]
struct Stops {
    running: HashMap<u64, Arc<Stop>>,
    /// Stopped before they came.
    early: Vec<u64>,
}

/// The threads that run graphs.
#[derive(Default)]
struct Crew {
    threads: AtomicUsize,
    idle: AtomicUsize,
    /// Those of the idle ones that sleep, or are about to.
    asleep: AtomicUsize,
    /// Whether one of them is awake and looks for messages.
    looks_out: AtomicBool,
    number: AtomicU64,
    /// Whether the watchman sleeps.
    unwatched: AtomicBool,
    watch: Mutex<()>,
    called: Condvar,
}

/// Runs an engine until its node is gone. `control` is its end of the stream that the node made.
///
/// # Errors
/// When the node does not begin as a node does.
pub fn serve(control: UnixStream) -> io::Result<()> {
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
    for folder in [&options.optimized, &options.scratch].into_iter().flatten() {
        // What is not there cannot be opened later.
        std::fs::create_dir_all(folder)?;
    }
    let backends = Arc::new(Backends::beside_others(options));
    // After the libraries are open, which lie anywhere; before anything of a pusher is read.
    let is_process = confinement.is_some();
    let barriers = match confinement {
        Some(confinement) => confine::confine(&libraries::with_libraries(confinement, &backends))?,
        None => Vec::new(),
    };
    let opened = Answer::Opened {
        backends: backends.info().iter().map(BackendHead::of).collect(),
        no_cards: backends.cards().reason,
        barriers,
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
        graphs: RwLock::default(),
        tensors: Tensors::default(),
        stops: Mutex::default(),
        crew: Crew::default(),
    });
    for _ in 0..cores() {
        engine.hire()?;
    }
    let watchman = engine.clone();
    std::thread::Builder::new()
        .name("watchman".into())
        .spawn(move || watchman.watch())?;
    let followed = engine.follow();
    if is_process {
        // At once: what runs yet is not waited for, and libraries are not taken down under it.
        // SAFETY: ends the process, and nothing after it.
        unsafe { libc::_exit(i32::from(followed.is_err())) };
    }
    engine.is_over.store(true, Ordering::SeqCst);
    engine.requests.wake(i32::MAX);
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
        let loaded = guarded(|| self.loaded(load))
            .map_err(|e| LoadError(e.to_string()))
            .flatten();
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
            LoadSource::Laid(path) => self.backends.load_laid(&path, wanted),
            LoadSource::Bytes(span) => {
                let bytes = self.arena.copy(span).map_err(LoadError)?;
                // The node has read it within the limits of its guest.
                let model = GuestModel::read(bytes, u64::MAX)?;
                self.backends.load(&Source::Bytes(&model), wanted)
            }
        }
    }

    /// Starts one more thread that runs graphs.
    fn hire(self: &Arc<Self>) -> io::Result<()> {
        self.crew.threads.fetch_add(1, Ordering::Relaxed);
        self.crew.idle.fetch_add(1, Ordering::Relaxed);
        let number = self.crew.number.fetch_add(1, Ordering::Relaxed);
        let engine = self.clone();
        let started = std::thread::Builder::new()
            .name(format!("run-{number}"))
            .spawn(move || {
                let pool = Arc::new(rten::ThreadPool::with_num_threads(1));
                let mut pools = Pools(vec![(1, pool.clone())]);
                pool.run(|| engine.work(&mut pools));
                engine.crew.threads.fetch_sub(1, Ordering::Relaxed);
            });
        if started.is_err() {
            self.crew.threads.fetch_sub(1, Ordering::Relaxed);
            self.crew.idle.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    /// Takes runs until the node is gone, or there are more threads that wait than cores.
    fn work(&self, pools: &mut Pools) {
        let mut message = Vec::new();
        while self.next(&mut message) {
            if self.crew.idle.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.call_watchman();
            }
            self.take(&message, pools);
            let idle = self.crew.idle.fetch_add(1, Ordering::Relaxed);
            if idle >= cores() && self.crew.threads.load(Ordering::Relaxed) > cores() {
                self.crew.idle.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits for the next message of the node; false when the node is gone.
    fn next(&self, message: &mut Vec<u8>) -> bool {
        while !self.is_over.load(Ordering::SeqCst) {
            match self.requests.take().next(message) {
                Ok(true) => {
                    if self.requests.made_room() {
                        self.ring();
                    }
                    return true;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the node's messages are wrong");
                    return false;
                }
            }
            if self.looked_out() {
                continue;
            }
            self.crew.asleep.fetch_add(1, Ordering::SeqCst);
            let sleep = self.requests.next_sleep();
            // A lookout wakes this one, or has the node do so, before it does anything else: it looks for sleepers after it has
            // ceased to look out, and this one looks for a lookout after it has counted itself among the sleepers.
            let sleep = match self.crew.looks_out.load(Ordering::SeqCst) {
                true => Some(sleep),
                false => self.requests.about_to_sleep(),
            };
            if let Some(sleep) = sleep
                && !self.is_over.load(Ordering::SeqCst)
            {
                self.requests.sleep(sleep);
            }
            self.crew.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        false
    }

    /// Looks out for the next message for a while, if no other thread does: to sleep and be woken takes longer than many a run.
    /// True when there is one.
    fn looked_out(&self) -> bool {
        if self.crew.looks_out.swap(true, Ordering::SeqCst) {
            return false;
        }
        let begun = Instant::now();
        while self.requests.is_empty()
            && begun.elapsed() < LOOKOUT
            && !self.is_over.load(Ordering::Relaxed)
        {
            // The core is for those who have something to do.
            std::thread::yield_now();
        }
        self.crew.looks_out.store(false, Ordering::SeqCst);
        !self.requests.is_empty()
    }

    /// Before a run begins: the node wakes one thread for as many messages as come at once, and that one wakes another.
    fn call_others(&self) {
        if self.crew.asleep.load(Ordering::SeqCst) > 0 && self.requests.about_to_sleep().is_none() {
            self.requests.wake(1);
        }
    }

    fn ring(&self) {
        // It fails only when the node has not listened for longer than there are numbers.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn call_watchman(&self) {
        if self.crew.unwatched.swap(false, Ordering::AcqRel) {
            let _awake = lock(&self.crew.watch);
            self.crew.called.notify_one();
        }
    }

    /// Adds threads where runs wait for those that take long.
    fn watch(self: Arc<Self>) {
        let most = cores() * MAX_THREADS_PER_CORE;
        loop {
            let mut asleep = lock(&self.crew.watch);
            self.crew.unwatched.store(true, Ordering::Release);
            while self.crew.unwatched.load(Ordering::Acquire)
                && self.crew.idle.load(Ordering::Relaxed) > 0
            {
                asleep = self
                    .crew
                    .called
                    .wait(asleep)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(asleep);
            std::thread::sleep(PATIENCE);
            if self.crew.idle.load(Ordering::Relaxed) == 0
                && self.crew.threads.load(Ordering::Relaxed) < most
                && !self.requests.is_empty()
                && let Err(error) = self.hire()
            {
                tracing::warn!(%error, "no thread can be started for runs that wait");
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
                        guarded(|| self.run(graph, inputs?, &worker))
                            .map_err(|e| Failure::Backend(e.to_string()))
                            .flatten()
                    }
                };
                lock(&self.stops).running.remove(&run);
                self.reply(run, ran);
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
        inputs: Vec<Tensor>,
        worker: &Worker,
    ) -> Result<(Vec<Outgoing>, Duration), Failure> {
        let graphs = self.graphs.read().unwrap_or_else(PoisonError::into_inner);
        let loaded = graphs.get(&graph).cloned();
        drop(graphs);
        let loaded =
            loaded.ok_or_else(|| Failure::Backend(format!("there is no graph {graph}")))?;
        let begun = Instant::now();
        let outputs = loaded
            .model
            .run(inputs, worker)
            .map_err(|error| match error {
                RunError::Inputs(text) => Failure::Inputs(text),
                RunError::Failed(text) => Failure::Backend(text),
            })?;
        let took = begun.elapsed();
        let outputs = tensors::departing(outputs, &self.tensors).map_err(Failure::Backend)?;
        Ok((outputs, took))
    }

    fn reply(&self, run: u64, ran: Result<(Vec<Outgoing>, Duration), Failure>) {
        match ran {
            Ok((outputs, took)) => {
                let (heads, elements): (Vec<_>, Vec<_>) = outputs
                    .into_iter()
                    .map(|one| (one.head, one.inline))
                    .unzip();
                let reply = Reply::Ran {
                    run,
                    took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
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
                Ok(Sent::Sent) => return,
                Ok(Sent::ToSleeper) => return self.ring(),
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
    fn begin(&self, run: u64) -> Option<Arc<Stop>> {
        let mut stops = lock(&self.stops);
        if let Some(at) = stops.early.iter().position(|early| *early == run) {
            stops.early.swap_remove(at);
            return None;
        }
        let stop = Arc::new(Stop::default());
        stops.running.insert(run, stop.clone());
        Some(stop)
    }

    fn stop(&self, run: u64) {
        let mut stops = lock(&self.stops);
        let running = stops.running.get(&run).cloned();
        match running {
            Some(stop) => {
                drop(stops);
                stop.ask();
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
