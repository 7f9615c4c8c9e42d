//! The node's side of one engine: pending requests, which are completed when the engine answers or ends.

mod follow;
mod packing;
mod short_wait;
mod spawn;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::Program;
use super::arena::{Arena, Block};
use super::history::{EndReason, GraphLabel, Suspect};
use super::remote_data::RemoteData;
use super::ring::{self, Receiver, Sender, Sent};
use super::wire::{self, Answer, BackendHead, Length, Load, LoadedHead, Open, Order, Request};
use crate::infer::backend::RunError;
use crate::infer::backend::tensor::Tensor;
use crate::process::barrier::Barrier;
use crate::process::frames;
pub(super) use spawn::passed_variables;
use spawn::start;

/// Time limit for an engine to find its backends.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Most inputs of a run, and dimensions of each, in the log and in events.
const MAX_SHOWN_INPUTS: usize = 16;

/// A started engine.
pub(super) struct EngineHandle {
    control: Mutex<UnixStream>,
    requests: Sender,
    replies: Receiver,
    /// Written by the engine while the node sleeps, when there are replies or room for requests.
    wake: AsyncFd<OwnedFd>,
    arena: Arc<Arena>,
    next_id: AtomicU64,
    state: Mutex<State>,
    outbox: Outbox,
    /// Notified when the stream has ended.
    closed: Notify,
    kill: Notify,
    capabilities: Capabilities,
    process: Option<u32>,
    /// Called when it has ended, before the pending requests are completed.
    on_end: Mutex<Option<OnEnd>>,
    /// Labels of its graphs by number.
    labels: Mutex<HashMap<u32, Arc<GraphLabel>>>,
    /// The folder that it may write to.
    _scratch: Option<TempDir>,
}

/// Called when an engine has ended.
pub(super) type OnEnd = Box<dyn FnOnce(&Ended, Vec<Suspect>) + Send>;

/// The capabilities that an engine reported when it started.
#[derive(Clone, Debug, Default)]
pub(super) struct Capabilities {
    pub backends: Vec<BackendHead>,
    pub no_gpus: Option<String>,
    pub barriers: Vec<Barrier>,
    /// The names of backends, each with the folder of its cached forms.
    pub form_folders: Vec<(String, String)>,
}

#[derive(Default)]
struct State {
    ended: Option<Arc<Ended>>,
    /// Why it is being killed.
    killed: Option<KillReason>,
    runs: HashMap<u64, InFlight>,
    reads: HashMap<u64, PendingRead>,
    loads: HashMap<u32, oneshot::Sender<Result<LoadedHead, LoadFailure>>>,
    gpu_memory: HashMap<u64, oneshot::Sender<Vec<(u32, u64)>>>,
    last_answer: Option<Instant>,
    /// The kernel's count of OOM kills at the last check.
    oom_kills: Option<u64>,
}

/// Requests that did not fit into the ring.
#[derive(Default)]
struct Outbox {
    has_messages: AtomicBool,
    messages: Mutex<VecDeque<Vec<u8>>>,
}

/// A pending read: the block of the arena that the elements are copied to, and the caller.
type PendingRead = (Block, oneshot::Sender<Result<Vec<u8>, String>>);

/// Why an engine is killed, and the graph that is the cause, if any.
#[derive(Clone, Debug)]
struct KillReason {
    reason: EndReason,
    why: String,
    graph: Option<u32>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The numbers of the graphs that run or load, without the graphs of `unreceived` runs.
    fn busy_graphs(&self, unreceived: &HashSet<u64>) -> Vec<u32> {
        let running = self
            .runs
            .iter()
            .filter(|(run, _)| !unreceived.contains(run));
        let running = running.map(|(_, run)| run.graph);
        let mut busy: Vec<u32> = running.chain(self.loads.keys().copied()).collect();
        busy.sort_unstable();
        busy.dedup();
        busy
    }
}

