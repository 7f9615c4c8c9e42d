//! Dispatches runs to compute threads: each waits for its permits, then for a thread of its group.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, spawn};
use super::{ComputeError, Worker, guarded};
use crate::permits::{FairPermits, Owner, Ticket};

type Work = Box<dyn FnOnce(&Worker) + Send>;

/// What happens once the permits are granted.
pub(super) enum Job {
    /// Run on a thread of this process.
    Local(Work),
    /// Send the permits to a run elsewhere.
    Remote(oneshot::Sender<Permit>),
}

/// The permits of a run elsewhere. Dropping this releases them.
pub(crate) struct Permit {
    /// `None` if the permits were released already.
    dispatcher: Option<Arc<Dispatcher>>,
    run: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(dispatcher) = self.dispatcher.take() else {
            return;
        };
        let mut state = dispatcher.lock();
        state.permits.release(self.run);
        let failed = dispatcher.dispatch(&mut state);
        drop(state);
        failed.log();
    }
}

/// How often the monitor checks for long runs while others wait.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The permits, the runs that wait for them, and the threads that run them.
pub(super) struct Dispatcher {
    cores: usize,
    /// Whether runs wait for permits.
    contended: Arc<AtomicBool>,
    state: Mutex<State>,
    /// Wakes the monitor.
    monitor_wake: Condvar,
}

/// The state under the lock.
pub(super) struct State {
    pub permits: FairPermits<Job>,
    /// By the number of threads of their graphs.
    pub groups: HashMap<usize, WorkerGroup>,
    monitor: Monitor,
}

/// The thread that marks long runs while others wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Monitor {
    NotStarted,
    Asleep,
    Awake,
}

/// The threads for graphs with one number of threads. There are never more of them than such runs can have permits at once.
#[derive(Default)]
pub(super) struct WorkerGroup {
    /// Runs that have permits but no thread yet, by their ids.
    ready: VecDeque<(u64, Work)>,
    /// Threads without a run, including those that are about to take one and those that start.
    pub idle: usize,
    /// Idle threads that sleep.
    asleep: usize,
    wake: Arc<Condvar>,
}

/// Runs that have permits but got no thread. Dropped outside the lock, which makes their callers fail.
#[must_use]
#[derive(Default)]
struct FailedStarts {
    jobs: Vec<(u64, Work)>,
    error: Option<std::io::Error>,
}

impl FailedStarts {
    fn log(&self) {
        if let Some(error) = &self.error {
            let runs = self.jobs.len();
            tracing::error!(%error, runs, "compute thread failed to start");
        }
    }
}

/// A run that its caller waits for. Dropping this cancels the run unless it has grant.
pub(super) struct PendingRun<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    ticket: Option<Ticket>,
}

impl PendingRun<'_> {
    /// Marks the run as ended: its result has arrived.
    pub fn mark_ended(&mut self) {
        self.ticket = None;
    }
}

impl Drop for PendingRun<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else {
            return;
        };
        let mut state = self.dispatcher.lock();
        let job = state.permits.cancel(ticket);
        // Runs behind it may begin now.
        let failed = self.dispatcher.dispatch(&mut state);
        drop(state);
        failed.log();
        // Dropped without the lock: the inputs are large, and dropping them can run any code.
        drop(job);
    }
}

impl Dispatcher {
    pub fn new(cores: usize) -> Arc<Self> {
        let state = State {
            permits: FairPermits::new(cores),
            groups: HashMap::new(),
            monitor: Monitor::NotStarted,
        };
        Arc::new(Self {
            cores,
            contended: Arc::default(),
            state: Mutex::new(state),
            monitor_wake: Condvar::new(),
        })
    }

