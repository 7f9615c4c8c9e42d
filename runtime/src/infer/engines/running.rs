//! One engine that runs, as the node sees it: what was asked of it, and what becomes of that when it answers or ends.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use super::Program;
use super::arena::{Arena, Part};
use super::kept::KeptAway;
use super::socket::{self, Sent};
use super::wire::{
    self, Answer, BackendHead, Elements, Failure, Head, Load, LoadedHead, MAX_INLINE_BYTES,
    MAX_INLINE_TOTAL_BYTES, MAX_MESSAGE_BYTES, Open, Order, Reply, Request,
};
use crate::infer::backend::RunError;
use crate::infer::backend::tensor::{Data, Tensor};
use crate::text::bounded;

/// How long an engine may take until it has found its backends.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an engine whose socket is closed has until it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is asked for a sign of life, and how long it may be without one.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Variables that an engine gets: none that could hold a secret.
const VARIABLES: [&str; 8] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "SAMOVAR_LOG",
    "RUST_BACKTRACE",
    "HOME",
    "TZ",
    "LANG",
    "ORT_DISABLE_TELEMETRY",
];

/// Inputs of a run, and dimensions of each, that the log shows.
const MAX_LOGGED_INPUTS: usize = 16;

/// Variables of the graphics drivers begin so.
const CARD_VARIABLES: [&str; 2] = ["CUDA_", "NVIDIA_"];

/// An engine, from its start to its end.
pub(super) struct Running {
    control: Mutex<UnixStream>,
    runs: AsyncFd<OwnedFd>,
    arena: Arc<Arena>,
    next: AtomicU64,
    state: Mutex<State>,
    /// Told when there is something in the outbox.
    posted: Notify,
    kill: Notify,
    opened: Opened,
    process: Option<u32>,
    /// Called with its end, before those who wait are told.
    told: Mutex<Option<Told>>,
    /// Names and keys of its graphs, by their numbers.
    names: Mutex<HashMap<u32, (String, String)>>,
}

/// Who hears of an engine's end first.
pub(super) type Told = Box<dyn FnOnce(&Ended, &[(String, String)]) + Send>;

/// What an engine said of itself when it began.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened {
    pub backends: Vec<BackendHead>,
    pub no_cards: Option<String>,
    pub confined_by: Vec<String>,
}

#[derive(Default)]
struct State {
    ended: Option<Arc<Ended>>,
    /// Why it is being killed, and on account of which graph.
    sentence: Option<Sentence>,
    runs: HashMap<u64, InFlight>,
    reads: HashMap<u64, (Part, oneshot::Sender<Result<Vec<u8>, String>>)>,
    loads: HashMap<u32, oneshot::Sender<Result<LoadedHead, LoadFailure>>>,
    asked: HashMap<u64, oneshot::Sender<Vec<(u32, u64)>>>,
    /// Messages that the socket had no room for.
    outbox: VecDeque<Vec<u8>>,
    sign_of_life: Option<Instant>,
}

/// Why an engine is killed, and on account of which graph.
#[derive(Clone, Debug)]
struct Sentence {
    why: String,
    graph: Option<u32>,
}

impl State {
    /// The graphs that run or load, by their numbers.
    fn busy(&self) -> Vec<u32> {
        let running = self.runs.values().map(|run| run.graph);
        let mut busy: Vec<u32> = running.chain(self.loads.keys().copied()).collect();
        busy.sort_unstable();
        busy.dedup();
        busy
    }
}

/// How an engine ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
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

/// How a run ended.
pub(super) enum RunEnd {
    Ran(Vec<Tensor>),
    Failed(RunError),
    /// The engine ended; these are the inputs, which nobody has used up.
    Lost {
        ended: Arc<Ended>,
        inputs: Vec<Tensor>,
    },
}