/// How an engine ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// For metrics and events.
    pub reason: EndReason,
    /// For logs and errors.
    pub why: String,
    /// Its process ID.
    pub process: Option<u32>,
    /// The numbers of the graphs that may be the cause.
    pub suspects: Vec<u32>,
}

/// Why a graph was not loaded.
#[derive(Clone, Debug)]
pub(super) enum LoadFailure {
    /// The backend refused it.
    Refused(String),
    /// The engine ended before.
    Ended(Arc<Ended>),
}

/// The resources that a run used.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunCost {
    pub time: Duration,
    /// Peak memory in bytes; 0 if not measured.
    pub peak_bytes: u64,
}

/// How a run ended.
pub(super) enum RunEnd {
    /// Its outputs, and the resources that the engine reported.
    Ran(Vec<Tensor>, RunCost),
    Failed(RunError),
    /// The engine ended. The inputs can be used again.
    Lost {
        ended: Arc<Ended>,
        inputs: Vec<Tensor>,
    },
}

impl InFlight {
    /// Type and shape of the first inputs.
    fn shapes(&self) -> Vec<String> {
        let inputs = self.inputs.iter().take(MAX_SHOWN_INPUTS);
        let inputs = inputs.map(|tensor| {
            let dims = &tensor.dims[..tensor.dims.len().min(MAX_SHOWN_INPUTS)];
            format!("{} {dims:?}", tensor.ty)
        });
        inputs.collect()
    }
}

/// Called with the end of a run.
pub(super) type OnRunEnd = Box<dyn FnOnce(RunEnd) + Send>;

struct InFlight {
    graph: u32,
    inputs: Vec<Tensor>,
    /// Blocks with the elements of large inputs.
    _blocks: Vec<Block>,
    on_end: OnRunEnd,
}

impl fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {:?}", self.process)
    }
}

impl EngineHandle {
    /// Starts an engine and waits until it has found its backends. Its tasks run on `executor`.
    ///
    /// # Errors
    /// If it cannot be started, or violates the protocol.
    pub fn start(
        executor: &Handle,
        program: &Program,
        open: Open,
        scratch: Option<TempDir>,
        on_end: OnEnd,
    ) -> io::Result<Arc<Self>> {
        let _entered = executor.enter();
        let (control, theirs) = UnixStream::pair()?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let arena = Arena::create()?;
        let (messages, shared) = ring::create()?;
        let (requests, replies) = ring::node_ends(&shared)?;
        let child = start(program, theirs)?;
        let process = child.as_ref().and_then(Child::id);
        frames::send_files(&control, [wake.as_fd(), arena.fd(), messages.as_fd()])?;
        drop(messages);
        frames::write_frame(&control, &Order::Open(Box::new(open)))?;
        control.set_read_timeout(Some(OPEN_TIMEOUT))?;
        let capabilities = match frames::read_frame::<Answer>(&control)? {
            Some(Answer::Opened {
                backends,
                no_gpus,
                barriers,
                form_folders,
            }) => Capabilities {
                backends,
                no_gpus,
                barriers,
                form_folders,
            },
            Some(_) => return Err(io::Error::other("its first message is invalid")),
            None => return Err(io::Error::other("it ended at its start")),
        };
        control.set_read_timeout(None)?;
        let answers = control.try_clone()?;
        // SAFETY: an `OwnedFd` refers to the same open file until it is dropped.
        let wake = unsafe { AsyncFd::register_with_interest(wake, Interest::READABLE) }?;
        let handle = Arc::new(Self {
            control: Mutex::new(control),
            requests,
            replies,
            wake,
            arena,
            next_id: AtomicU64::new(1),
            state: Mutex::default(),
            outbox: Outbox::default(),
            closed: Notify::new(),
            kill: Notify::new(),
            capabilities,
            process,
            on_end: Mutex::new(Some(on_end)),
            labels: Mutex::default(),
            _scratch: scratch,
        });
        let weak = Arc::downgrade(&handle);
        std::thread::Builder::new()
            .name("engine-answers".into())
            .spawn(move || {
                while let Ok(Some(answer)) = frames::read_frame::<Answer>(&answers) {
                    let Some(handle) = weak.upgrade() else {
                        return;
                    };
                    handle.receive(answer);
                }
                if let Some(handle) = weak.upgrade() {
                    handle.closed.notify_one();
                }
            })?;
        executor.spawn(handle.clone().follow(child));
        Ok(handle)
    }

