//! How permits go from run to run, and runs to threads: asked for, waited for, given back, given up.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, spawn};
use super::{ComputeError, Worker, guarded};
use crate::budget::{Budget, Owner, Ticket};

type Work = Box<dyn FnOnce(&Worker) + Send>;

/// What begins when it has its permits.
pub(super) enum Job {
    /// On a thread of this process.
    Here(Work),
    /// Elsewhere: whoever waits gets the permits.
    Elsewhere(oneshot::Sender<Permit>),
}

/// Permits of a run that goes on elsewhere, until this is dropped.
pub(crate) struct Permit {
    /// Nothing when somebody else has given them back.
    dispatch: Option<Arc<Dispatch>>,
    run: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(dispatch) = self.dispatch.take() else {
            return;
        };
        let mut state = dispatch.lock();
        state.budget.give_back(self.run);
        let failed = dispatch.hand_out(&mut state);
        drop(state);
        failed.log();
    }
}

/// While runs wait, it is looked this often whether others have begun to take long.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The permits, the runs that wait for them, and the threads that run them.
pub(super) struct Dispatch {
    cores: usize,
    /// Whether runs wait for permits.
    crowded: Arc<AtomicBool>,
    state: Mutex<State>,
    /// Calls the thread that notices which runs take long.
    waited_for: Condvar,
}

/// What the lock guards.
pub(super) struct State {
    pub budget: Budget<Job>,
    pub crews: HashMap<usize, Crew>,
    lookout: Lookout,
}

/// The thread that notices which runs take long, while others wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookout {
    Missing,
    Asleep,
    Awake,
}

/// The threads for graphs of one `threads`. There are never more than runs of that kind fit into the budget at once.
#[derive(Default)]
pub(super) struct Crew {
    /// Runs that have their permits and no thread yet, with their numbers.
    ready: VecDeque<(u64, Work)>,
    /// Threads without a run, also those that are on their way to one of these or start for one.
    pub idle: usize,
    /// Those of them that sleep until they are called.
    asleep: usize,
    called: Arc<Condvar>,
}

/// Runs that got their permits but no thread. Dropped outside the lock, which tells their callers.
#[must_use]
#[derive(Default)]
struct Failed {
    jobs: Vec<(u64, Work)>,
    error: Option<std::io::Error>,
}

impl Failed {
    fn log(&self) {
        if let Some(error) = &self.error {
            let runs = self.jobs.len();
            tracing::error!(%error, runs, "no compute thread can be started");
        }
    }
}

/// A run that its caller waits for. Dropped before it has begun, the run leaves the queue.
pub(super) struct Asked<'a> {
    dispatch: &'a Arc<Dispatch>,
    ticket: Option<Ticket>,
}

impl Asked<'_> {
    /// Says that its result has come.
    pub fn over(&mut self) {
        self.ticket = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else {
            return;
        };
        let mut state = self.dispatch.lock();
        let job = state.budget.forget(ticket);
        // It may have stood before others that can begin.
        let failed = self.dispatch.hand_out(&mut state);
        drop(state);
        failed.log();
        // Outside the lock: its inputs are large, and dropping them may run anything.
        drop(job);
    }
}

impl Dispatch {
    pub fn new(cores: usize) -> Arc<Self> {
        let state = State {
            budget: Budget::new(cores),
            crews: HashMap::new(),
            lookout: Lookout::Missing,
        };
        Arc::new(Self {
            cores,
            crowded: Arc::default(),
            state: Mutex::new(state),
            waited_for: Condvar::new(),
        })
    }

