//! Threads that run graphs, so that no executor thread is ever blocked and the cores are not oversubscribed.
//!
//! All runs of the node share one budget, a permit for each core: a run of a graph of `threads = n` begins when n permits
//! are free and it is its deployment's turn. It runs on one of the threads kept for graphs of n, which brings a pool of n
//! along. A run whose caller goes before it began leaves the queue at once, with all that it holds.

mod budget;
mod courier;

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::infer::backend::tensor::Place;
pub(crate) use budget::Owner;
use budget::{Budget, Ticket};
use courier::Courier;

type Job = Box<dyn FnOnce(&Worker) + Send>;

/// While runs wait, it is looked this often whether others have begun to take long.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The thread that runs a graph, as seen by a backend.
pub(crate) struct Worker {
    rten_pool: Option<Arc<rten::ThreadPool>>,
}

impl Worker {
    /// The thread that asks, for runs too short to be worth a hop.
    pub const CALLER: Self = Self { rten_pool: None };

    /// The threads that rten shall use; a compute thread is one of them, so that a run starts without another hop.
    pub fn rten_pool(&self) -> Option<Arc<rten::ThreadPool>> {
        self.rten_pool.clone()
    }
}

/// The compute threads of a node, each started when there is a run that no idle one can take.
pub(crate) struct Compute {
    shared: Arc<Shared>,
    courier: OnceLock<Option<Arc<Courier>>>,
}

struct Shared {
    cores: usize,
    /// Whether runs wait for permits.
    crowded: Arc<AtomicBool>,
    state: Mutex<State>,
    /// Calls the thread that notices which runs take long.
    waited_for: Condvar,
}

struct State {
    budget: Budget<Job>,
    crews: HashMap<usize, Crew>,
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
struct Crew {
    /// Runs that have their permits and no thread yet, with their numbers.
    ready: VecDeque<(u64, Job)>,
    /// Threads without a run, also those that are on their way to one of these or start for one.
    idle: usize,
    /// Those of them that sleep until they are called.
    asleep: usize,
    called: Arc<Condvar>,
}

/// A run that did not come to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComputeError {
    #[error("the backend panicked: {0}")]
    Panicked(String),
    #[error("no compute thread can be started: {0}")]
    NoThread(String),
}

/// The threads for graphs on the CPU, and those for graphs on cards: these wait for room and for the card mostly, and hold no
/// permits for cores meanwhile.
#[derive(Clone, Default)]
pub(crate) struct Computes {
    cores: Arc<Compute>,
    cards: Arc<Compute>,
}

impl Computes {
    /// The threads for a graph that runs there.
    pub fn at(&self, place: Place) -> Arc<Compute> {
        match place {
            Place::Host => self.cores.clone(),
            Place::Cuda(_) => self.cards.clone(),
        }
    }
}

impl Default for Compute {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

impl Compute {
    fn new(cores: usize) -> Self {
        let state = State {
            budget: Budget::new(cores),
            crews: HashMap::new(),
            lookout: Lookout::Missing,
        };
        Self {
            shared: Arc::new(Shared {
                cores,
                crowded: Arc::default(),
                state: Mutex::new(state),
                waited_for: Condvar::new(),
            }),
            courier: OnceLock::new(),
        }
    }

    /// Runs `job` for a deployment on a worker with `threads` threads. Dropping the future drops a job that has not begun, at
    /// once. What a job gives that has begun goes to `unclaimed` then.
    pub async fn run<R: Send + 'static>(
        &self,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
        unclaimed: impl FnOnce(R) + Send + 'static,
    ) -> Result<R, ComputeError> {
        let (done, result) = oneshot::channel();
        let ticket = self.ask(owner, threads, move |worker| {
            if done.is_closed() {
                return;
            }
            if let Err(Ok(given)) = done.send(guarded(|| job(worker))) {
                unclaimed(given);
            }
        })?;
        let mut asked = Asked {
            shared: &self.shared,
            ticket: Some(ticket),
        };
        let result = self.delivered(result).await;
        asked.ticket = None;
        result.unwrap_or_else(|_| Err(ComputeError::Panicked("its thread is gone".into())))
    }