    fn lock_labels(&self) -> MutexGuard<'_, HashMap<u32, Arc<GraphLabel>>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_on_end(&self) -> MutexGuard<'_, Option<OnEnd>> {
        self.on_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The capabilities that it reported when it started.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Its process ID.
    pub fn process(&self) -> Option<u32> {
        self.process
    }

    /// Whether it has ended and graphs are suspects of that.
    pub fn ended_with_suspects(&self) -> bool {
        let state = self.lock();
        state
            .ended
            .as_ref()
            .is_some_and(|ended| !ended.suspects.is_empty())
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        self.lock().ended.is_none()
    }

    /// Sets the label of the graph with this number.
    pub fn set_label(&self, graph: u32, label: Arc<GraphLabel>) {
        self.lock_labels().insert(graph, label);
    }

    /// The memory shared with it.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Loads a graph. The receiver gets the result.
    pub fn load(&self, load: Load) -> oneshot::Receiver<Result<LoadedHead, LoadFailure>> {
        let (sender, receiver) = oneshot::channel();
        let graph = load.graph;
        {
            let mut state = self.lock();
            if let Some(ended) = &state.ended {
                let _ = sender.send(Err(LoadFailure::Ended(ended.clone())));
                return receiver;
            }
            state.loads.insert(graph, sender);
        }
        // If this fails, the engine has ended, and its end answers.
        let _ = self.order(&Order::Load(load));
        receiver
    }

    /// Bytes that graphs use of each GPU.
    pub fn gpu_memory(&self) -> oneshot::Receiver<Vec<(u32, u64)>> {
        let (sender, receiver) = oneshot::channel();
        let id = self.new_id();
        let mut state = self.lock();
        if state.ended.is_none() {
            state.gpu_memory.insert(id, sender);
            drop(state);
            let _ = self.order(&Order::GpuMemory { id });
        }
        receiver
    }

    /// Unloads a graph.
    pub fn unload(&self, graph: u32) {
        // The label of a running graph is still needed if the run ends the engine.
        let is_running = self.lock().runs.values().any(|run| run.graph == graph);
        if !is_running {
            self.lock_labels().remove(&graph);
        }
        self.post(&Request::Unload { graph });
    }

    /// Drops a tensor in the engine.
    pub fn drop_tensor(&self, tensor: u64) {
        let tensors = vec![tensor];
        self.post(&Request::Drop { tensors });
    }

    /// Starts a run. `on_end` is called with its end, on any thread.
    pub fn run(
        self: &Arc<Self>,
        graph: u32,
        threads: usize,
        length: Length,
        inputs: Vec<Tensor>,
        on_end: OnRunEnd,
    ) -> u64 {
        let run = self.new_id();
        let packed = match self.pack(&inputs) {
            Ok(packed) => packed,
            Err(error) => {
                on_end(RunEnd::Failed(RunError::Failed(error)));
                return run;
            }
        };
        let request = Request::Run {
            run,
            graph,
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            length,
            inputs: packed.heads,
        };
        let mut blocks = packed.blocks;
        let message = wire::encode(&request).and_then(|mut message| {
            message.extend(packed.inline);
            self.move_long_message(message, &mut blocks)
        });
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                on_end(RunEnd::Failed(RunError::Failed(error)));
                return run;
            }
        };
        let mut state = self.lock();
        if let Some(ended) = state.ended.clone() {
            drop(state);
            on_end(RunEnd::Lost { ended, inputs });
            return run;
        }
        for tensor in &inputs {
            if let Some(kept) = RemoteData::of(&tensor.data) {
                kept.record_move(&tensor.data);
            }
        }
        let in_flight = InFlight {
            graph,
            inputs,
            _blocks: blocks,
            on_end,
        };
        state.runs.insert(run, in_flight);
        drop(state);
        self.send(message);
        run
    }

    /// Cancels a run if it has not ended.
    pub fn cancel(&self, run: u64) {
        if self.lock().runs.contains_key(&run) {
            self.post(&Request::Cancel { run });
        }
    }

    /// Whether a run has not ended.
    pub fn is_running(&self, run: u64) -> bool {
        self.lock().runs.contains_key(&run)
    }

    /// Kills the engine, because of a graph or for another reason.
    pub fn kill(&self, reason: EndReason, why: String, graph: Option<u32>) {
        let mut state = self.lock();
        if state.ended.is_none() && state.killed.is_none() {
            state.killed = Some(KillReason { reason, why, graph });
            drop(state);
            self.kill.notify_one();
        }
    }

    /// Ends the engine because it is idle.
    pub fn close(&self) {
        self.lock_on_end().take();
        self.hang_up();
    }

    fn hang_up(&self) {
        let _ = self.lock_control().shutdown(std::net::Shutdown::Both);
    }

    /// Copies the elements of a tensor from the engine.
    pub fn read(&self, tensor: u64, bytes: usize) -> oneshot::Receiver<Result<Vec<u8>, String>> {
        let (sender, receiver) = oneshot::channel();
        let read = self.new_id();
        let block = match self.arena.block(bytes) {
            Ok(block) => block,
            Err(error) => {
                let _ = sender.send(Err(error));
                return receiver;
            }
        };
        let to = block.span();
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            let _ = sender.send(Err(ended.why.clone()));
            return receiver;
        }
        match wire::encode(&Request::Read { read, tensor, to }) {
            Ok(message) => {
                state.reads.insert(read, (block, sender));
                drop(state);
                self.send(message);
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        }
        receiver
    }

    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn order(&self, order: &Order) -> io::Result<()> {
        frames::write_frame(&self.lock_control(), order)
    }

    fn post(&self, request: &Request) {
        if !self.is_alive() {
            return;
        }
        match wire::encode(request) {
            Ok(message) => self.send(message),
            Err(error) => tracing::error!(error, "message to an engine cannot be encoded"),
        }
    }

    /// Sends a message, or queues it for the task that follows the engine if the ring is full. If the engine has ended, that task
    /// completes all pending requests.
    fn send(&self, message: Vec<u8>) {
        let sent = match self.outbox.has_messages.load(Ordering::Acquire) {
            true => Ok(Sent::Full),
            false => self.requests.try_send(&[&message]),
        };
        match sent {
            Ok(Sent::Awake) => {}
            Ok(Sent::Asleep) => self.requests.wake_one(),
            Ok(Sent::Full) => {
                let mut messages = self.outbox.lock();
                messages.push_back(message);
                self.outbox.has_messages.store(true, Ordering::Release);
                drop(messages);
                // There may be room by now, for which the engine would not wake the task again.
                let _ = self.flush();
            }
            Err(error) => {
                let why = format!("its messages are invalid: {error}");
                self.kill(EndReason::InvalidMessage, why, None);
            }
        }
    }

    /// Handles a message from the stream.
    fn receive(&self, answer: Answer) {
        let mut state = self.lock();
        state.last_answer = Some(Instant::now());
        match answer {
            Answer::Loaded { graph, loaded } => {
                if let Some(sender) = state.loads.remove(&graph) {
                    let _ = sender.send(Ok(*loaded));
                }
            }
            Answer::NotLoaded { graph, error } => {
                if let Some(sender) = state.loads.remove(&graph) {
                    let _ = sender.send(Err(LoadFailure::Refused(error)));
                }
            }
            Answer::GpuMemory { id, bytes } => {
                if let Some(sender) = state.gpu_memory.remove(&id) {
                    let _ = sender.send(bytes);
                }
            }
            Answer::Pong { .. } | Answer::Opened { .. } => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_control(&self) -> MutexGuard<'_, UnixStream> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