impl InFlight {
    fn log_shapes(&self) {
        let inputs = self.inputs.iter().take(MAX_LOGGED_INPUTS);
        let inputs = inputs.map(|tensor| {
            let dims = &tensor.dims[..tensor.dims.len().min(MAX_LOGGED_INPUTS)];
            format!("{} {dims:?}", tensor.ty)
        });
        let inputs: Vec<_> = inputs.collect();
        tracing::warn!(
            graph = self.graph,
            inputs = inputs.join(", "),
            "it ran when its engine ended"
        );
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
        told: Told,
    ) -> io::Result<Arc<Self>> {
        let _entered = executor.enter();
        let (control, theirs) = UnixStream::pair()?;
        let (runs, their_runs) = socket::messages()?;
        let arena = Arena::create()?;
        let child = start(program, theirs)?;
        let process = child.as_ref().and_then(Child::id);
        socket::send_files(&control, [their_runs.as_fd(), arena.fd()])?;
        drop(their_runs);
        socket::write_frame(&control, &Order::Open(Box::new(open)))?;
        control.set_read_timeout(Some(OPEN_TIMEOUT))?;
        let opened = match socket::read_frame::<Answer>(&control)? {
            Some(Answer::Opened {
                backends,
                no_cards,
                confined_by,
            }) => Opened {
                backends,
                no_cards,
                confined_by,
            },
            Some(_) => return Err(io::Error::other("its first answer is none to open")),
            None => return Err(io::Error::other("it ended at once")),
        };
        control.set_read_timeout(None)?;
        rustix::io::ioctl_fionbio(&runs, true)?;
        let answers = control.try_clone()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: an `OwnedFd` is open, and the same file, for as long as it is there.
        let runs = unsafe { AsyncFd::register_with_interest(runs, interest) }?;
        let running = Arc::new(Self {
            control: Mutex::new(control),
            runs,
            arena,
            next: AtomicU64::new(1),
            state: Mutex::default(),
            posted: Notify::new(),
            kill: Notify::new(),
            opened,
            process,
            told: Mutex::new(Some(told)),
            names: Mutex::default(),
        });
        let weak = Arc::downgrade(&running);
        std::thread::Builder::new()
            .name("engine-answers".into())
            .spawn(move || {
                while let Ok(Some(answer)) = socket::read_frame::<Answer>(&answers) {
                    let Some(running) = weak.upgrade() else {
                        return;
                    };
                    running.hear(answer);
                }
            })?;
        executor.spawn(running.clone().follow(child));
        Ok(running)
    }

    fn lock_names(&self) -> MutexGuard<'_, HashMap<u32, (String, String)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether it has not ended.
    pub fn is_there(&self) -> bool {
        self.lock().ended.is_none()
    }

    /// Notes under which name and key a graph will be loaded.
    pub fn name(&self, graph: u32, name: &str, key: &str) {
        let names = (name.to_owned(), key.to_owned());
        self.lock_names().insert(graph, names);
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
        self.lock_names().remove(&graph);
        self.post(&Request::Unload { graph }, &[]);
    }

    /// Drops a tensor that stayed.
    pub fn forget(&self, tensor: u64) {
        let tensors = vec![tensor];
        self.post(&Request::Drop { tensors }, &[]);
    }