    /// Waits for what a compute thread sends.
    pub async fn delivered<F: Future>(&self, result: F) -> F::Output {
        let mut result = pin!(result);
        // Without one, tasks are woken as by any other thread.
        let courier = self.courier.get_or_init(|| Courier::start().ok());
        poll_fn(|cx| match courier {
            Some(courier) => {
                let waker = courier.waker(cx.waker(), &self.shared.crowded);
                result.as_mut().poll(&mut Context::from_waker(&waker))
            }
            None => result.as_mut().poll(cx),
        })
        .await
    }

    /// Runs `job` for a deployment when its turn comes, whoever waits for it. Its panic is caught and told to nobody.
    ///
    /// # Errors
    /// When no thread can be started for it; it is dropped then.
    pub fn start(
        &self,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<(), ComputeError> {
        self.ask(owner, threads, job).map(drop)
    }

    fn ask(
        &self,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<Ticket, ComputeError> {
        let threads = self.kind(threads);
        let mut state = self.shared.lock();
        let ticket = state.budget.ask(owner, threads, Box::new(job));
        if let Err(error) = Shared::hand_out(&self.shared, &mut state) {
            let job = state.budget.forget(ticket);
            drop(state);
            drop(job);
            return Err(ComputeError::NoThread(error.to_string()));
        }
        Ok(ticket)
    }

    /// How many runs of graphs of `threads` can go on at once.
    pub fn lanes(&self, threads: usize) -> usize {
        self.shared.cores / self.kind(threads)
    }

    /// No run has more threads than there are cores.
    fn kind(&self, threads: usize) -> usize {
        threads.clamp(1, self.shared.cores)
    }
}

/// A run that its caller waits for.
struct Asked<'a> {
    shared: &'a Arc<Shared>,
    ticket: Option<Ticket>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else {
            return;
        };
        let mut state = self.shared.lock();
        let job = state.budget.forget(ticket);
        // It may have stood before others that can begin.
        self.shared.hand_out_or_log(&mut state);
        drop(state);
        // Its inputs are large, and their end may run anything.
        drop(job);
    }
}

/// Runs `job` here; a panic becomes an error.
pub(crate) fn guarded<R>(job: impl FnOnce() -> R) -> Result<R, ComputeError> {
    catch_unwind(AssertUnwindSafe(job)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        ComputeError::Panicked(text.unwrap_or("without a word").to_owned())
    })
}

