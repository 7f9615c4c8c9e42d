//! One engine that runs, as the node sees it: what was asked of it, and what becomes of that when it answers or ends.

mod briefly;
mod follow;
mod packing;
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
use super::arena::{Arena, Part};
use super::history::{EndReason, GraphLabel, Suspect};
use super::kept::KeptAway;
use super::ring::{self, Receiver, Sender, Sent};
use super::wire::{self, Answer, BackendHead, Length, Load, LoadedHead, Open, Order, Request};
use crate::infer::backend::RunError;
use crate::infer::backend::tensor::Tensor;
use crate::process::barrier::Barrier;
use crate::process::frames;
pub(super) use spawn::passed_on;
use spawn::start;

/// How long an engine may take until it has found its backends.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Inputs of a run, and dimensions of each, that the log and events show.
const MAX_SHOWN_INPUTS: usize = 16;

/// An engine, from its start to its end.
pub(super) struct Running {
    control: Mutex<UnixStream>,
    requests: Sender,
    replies: Receiver,
    /// Rung by the engine when the node sleeps and there are replies, or room for requests.
    bell: AsyncFd<OwnedFd>,
    arena: Arc<Arena>,
    next: AtomicU64,
    state: Mutex<State>,
    outbox: Outbox,
    /// Told when the stream has ended.
    gone: Notify,
    kill: Notify,
    opened: Opened,
    process: Option<u32>,
    /// Called with its end, before those who wait are told.
    told: Mutex<Option<Told>>,
    /// Its graphs, by their numbers.
    labels: Mutex<HashMap<u32, Arc<GraphLabel>>>,
    /// The folder that it may write to, which goes with it.
    _scratch: Option<TempDir>,
}

/// Who hears of an engine's end first.
pub(super) type Told = Box<dyn FnOnce(&Ended, Vec<Suspect>) + Send>;

/// What an engine said of itself when it began.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened {
    pub backends: Vec<BackendHead>,
    pub no_cards: Option<String>,
    pub barriers: Vec<Barrier>,
    /// The folders in which its backends look for models in their quickest form, by the backends' names.
    pub kept_forms: Vec<(String, String)>,
}

#[derive(Default)]
struct State {
    ended: Option<Arc<Ended>>,
    /// Why it is being killed, and on account of which graph.
    sentence: Option<Sentence>,
    runs: HashMap<u64, InFlight>,
    reads: HashMap<u64, Reading>,
    loads: HashMap<u32, oneshot::Sender<Result<LoadedHead, LoadFailure>>>,
    asked: HashMap<u64, oneshot::Sender<Vec<(u32, u64)>>>,
    sign_of_life: Option<Instant>,
    /// How often the kernel had killed a process for want of memory when the engine was last looked at.
    oom_kills: Option<u64>,
}

/// Requests that the ring had no room for.
#[derive(Default)]
struct Outbox {
    is_used: AtomicBool,
    messages: Mutex<VecDeque<Vec<u8>>>,
}

/// Elements that are to be copied into a part of the arena, and who waits for them.
type Reading = (Part, oneshot::Sender<Result<Vec<u8>, String>>);

/// Why an engine is killed, and on account of which graph.
#[derive(Clone, Debug)]
struct Sentence {
    reason: EndReason,
    why: String,
    graph: Option<u32>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        // A queue of messages is whole at every instant.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The graphs that run or load, by their numbers, but for those of these runs.
    fn busy(&self, untaken: &HashSet<u64>) -> Vec<u32> {
        let running = self.runs.iter().filter(|(run, _)| !untaken.contains(run));
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
    /// For programs.
    pub reason: EndReason,
    /// For people.
    pub why: String,
    /// Its process.
    pub process: Option<u32>,
    /// The graphs that may have brought it about, by their numbers.
    pub suspects: Vec<u32>,
}

/// Why a graph was not loaded.
#[derive(Clone, Debug)]
pub(super) enum LoadFailure {
    /// The backend does not take it.
    Refused(String),
    /// The engine ended meanwhile.
    Ended(Arc<Ended>),
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub time: Duration,
    /// Memory, where it was measured.
    pub peak_bytes: u64,
}

/// How a run ended.
pub(super) enum RunEnd {
    /// What it gave, and what the backend took by the engine's word.
    Ran(Vec<Tensor>, Took),
    Failed(RunError),
    /// The engine ended; these are the inputs, which nobody has used up.
    Lost {
        ended: Arc<Ended>,
        inputs: Vec<Tensor>,
    },
}

impl InFlight {
    /// Type and shape of each input, as far as there is room for them.
    fn shapes(&self) -> Vec<String> {
        let inputs = self.inputs.iter().take(MAX_SHOWN_INPUTS);
        let inputs = inputs.map(|tensor| {
            let dims = &tensor.dims[..tensor.dims.len().min(MAX_SHOWN_INPUTS)];
            format!("{} {dims:?}", tensor.ty)
        });
        inputs.collect()
    }
}

/// What is done with the end of a run.
pub(super) type Done = Box<dyn FnOnce(RunEnd) + Send>;

struct InFlight {
    graph: u32,
    inputs: Vec<Tensor>,
    /// Where the elements of large inputs are.
    _parts: Vec<Part>,
    done: Done,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {:?}", self.process)
    }
}