    /// Begins a run; `done` gets its end, on whatever thread that comes.
    pub fn run(
        self: &Arc<Self>,
        graph: u32,
        threads: usize,
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
            inputs: packed.heads,
        };
        // The message is made while the inputs are here, and sent when the run is known.
        let message = message(&request, &inputs, &packed.inline);
        let mut parts = packed.parts;
        let given_away = || {
            for tensor in &inputs {
                if let Some(kept) = KeptAway::of(&tensor.data) {
                    kept.note_then(&tensor.data);
                }
            }
        };
        let message = message.and_then(|message| self.shortened(message, &mut parts));
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
        given_away();
        let in_flight = InFlight {
            graph,
            inputs,
            _parts: parts,
            done,
        };
        state.runs.insert(run, in_flight);
        self.send(state, message);
        run
    }

    /// Ends a run that nobody waits for any more, if it goes on.
    pub fn stop(&self, run: u64) {
        if self.lock().runs.contains_key(&run) {
            self.post(&Request::Stop { run }, &[]);
        }
    }

    /// Whether a run goes on.
    pub fn is_running(&self, run: u64) -> bool {
        self.lock().runs.contains_key(&run)
    }

    /// Ends the engine, on account of a graph or of none.
    pub fn kill(&self, why: String, graph: Option<u32>) {
        let mut state = self.lock();
        if state.ended.is_none() && state.sentence.is_none() {
            state.sentence = Some(Sentence { why, graph });
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
        state.reads.insert(read, (part, sender));
        match wire::encode(&Request::Read { read, tensor, to }) {
            Ok(message) => self.send(state, message),
            Err(error) => {
                if let Some((_, sender)) = state.reads.remove(&read) {
                    let _ = sender.send(Err(error));
                }
            }
        }
        receiver
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn order(&self, order: &Order) -> io::Result<()> {
        socket::write_frame(&self.lock_control(), order)
    }

    fn post(&self, request: &Request, behind: &[u8]) {
        let state = self.lock();
        if state.ended.is_some() {
            return;
        }
        match wire::encode(request) {
            Ok(mut message) => {
                message.extend(behind);
                self.send(state, message);
            }
            Err(error) => tracing::error!(error, "a message to an engine cannot be written"),
        }
    }

    /// Sends a message, or leaves it to the task that follows the engine when there is no room for it now.
    fn send(&self, mut state: MutexGuard<'_, State>, message: Vec<u8>) {
        let is_first = state.outbox.is_empty();
        let sent = match is_first {
            true => socket::try_send(self.runs.get_ref(), &[IoSlice::new(&message)]),
            false => Ok(Sent::Full),
        };
        match sent {
            Ok(Sent::Sent) => {}
            Ok(Sent::Full) => {
                state.outbox.push_back(message);
                drop(state);
                self.posted.notify_one();
            }
            // It is gone, which the task that follows it tells everybody.
            Err(_) => {}
        }
    }

    fn pack(self: &Arc<Self>, inputs: &[Tensor]) -> Result<Packed, String> {
        let mut room = MAX_INLINE_TOTAL_BYTES;
        let mut packed = Packed::default();
        for (at, tensor) in inputs.iter().enumerate() {
            let elements = match KeptAway::of(&tensor.data) {
                Some(kept) if kept.is_in(self) => Elements::Held {
                    tensor: kept.number(),
                    then: kept.then(&tensor.data),
                },
                _ if tensor.is_absent() => Elements::Absent,
                _ => {
                    let bytes = tensor.data.read()?;
                    if bytes.len() <= MAX_INLINE_BYTES.min(room) {
                        room -= bytes.len();
                        packed.inline.push(at);
                        Elements::Inline(bytes.len() as u32)
                    } else {
                        let part = self.arena.part_of(&bytes)?;
                        let span = part.span();
                        packed.parts.push(part);
                        Elements::Arena(span)
                    }
                }
            };
            packed.heads.push(Head {
                ty: tensor.ty,
                dims: tensor.dims.clone(),
                elements,
            });
        }
        Ok(packed)
    }

    /// The message, or, when it is too long for the socket, one that says where in the arena it is.
    fn shortened(&self, message: Vec<u8>, parts: &mut Vec<Part>) -> Result<Vec<u8>, String> {
        if message.len() <= MAX_MESSAGE_BYTES {
            return Ok(message);
        }
        let part = self.arena.part_of(&message)?;
        let short = wire::encode(&Request::Long(part.span()));
        parts.push(part);
        short
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

    /// Follows the engine to its end, and tells everybody who waits.
    async fn follow(self: Arc<Self>, mut child: Option<Child>) {
        let mut pings = tokio::time::interval(PING_EVERY);
        self.lock().sign_of_life = Some(Instant::now());
        let killed = loop {
            tokio::select! {
                went = self.serve_socket() => match went {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::debug!(%error, "an engine's socket is closed");
                        break None;
                    }
                },
                () = self.kill.notified() => break self.lock().sentence.clone(),
                _ = pings.tick() => {
                    if let Some(why) = self.check_life() {
                        break Some(Sentence { why, graph: None });
                    }
                }
            }
        };
        if killed.is_some() {
            self.hang_up();
            if let Some(child) = &mut child {
                let _ = child.start_kill();
            }
        }
        let status = match &mut child {
            None => None,
            Some(child) => match tokio::time::timeout(EXIT_TIMEOUT, child.wait()).await {
                Ok(status) => status.ok(),
                Err(_) => {
                    let _ = child.kill().await;
                    child.wait().await.ok()
                }
            },
        };
        self.end(killed, status);
    }

    /// Notes the end, and tells everybody who waits.
    fn end(&self, killed: Option<Sentence>, status: Option<std::process::ExitStatus>) {
        let (ended, state) = {
            let mut state = self.lock();
            let suspects = match &killed {
                Some(Sentence {
                    graph: Some(graph), ..
                }) => vec![*graph],
                _ => state.busy(),
            };
            let why = match (killed, status) {
                (Some(sentence), _) => sentence.why,
                (None, Some(status)) => match status.signal() {
                    Some(signal) => format!("it was killed by {}", signal_name(signal)),
                    None => format!("it ended with {status}"),
                },
                (None, None) => "it ended".into(),
            };
            let ended = Arc::new(Ended {
                why,
                suspects,
                process: self.process,
            });
            let after = State {
                ended: Some(ended.clone()),
                ..State::default()
            };
            (ended, std::mem::replace(&mut *state, after))
        };
        if let Some(told) = self.lock_told().take() {
            let names = self.lock_names();
            let suspects = ended.suspects.iter().filter_map(|graph| names.get(graph));
            let suspects: Vec<_> = suspects.cloned().collect();
            drop(names);
            told(&ended, &suspects);
        }
        for (_, run) in state.runs {
            if ended.suspects.contains(&run.graph) {
                run.log_shapes();
            }
            (run.done)(RunEnd::Lost {
                ended: ended.clone(),
                inputs: run.inputs,
            });
        }
        for (_, sender) in state.loads {
            let _ = sender.send(Err(LoadFailure::Ended(ended.clone())));
        }
        for (_, (_, sender)) in state.reads {
            let _ = sender.send(Err(ended.why.clone()));
        }
    }

    /// Why the engine counts as dead though its process is there, if it does; asks for the next sign of life otherwise.
    fn check_life(&self) -> Option<String> {
        let last = self.lock().sign_of_life;
        if last.is_some_and(|last| last.elapsed() > PING_TIMEOUT) {
            return Some(format!("it gave no sign of life for {PING_TIMEOUT:?}"));
        }
        let asked = self.number();
        // Never waits: so few bytes are on their way, unless nobody reads them, which is noticed above.
        if let Ok(control) = self.control.try_lock() {
            let _ = socket::write_frame(&control, &Order::Ping { asked });
        }
        None
    }

    /// Takes the replies that have come and sends what waits, once.
    async fn serve_socket(self: &Arc<Self>) -> io::Result<()> {
        let wants_to_write = !self.lock().outbox.is_empty();
        let interest = match wants_to_write {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        let mut guard = tokio::select! {
            guard = self.runs.ready(interest) => guard?,
            () = self.posted.notified(), if !wants_to_write => return Ok(()),
        };
        let ready = guard.ready();
        if ready.is_readable() && !self.take_replies()? {
            guard.clear_ready_matching(Ready::READABLE);
        }
        if wants_to_write && ready.is_writable() && !self.flush()? {
            guard.clear_ready_matching(Ready::WRITABLE);
        }
        Ok(())
    }

    /// Takes replies; whether there may be more.
    fn take_replies(self: &Arc<Self>) -> io::Result<bool> {
        // So that a busy engine does not keep the executor's thread.
        const AT_ONCE: usize = 64;
        thread_local! {
            static BUFFER: std::cell::RefCell<Box<[u8; MAX_MESSAGE_BYTES]>> =
                std::cell::RefCell::new(Box::new([0; MAX_MESSAGE_BYTES]));
        }
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..AT_ONCE {
                match socket::receive(self.runs.get_ref(), buffer, RecvFlags::DONTWAIT) {
                    Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(message) => self.take_reply(message),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            Ok(true)
        })
    }

    fn take_reply(self: &Arc<Self>, message: &[u8]) {
        let (reply, behind) = match wire::decode::<Reply>(message) {
            Ok(read) => read,
            Err(error) => return tracing::error!(error, "a reply of an engine is left out"),
        };
        match reply {
            Reply::Ran { run, outputs } => {
                let Some(in_flight) = self.lock().runs.remove(&run) else {
                    return;
                };
                let end = match self.unpack(outputs, behind) {
                    Ok(outputs) => RunEnd::Ran(outputs),
                    Err(error) => RunEnd::Failed(RunError::Failed(error)),
                };
                (in_flight.done)(end);
            }
            Reply::Failed { run, failure } => {
                let Some(in_flight) = self.lock().runs.remove(&run) else {
                    return;
                };
                let error = match failure {
                    Failure::Inputs(text) => RunError::Inputs(bounded(text)),
                    Failure::Backend(text) => RunError::Failed(bounded(text)),
                };
                (in_flight.done)(RunEnd::Failed(error));
            }
            Reply::Read { read, error } => {
                let Some((part, sender)) = self.lock().reads.remove(&read) else {
                    return;
                };
                let read = match error {
                    None => part.copy(),
                    Some(error) => Err(bounded(error)),
                };
                let _ = sender.send(read);
            }
        }
    }

    /// Outputs as the node has them, checked: an engine may say anything.
    fn unpack(
        self: &Arc<Self>,
        heads: Vec<Head>,
        mut behind: &[u8],
    ) -> Result<Vec<Tensor>, String> {
        let mut outputs = Vec::with_capacity(heads.len());
        for (at, head) in heads.into_iter().enumerate() {
            let wrong = |what: &dyn fmt::Display| format!("output {at} of an engine: {what}");
            let mut tensor = Tensor {
                ty: head.ty,
                dims: head.dims,
                data: Data::Absent,
            };
            let wanted = tensor
                .wanted_bytes()
                .ok_or_else(|| wrong(&"larger than memory"))?;
            let found = match &head.elements {
                Elements::Inline(bytes) => *bytes as usize,
                Elements::Stays { bytes, .. } => usize::try_from(*bytes).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            if found != wanted {
                return Err(wrong(&format_args!(
                    "found {found} bytes, its shape wants {wanted}"
                )));
            }
            tensor.data = match head.elements {
                Elements::Stays {
                    tensor,
                    bytes,
                    place,
                } => Data::Kept(Arc::new(KeptAway::new(
                    self.clone(),
                    tensor,
                    usize::try_from(bytes).unwrap_or(usize::MAX),
                    place,
                ))),
                _ => {
                    let (own, rest) = behind
                        .split_at_checked(wanted)
                        .ok_or_else(|| wrong(&"its elements are missing"))?;
                    behind = rest;
                    Data::Bytes(own.to_vec())
                }
            };
            outputs.push(tensor);
        }
        Ok(outputs)
    }

    /// Sends what waits; whether there may be room for more.
    fn flush(&self) -> io::Result<bool> {
        let mut state = self.lock();
        while let Some(message) = state.outbox.front() {
            match socket::try_send(self.runs.get_ref(), &[IoSlice::new(message)])? {
                Sent::Sent => drop(state.outbox.pop_front()),
                Sent::Full => return Ok(false),
            }
        }
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What waits is put in and taken out in single steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_control(&self) -> MutexGuard<'_, UnixStream> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Packed {
    heads: Vec<Head>,
    /// The inputs whose elements go behind the message.
    inline: Vec<usize>,
    parts: Vec<Part>,
}

fn message(request: &Request, inputs: &[Tensor], inline: &[usize]) -> Result<Vec<u8>, String> {
    let mut message = wire::encode(request)?;
    for at in inline {
        if let Some(tensor) = inputs.get(*at) {
            message.extend_from_slice(&tensor.data.read()?);
        }
    }
    Ok(message)
}

/// Starts the program with its end of the stream as standard input.
fn start(program: &Program, theirs: UnixStream) -> io::Result<Option<Child>> {
    match program {
        Program::Process(path) => {
            let mut command = Command::new(path);
            command
                .arg("engine")
                .env_clear()
                .envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)))
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                // Ctrl-C is for the node, which lets runs end first.
                .process_group(0)
                .kill_on_drop(true);
            command.spawn().map(Some)
        }
        #[cfg(test)]
        Program::Thread => {
            std::thread::Builder::new().spawn(move || super::serve::serve(theirs))?;
            Ok(None)
        }
    }
}

/// Whether an engine gets this variable.
fn is_passed_on(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    VARIABLES.contains(&&*name) || CARD_VARIABLES.iter().any(|begin| name.starts_with(begin))
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGFPE => "SIGFPE",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    name.into()
}
