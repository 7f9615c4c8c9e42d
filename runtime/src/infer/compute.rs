//! Threads that run graphs, so that no executor thread is ever blocked and the cores are not oversubscribed.
//!
//! All runs of the node share one budget, a permit for each core: a run of a graph of `threads = n` begins when n permits
//! are free and it is its deployment's turn. It runs on one of the threads kept for graphs of n, which brings a pool of n
//! along. A run whose caller goes before it began leaves the queue at once, with all that it holds.

mod courier;
mod dispatch;
#[cfg(test)]
mod interleavings;

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Context;

pub(crate) use crate::budget::Owner;
use crate::infer::backend::tensor::Place;
use crate::infer::stop::Stop;
use courier::Courier;
use dispatch::Dispatch;
pub(crate) use dispatch::Permit;

/// The primitives that `dispatch` runs on; `interleavings` runs it on shuttle's.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering};
    pub use std::sync::{Condvar, Mutex, MutexGuard};

    /// Runs `body` on a new thread.
    pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name);
        thread.spawn(body).map(drop)
    }
}

/// The thread that runs a graph, as seen by a backend.
pub(crate) struct Worker {
    rten_pool: Option<Arc<rten::ThreadPool>>,
    stop: Option<Arc<Stop>>,
}

impl Worker {
    /// The thread that asks, for runs too short to be worth a hop.
    pub const CALLER: Self = Self {
        rten_pool: None,
        stop: None,
    };

    /// A thread of an engine, for one run.
    pub fn of_engine(rten_pool: Arc<rten::ThreadPool>, stop: Arc<Stop>) -> Self {
        Self {
            rten_pool: Some(rten_pool),
            stop: Some(stop),
        }
    }

    /// What ends its run, if anything does.
    pub fn stop(&self) -> Option<&Arc<Stop>> {
        self.stop.as_ref()
    }

    /// The threads that rten shall use; a compute thread is one of them, so that a run starts without another hop.
    pub fn rten_pool(&self) -> Option<Arc<rten::ThreadPool>> {
        self.rten_pool.clone()
    }

    /// Runs `work` on the calling thread as one of a pool of `threads`.
    fn run(threads: usize, work: impl FnOnce(&Self) + Send) {
        let pool = Arc::new(rten::ThreadPool::with_num_threads(threads));
        let worker = Self {
            rten_pool: Some(pool.clone()),
            stop: None,
        };
        pool.run(|| work(&worker));
    }
}

/// The compute threads of a node, each started when there is a run that no idle one can take.
pub(crate) struct Compute {
    dispatch: Arc<Dispatch>,
    courier: OnceLock<Option<Arc<Courier>>>,
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
        Self {
            dispatch: Dispatch::new(cores),
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
        let (mut asked, result) = self.dispatch.ask_for(owner, threads, job, unclaimed)?;
        let result = self.delivered(result).await;
        asked.over();
        result.unwrap_or_else(|_| Err(ComputeError::Panicked("its thread is gone".into())))
    }

    /// Permits for a run elsewhere of so many threads, when it is the deployment's turn. Whoever goes before leaves the queue.
    ///
    /// # Errors
    /// When the queue is gone.
    pub async fn permit(&self, owner: Owner, threads: usize) -> Result<Permit, ComputeError> {
        let (mut asked, permit) = self.dispatch.ask_for_permit(owner, threads)?;
        let permit = self.delivered(permit).await;
        asked.over();
        permit.map_err(|_| ComputeError::Panicked("the queue is gone".into()))
    }

    /// Waits for what a compute thread sends.
    pub async fn delivered<F: Future>(&self, result: F) -> F::Output {
        let mut result = pin!(result);
        // Without one, tasks are woken as by any other thread.
        let courier = self.courier.get_or_init(|| Courier::start().ok());
        poll_fn(|cx| match courier {
            Some(courier) => {
                let waker = courier.waker(cx.waker(), self.dispatch.crowded());
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
        self.dispatch.ask(owner, threads, job).map(drop)
    }

    /// How many runs of graphs of `threads` can go on at once.
    pub fn lanes(&self, threads: usize) -> usize {
        self.dispatch.lanes(threads)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::oneshot;

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
        let state = compute.dispatch.lock();
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
        assert!(!compute.dispatch.lock().budget.is_waited_for());
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
        assert!(compute.dispatch.lock().crews[&1].idle <= 2);
    }

    /// Fills `busy` to its last permit with runs that wait, and has more of them queue; then `free` runs what it is asked.
    async fn runs_beside(busy: &Compute, free: &Compute) {
        let mut gates = Vec::new();
        for _ in 0..busy.lanes(1) {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let (begun, has_begun) = oneshot::channel();
            let job = move |_: &Worker| {
                let _ = begun.send(());
                let _ = gate.recv();
            };
            busy.start(OWNER, 1, job).unwrap();
            has_begun.await.unwrap();
            gates.push(open);
        }
        // Of the same deployment, to which no permits are lent.
        let mut queued = Box::pin(run(busy, 1, |_| ()));
        assert!(futures::poll!(&mut queued).is_pending());
        assert!(busy.dispatch.lock().budget.is_waited_for());
        for threads in [1, free.lanes(1)] {
            run(free, threads, |_| ()).await.unwrap();
        }
        assert!(busy.dispatch.lock().budget.is_waited_for());
        assert!(futures::poll!(&mut queued).is_pending());
        drop(gates);
        queued.await.unwrap();
    }

    #[tokio::test]
    async fn runs_that_wait_on_cards_keep_none_on_cores_from_running_and_the_reverse() {
        let computes = Computes::default();
        let (cores, cards) = (computes.at(Place::Host), computes.at(Place::Cuda(0)));
        // All cards share their permits.
        assert!(Arc::ptr_eq(&cards, &computes.at(Place::Cuda(1))));
        runs_beside(&cards, &cores).await;
        runs_beside(&cores, &cards).await;
    }
}