impl Running {
    /// Starts an engine and waits until it has found its backends. Its tasks run on the executor of the thread that calls.
    ///
    /// # Errors
    /// When it cannot be started, or does not begin as an engine does.
    pub fn start(
        executor: &Handle,
        program: &Program,
        open: Open,
        scratch: Option<TempDir>,
        told: Told,
    ) -> io::Result<Arc<Self>> {
        let _entered = executor.enter();
        let (control, theirs) = UnixStream::pair()?;
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let arena = Arena::create()?;
        let (messages, shared) = ring::create()?;
        let (requests, replies) = ring::of_node(&shared)?;
        let child = start(program, theirs)?;
        let process = child.as_ref().and_then(Child::id);
        frames::send_files(&control, [bell.as_fd(), arena.fd(), messages.as_fd()])?;
        drop(messages);
        frames::write_frame(&control, &Order::Open(Box::new(open)))?;
        control.set_read_timeout(Some(OPEN_TIMEOUT))?;
        let opened = match frames::read_frame::<Answer>(&control)? {
            Some(Answer::Opened {
                backends,
                no_cards,
                barriers,
                kept_forms,
            }) => Opened {
                backends,
                no_cards,
                barriers,
                kept_forms,
            },
            Some(_) => return Err(io::Error::other("its first answer is none to open")),
            None => return Err(io::Error::other("it ended at once")),
        };
        control.set_read_timeout(None)?;
        let answers = control.try_clone()?;
        // SAFETY: an `OwnedFd` is open, and the same file, for as long as it is there.
        let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
        let running = Arc::new(Self {
            control: Mutex::new(control),
            requests,
            replies,
            bell,
            arena,
            next: AtomicU64::new(1),
            state: Mutex::default(),
            outbox: Outbox::default(),
            gone: Notify::new(),
            kill: Notify::new(),
            opened,
            process,
            told: Mutex::new(Some(told)),
            labels: Mutex::default(),
            _scratch: scratch,
        });
        let weak = Arc::downgrade(&running);
        std::thread::Builder::new()
            .name("engine-answers".into())
            .spawn(move || {
                while let Ok(Some(answer)) = frames::read_frame::<Answer>(&answers) {
                    let Some(running) = weak.upgrade() else {
                        return;
                    };
                    running.hear(answer);
                }
                if let Some(running) = weak.upgrade() {
                    running.gone.notify_one();
                }
            })?;
        executor.spawn(running.clone().follow(child));
        Ok(running)
    }

    fn lock_labels(&self) -> MutexGuard<'_, HashMap<u32, Arc<GraphLabel>>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_told(&self) -> MutexGuard<'_, Option<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it said of itself.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Its process.
    pub fn process(&self) -> Option<u32> {
        self.process
    }

    /// Whether it has ended, and graphs are blamed for that.
    pub fn ended_with_suspects(&self) -> bool {
        let state = self.lock();
        state
            .ended
            .as_ref()
            .is_some_and(|ended| !ended.suspects.is_empty())
    }

    /// Whether it has not ended.
    pub fn is_there(&self) -> bool {
        self.lock().ended.is_none()
    }

    /// Notes which graph will be loaded under a number.
    pub fn name(&self, graph: u32, label: Arc<GraphLabel>) {
        self.lock_labels().insert(graph, label);
    }