impl Shared {
    /// Gives a thread to every run that has its permits by now.
    fn hand_out(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let mut result = Ok(());
        let now = Instant::now();
        while let Some(begun) = state.budget.next(now) {
            let threads = begun.permits;
            let crew = state.crews.entry(threads).or_default();
            crew.ready.push_back((begun.run, begun.job));
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
                    drop(crew.ready.pop_back());
                    state.budget.give_back(begun.run);
                    result = Err(error);
                }
            }
        }
        let crowded = state.budget.is_waited_for();
        self.crowded.store(crowded, Ordering::Relaxed);
        if crowded {
            self.wake_lookout(state);
        }
        result
    }

    fn hand_out_or_log(self: &Arc<Self>, state: &mut State) {
        if let Err(error) = self.hand_out(state) {
            tracing::error!(%error, "no compute thread can be started");
        }
    }

    fn spawn(self: &Arc<Self>, threads: usize) -> std::io::Result<()> {
        let shared = self.clone();
        std::thread::Builder::new()
            .name(format!("compute-{threads}"))
            .spawn(move || {
                let pool = Arc::new(rten::ThreadPool::with_num_threads(threads));
                let worker = Worker {
                    rten_pool: Some(pool.clone()),
                };
                pool.run(|| shared.work(threads, &worker));
            })
            .map(drop)
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
            self.hand_out_or_log(&mut state);
        }
    }

    fn wake_lookout(self: &Arc<Self>, state: &mut State) {
        match state.lookout {
            Lookout::Awake => return,
            Lookout::Asleep => self.waited_for.notify_one(),
            Lookout::Missing => {
                let shared = self.clone();
                let started = std::thread::Builder::new()
                    .name("compute-lookout".into())
                    .spawn(move || shared.look_out());
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
                self.hand_out_or_log(&mut state);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs never run while the lock is held, so a panic cannot leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const OWNER: Owner = Owner::NONE;

    async fn run<R: Send + 'static>(
        compute: &Compute,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
    ) -> Result<R, ComputeError> {
        compute.run(OWNER, threads, job, drop).await
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_worker_lives_on() {
        let compute = Compute::new(2);
        for _ in 0..8 {
            let result = run(&compute, 2, |_| -> u8 { panic!("on purpose") }).await;
            assert!(matches!(result, Err(ComputeError::Panicked(text)) if text == "on purpose"));
        }
        assert_eq!(run(&compute, 1, |_| 7).await.unwrap(), 7);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn runs_of_all_kinds_together_stay_within_the_cores() {
        let compute = Arc::new(Compute::new(4));
        let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let runs = (0..64).map(|n| {
            let (compute, busy, most) = (compute.clone(), busy.clone(), most.clone());
            let threads = [1, 2, 3, 4, 9][n % 5];
            tokio::spawn(async move {
                let taken = threads.min(4);
                let run = run(&compute, threads, move |_| {
                    let now = busy.fetch_add(taken, Ordering::SeqCst) + taken;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                    busy.fetch_sub(taken, Ordering::SeqCst);
                });
                run.await.unwrap();
            })
        });
        for run in runs.collect::<Vec<_>>() {
            run.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 4);
        let state = compute.shared.lock();
        for (threads, crew) in &state.crews {
            assert!(crew.idle <= 4 / threads, "{} of {threads}", crew.idle);
        }
    }

    #[tokio::test]
    async fn a_run_that_nobody_waits_for_any_more_leaves_with_its_inputs_at_once() {
        let compute = Compute::new(1);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let mut first = Box::pin(run(&compute, 1, move |_| gate.recv()));
        assert!(futures::poll!(&mut first).is_pending());
        let input = Arc::new(());
        let held = input.clone();
        let mut second = Box::pin(run(&compute, 1, move |_| drop(held)));
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(Arc::strong_count(&input), 2);
        drop(second);
        // The first still runs.
        assert_eq!(Arc::strong_count(&input), 1);
        assert!(!compute.shared.lock().budget.is_waited_for());
        open.send(()).unwrap();
        first.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_a_run_gives_that_lost_its_caller_is_told() {
        let compute = Compute::new(1);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let (told, unclaimed) = oneshot::channel();
        let job = move |_: &Worker| {
            let _ = begun.send(());
            gate.recv().map(|()| 7)
        };
        let mut first = Box::pin(compute.run(OWNER, 1, job, |given| {
            let _ = told.send(given);
        }));
        assert!(futures::poll!(&mut first).is_pending());
        has_begun.await.unwrap();
        drop(first);
        open.send(()).unwrap();
        assert_eq!(unclaimed.await.unwrap(), Ok(7));
        run(&compute, 1, |_| ()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn endless_runs_of_one_deployment_do_not_lock_others_out() {
        let compute = Arc::new(Compute::new(2));
        let mut gates = Vec::new();
        for _ in 0..4 {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            gates.push(open);
            compute
                .start(Owner::numbered(1), 1, move |_| {
                    let _ = gate.recv();
                })
                .unwrap();
        }
        // All cores are taken, and this needs them all.
        for _ in 0..3 {
            let neighbour = compute.run(Owner::numbered(2), 2, |_| (), drop);
            neighbour.await.unwrap();
        }
        drop(gates);
        run(&compute, 2, |_| ()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn there_are_no_more_threads_than_runs_at_once() {
        let compute = Arc::new(Compute::new(2));
        for _ in 0..200 {
            let runs = (0..3).map(|_| run(&compute, 1, |_| ()));
            futures::future::join_all(runs).await;
        }
        assert!(compute.shared.lock().crews[&1].idle <= 2);
    }
}