    /// Has `job` run when its turn comes, for a caller that waits for what it gives. What it gives goes to `unclaimed` when the
    /// caller has gone meanwhile.
    pub fn ask_for<R: Send + 'static>(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
        unclaimed: impl FnOnce(R) + Send + 'static,
    ) -> Result<(Asked<'_>, oneshot::Receiver<Result<R, ComputeError>>), ComputeError> {
        let (done, result) = oneshot::channel();
        let ticket = self.ask(owner, threads, move |worker| {
            if done.is_closed() {
                return;
            }
            if let Err(Ok(given)) = done.send(guarded(|| job(worker))) {
                unclaimed(given);
            }
        })?;
        let asked = Asked {
            dispatch: self,
            ticket: Some(ticket),
        };
        Ok((asked, result))
    }

    /// Has somebody get the permits for a run elsewhere when its turn comes.
    pub fn ask_for_permit(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
    ) -> Result<(Asked<'_>, oneshot::Receiver<Permit>), ComputeError> {
        let (sender, permit) = oneshot::channel();
        let ticket = self.queue(owner, threads, Job::Elsewhere(sender))?;
        let asked = Asked {
            dispatch: self,
            ticket: Some(ticket),
        };
        Ok((asked, permit))
    }

    /// Has `job` run when its turn comes.
    pub fn ask(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<Ticket, ComputeError> {
        self.queue(owner, threads, Job::Here(Box::new(job)))
    }

    fn queue(
        self: &Arc<Self>,
        owner: Owner,
        threads: usize,
        job: Job,
    ) -> Result<Ticket, ComputeError> {
        let threads = self.kind(threads);
        let mut state = self.lock();
        let ticket = state.budget.ask(owner, threads, job);
        let failed = self.hand_out(&mut state);
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

    /// How many runs of graphs of `threads` can go on at once.
    pub fn lanes(&self, threads: usize) -> usize {
        self.cores / self.kind(threads)
    }

    /// Whether runs wait for permits.
    pub fn crowded(&self) -> &Arc<AtomicBool> {
        &self.crowded
    }

    /// No run has more threads than there are cores.
    fn kind(&self, threads: usize) -> usize {
        threads.clamp(1, self.cores)
    }

    /// Gives a thread to every run that has its permits by now.
    fn hand_out(self: &Arc<Self>, state: &mut State) -> Failed {
        let mut failed = Failed::default();
        let now = Instant::now();
        while let Some(begun) = state.budget.next(now) {
            let threads = begun.permits;
            let job = match begun.job {
                Job::Here(job) => job,
                Job::Elsewhere(sender) => {
                    let permit = Permit {
                        dispatch: Some(self.clone()),
                        run: begun.run,
                    };
                    if let Err(mut unwanted) = sender.send(permit) {
                        // Not by dropping it: the lock is held.
                        unwanted.dispatch = None;
                        state.budget.give_back(begun.run);
                    }
                    continue;
                }
            };
            let crew = state.crews.entry(threads).or_default();
            crew.ready.push_back((begun.run, job));
            if crew.idle >= crew.ready.len() {
                // Those that are awake look before they sleep.
                if crew.asleep > 0 {
                    crew.called.notify_one();
                }
                continue;
            }
            match self.spawn(threads) {
                Ok(()) => crew.idle += 1,
                Err(error) => {
                    // Without a thread it would keep its permits for ever.
                    failed.jobs.extend(crew.ready.pop_back());
                    failed.error = Some(error);
                    state.budget.give_back(begun.run);
                }
            }
        }
        let crowded = state.budget.is_waited_for();
        self.crowded.store(crowded, Ordering::Relaxed);
        if crowded {
            self.wake_lookout(state);
        }
        failed
    }

    /// The same for a thread that goes on with the lock: what failed is dropped without it.
    fn hand_out_and_lock_again<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let failed = self.hand_out(&mut state);
        if failed.error.is_none() {
            return state;
        }
        drop(state);
        failed.log();
        drop(failed);
        self.lock()
    }

    fn spawn(self: &Arc<Self>, threads: usize) -> std::io::Result<()> {
        let dispatch = self.clone();
        spawn(format!("compute-{threads}"), move || {
            Worker::run(threads, |worker| dispatch.work(threads, worker));
        })
    }

    /// Runs what there is. The thread counts as idle when it begins.
    fn work(self: &Arc<Self>, threads: usize, worker: &Worker) {
        let mut state = self.lock();
        loop {
            let (run, job) = loop {
                let crew = state.crews.entry(threads).or_default();
                if let Some(ready) = crew.ready.pop_front() {
                    crew.idle -= 1;
                    break ready;
                }
                crew.asleep += 1;
                let called = crew.called.clone();
                state = called.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.crews.entry(threads).or_default().asleep -= 1;
            };
            drop(state);
            let _ = guarded(|| job(worker));
            state = self.lock();
            state.budget.give_back(run);
            state.crews.entry(threads).or_default().idle += 1;
            state = self.hand_out_and_lock_again(state);
        }
    }

    fn wake_lookout(self: &Arc<Self>, state: &mut State) {
        match state.lookout {
            Lookout::Awake => return,
            Lookout::Asleep => self.waited_for.notify_one(),
            Lookout::Missing => {
                let dispatch = self.clone();
                let started = spawn("compute-lookout".into(), move || dispatch.look_out());
                if let Err(error) = started {
                    tracing::error!(%error, "long runs are not noticed");
                    return;
                }
            }
        }
        state.lookout = Lookout::Awake;
    }

    /// Notices which runs take long, as long as others wait.
    fn look_out(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            let woken = if state.budget.is_waited_for() {
                let woken = self.waited_for.wait_timeout(state, LOOK_EVERY);
                woken.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
            } else {
                state.lookout = Lookout::Asleep;
                let woken = self.waited_for.wait(state);
                woken.unwrap_or_else(PoisonError::into_inner)
            };
            state = woken;
            if state.budget.is_waited_for() && state.budget.notice_long(Instant::now()) {
                state = self.hand_out_and_lock_again(state);
            }
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs never run while the lock is held, so a panic cannot leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