    /// Memory to share with it.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Loads a graph; the answer comes when it has, or has not.
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
        // Should it fail, the engine is gone, and its end answers.
        let _ = self.order(&Order::Load(load));
        receiver
    }

    /// Bytes that graphs take of each card.
    pub fn used_of_cards(&self) -> oneshot::Receiver<Vec<(u32, u64)>> {
        let (sender, receiver) = oneshot::channel();
        let asked = self.number();
        let mut state = self.lock();
        if state.ended.is_none() {
            state.asked.insert(asked, sender);
            drop(state);
            let _ = self.order(&Order::UsedOfCards { asked });
        }
        receiver
    }

    /// Drops a graph.
    pub fn unload(&self, graph: u32) {
        // A graph whose run goes on may yet end the engine, and is blamed for that by its label.
        let is_running = self.lock().runs.values().any(|run| run.graph == graph);
        if !is_running {
            self.lock_labels().remove(&graph);
        }
        self.post(&Request::Unload { graph });
    }

    /// Drops a tensor that stayed.
    pub fn forget(&self, tensor: u64) {
        let tensors = vec![tensor];
        self.post(&Request::Drop { tensors });
    }

    /// Begins a run; `done` gets its end, on whatever thread that comes.
    pub fn run(
        self: &Arc<Self>,
        graph: u32,
        threads: usize,
        length: Length,
        inputs: Vec<Tensor>,
        done: Done,
    ) -> u64 {
        let run = self.number();
        let packed = match self.pack(&inputs) {
            Ok(packed) => packed,
            Err(error) => {
                done(RunEnd::Failed(RunError::Failed(error)));
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
        let mut parts = packed.parts;
        let message = wire::encode(&request).and_then(|mut message| {
            message.extend(packed.behind);
            self.shortened(message, &mut parts)
        });
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                done(RunEnd::Failed(RunError::Failed(error)));
                return run;
            }
        };
        let mut state = self.lock();
        if let Some(ended) = state.ended.clone() {
            drop(state);
            done(RunEnd::Lost { ended, inputs });
            return run;
        }
        for tensor in &inputs {
            if let Some(kept) = KeptAway::of(&tensor.data) {
                kept.note_then(&tensor.data);
            }
        }
        let in_flight = InFlight {
            graph,
            inputs,
            _parts: parts,
            done,
        };
        state.runs.insert(run, in_flight);
        drop(state);
        self.send(message);
        run
    }

    /// Ends a run that nobody waits for any more, if it goes on.
    pub fn stop(&self, run: u64) {
        if self.lock().runs.contains_key(&run) {
            self.post(&Request::Stop { run });
        }
    }

    /// Whether a run goes on.
    pub fn is_running(&self, run: u64) -> bool {
        self.lock().runs.contains_key(&run)
    }

    /// Ends the engine, on account of a graph or of none.
    pub fn kill(&self, reason: EndReason, why: String, graph: Option<u32>) {
        let mut state = self.lock();
        if state.ended.is_none() && state.sentence.is_none() {
            state.sentence = Some(Sentence { reason, why, graph });
            drop(state);
            self.kill.notify_one();
        }
    }

    /// Ends the engine because nobody needs it.
    pub fn close(&self) {
        self.lock_told().take();
        self.hang_up();
    }

    fn hang_up(&self) {
        let _ = self.lock_control().shutdown(std::net::Shutdown::Both);
    }

    /// Copies the elements of a tensor that stayed.
    pub fn read(&self, tensor: u64, bytes: usize) -> oneshot::Receiver<Result<Vec<u8>, String>> {
        let (sender, receiver) = oneshot::channel();
        let read = self.number();
        let part = match self.arena.part(bytes) {
            Ok(part) => part,
            Err(error) => {
                let _ = sender.send(Err(error));
                return receiver;
            }
        };
        let to = part.span();
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            let _ = sender.send(Err(ended.why.clone()));
            return receiver;
        }
        match wire::encode(&Request::Read { read, tensor, to }) {
            Ok(message) => {
                state.reads.insert(read, (part, sender));
                drop(state);
                self.send(message);
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        }
        receiver
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn order(&self, order: &Order) -> io::Result<()> {
        frames::write_frame(&self.lock_control(), order)
    }

    fn post(&self, request: &Request) {
        if !self.is_there() {
            return;
        }
        match wire::encode(request) {
            Ok(message) => self.send(message),
            Err(error) => tracing::error!(error, "a message to an engine cannot be written"),
        }
    }

    /// Sends a message, or leaves it to the task that follows the engine when there is no room for it now. Of one that has
    /// ended, that task tells everybody who waits.
    fn send(&self, message: Vec<u8>) {
        let sent = match self.outbox.is_used.load(Ordering::Acquire) {
            true => Ok(Sent::Full),
            false => self.requests.try_send(&[&message]),
        };
        match sent {
            Ok(Sent::Awake) => {}
            Ok(Sent::Asleep) => self.requests.wake_one(),
            Ok(Sent::Full) => {
                let mut messages = self.outbox.lock();
                messages.push_back(message);
                self.outbox.is_used.store(true, Ordering::Release);
                drop(messages);
                // There may be room by now, of which nobody would tell again.
                let _ = self.flush();
            }
            Err(error) => {
                let why = format!("its messages are wrong: {error}");
                self.kill(EndReason::InvalidMessage, why, None);
            }
        }
    }

    /// Hears what the engine says in frames.
    fn hear(&self, answer: Answer) {
        let mut state = self.lock();
        state.sign_of_life = Some(Instant::now());
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
            Answer::UsedOfCards { asked, bytes } => {
                if let Some(sender) = state.asked.remove(&asked) {
                    let _ = sender.send(bytes);
                }
            }
            Answer::Pong { .. } | Answer::Opened { .. } => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What waits is put in and taken out in single steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_control(&self) -> MutexGuard<'_, UnixStream> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