    /// Submits `job` for a caller that waits for its result. If the caller has gone by then, the result goes to `unclaimed`.
    pub fn submit<R: Send + 'static>(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
        unclaimed: impl FnOnce(R) + Send + 'static,
    ) -> Result<(PendingRun<'_>, oneshot::Receiver<Result<R, ComputeError>>), ComputeError> {
        let (done, result) = oneshot::channel();
        let ticket = self.submit_detached(owner, threads, move |worker| {
            if done.is_closed() {
                return;
            }
            if let Err(Ok(result)) = done.send(guarded(|| job(worker))) {
                unclaimed(result);
            }
        })?;
        let pending = PendingRun {
            dispatcher: self,
            ticket: Some(ticket),
        };
        Ok((pending, result))
    }

    /// Requests permits for a run elsewhere.
    pub fn request_permit(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
    ) -> Result<(PendingRun<'_>, oneshot::Receiver<Permit>), ComputeError> {
        let (sender, permit) = oneshot::channel();
        let ticket = self.enqueue(owner, threads, Job::Remote(sender))?;
        let pending = PendingRun {
            dispatcher: self,
            ticket: Some(ticket),
        };
        Ok((pending, permit))
    }

    /// Submits `job`, whose result no caller waits for.
    pub fn submit_detached(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<Ticket, ComputeError> {
        self.enqueue(owner, threads, Job::Local(Box::new(job)))
    }

    fn enqueue(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
        job: Job,
    ) -> Result<Ticket, ComputeError> {
        let threads = self.clamp_threads(threads);
        let mut state = self.lock();
        let ticket = state.permits.acquire(owner, threads, job);
        let failed = self.dispatch(&mut state);
        drop(state);
        let is_own = |(run, _): &(u64, Work)| ticket.is_of(*run);
        match &failed.error {
            Some(error) if failed.jobs.iter().any(is_own) => {
                Err(ComputeError::NoThread(error.to_string()))
            }
            _ => {
                failed.log();
                Ok(ticket)
            }
        }
    }

    /// How many runs with `threads` threads can run at once.
    pub fn max_parallel(&self, threads: usize) -> usize {
        self.cores / self.clamp_threads(threads)
    }

    /// Whether runs wait for permits.
    pub fn contended(&self) -> &Arc<AtomicBool> {
        &self.contended
    }

    /// Limits the threads of a run to the number of cores.
    fn clamp_threads(&self, threads: usize) -> usize {
        threads.clamp(1, self.cores)
    }

    /// Grants permits, and a thread, to each run whose turn it is.
    fn dispatch(self: &Arc<Self>, state: &mut State) -> FailedStarts {
        let mut failed = FailedStarts::default();
        let now = Instant::now();
        while let Some(grant) = state.permits.grant_next(now) {
            let threads = grant.permits;
            let job = match grant.job {
                Job::Local(job) => job,
                Job::Remote(sender) => {
                    let permit = Permit {
                        dispatcher: Some(self.clone()),
                        run: grant.run,
                    };
                    if let Err(mut permit) = sender.send(permit) {
                        // Released here, because dropping the permit would take the lock.
                        permit.dispatcher = None;
                        state.permits.release(grant.run);
                    }
                    continue;
                }
            };
            let group = state.groups.entry(threads).or_default();
            group.ready.push_back((grant.run, job));
            if group.idle >= group.ready.len() {
                // Threads that are awake look for runs before they sleep.
                if group.asleep > 0 {
                    group.wake.notify_one();
                }
                continue;
            }
            match self.spawn(threads) {
                Ok(()) => group.idle += 1,
                Err(error) => {
                    // Without a thread the run would hold its permits forever.
                    failed.jobs.extend(group.ready.pop_back());
                    failed.error = Some(error);
                    state.permits.release(grant.run);
                }
            }
        }
        let contended = state.permits.has_waiters();
        self.contended.store(contended, Ordering::Relaxed);
        if contended {
            self.wake_monitor(state);
        }
        failed
    }

    /// The same for a caller that needs the lock afterwards. It is released meanwhile if runs failed, to drop them.
    fn dispatch_and_relock<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let failed = self.dispatch(&mut state);
        if failed.error.is_none() {
            return state;
        }
        drop(state);
        failed.log();
        drop(failed);
        self.lock()
    }

    fn spawn(self: &Arc<Self>, threads: usize) -> std::io::Result<()> {
        let dispatcher = self.clone();
        spawn(format!("compute-{threads}"), move || {
            Worker::run(threads, |worker| dispatcher.run_jobs(threads, worker));
        })
    }

    /// The loop of a compute thread. The thread counts as idle when it starts.
    fn run_jobs(self: &Arc<Self>, threads: usize, worker: &Worker) {
        let mut state = self.lock();
        loop {
            let (run, job) = loop {
                let group = state.groups.entry(threads).or_default();
                if let Some(ready) = group.ready.pop_front() {
                    group.idle -= 1;
                    break ready;
                }
                group.asleep += 1;
                let wake = group.wake.clone();
                state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.groups.entry(threads).or_default().asleep -= 1;
            };
            drop(state);
            let _ = guarded(|| job(worker));
            state = self.lock();
            state.permits.release(run);
            state.groups.entry(threads).or_default().idle += 1;
            state = self.dispatch_and_relock(state);
        }
    }

    fn wake_monitor(self: &Arc<Self>, state: &mut State) {
        match state.monitor {
            Monitor::Awake => return,
            Monitor::Asleep => self.monitor_wake.notify_one(),
            Monitor::NotStarted => {
                let dispatcher = self.clone();
                let started = spawn("compute-monitor".into(), move || {
                    dispatcher.mark_long_runs();
                });
                if let Err(error) = started {
                    tracing::error!(%error, "monitor of long runs failed to start");
                    return;
                }
            }
        }
        state.monitor = Monitor::Awake;
    }

    /// The loop of the monitor: marks long runs while others wait.
    fn mark_long_runs(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            let woken = if state.permits.has_waiters() {
                let woken = self.monitor_wake.wait_timeout(state, CHECK_INTERVAL);
                woken.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
            } else {
                state.monitor = Monitor::Asleep;
                let woken = self.monitor_wake.wait(state);
                woken.unwrap_or_else(PoisonError::into_inner)
            };
            state = woken;
            if state.permits.has_waiters() && state.permits.mark_long_runs(Instant::now()) {
                state = self.dispatch_and_relock(state);
            }
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs never run under the lock, so a panic leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
