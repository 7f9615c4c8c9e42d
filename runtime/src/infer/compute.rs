//! ComputePool threads, which run graphs so that no executor thread blocks and the cores are not oversubscribed.
//!
//! All runs of the node share one permit per core: a run of a graph with `threads = n` begins when n permits are free and it is its
//! deployment's turn. It runs on a thread of the group for n threads, which has a thread pool of that size. A run whose caller
//! goes before it has begun leaves the queue at once, with its inputs.

mod dispatcher;
#[cfg(test)]
mod interleavings;
mod wake_pipe;

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Context;

use crate::infer::backend::tensor::Place;
use crate::infer::run_cancel::RunCancel;
pub(crate) use crate::permits::Owner;
use dispatcher::Dispatcher;
pub(crate) use dispatcher::Permit;
use wake_pipe::WakePipe;

/// The primitives that `dispatcher` uses; `interleavings` runs it on those of shuttle.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering};
    pub use std::sync::{Condvar, Mutex, MutexGuard};

    /// Runs `body` on a new thread.
    pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name);
        thread.spawn(body).map(drop)
    }
}

/// The thread that runs a graph, for the backend.
pub(crate) struct Worker {
    rten_pool: Option<Arc<rten::ThreadPool>>,
    cancel: Option<Arc<RunCancel>>,
}

impl Worker {
    /// The calling thread, for runs that are too short to hand to another.
    pub const CALLER: Self = Self {
        rten_pool: None,
        cancel: None,
    };

    /// A thread of an engine, for one run.
    pub fn of_engine(rten_pool: Arc<rten::ThreadPool>, cancel: Arc<RunCancel>) -> Self {
        Self {
            rten_pool: Some(rten_pool),
            cancel: Some(cancel),
        }
    }

    /// Cancels the run; `None` outside of engines.
    pub fn cancel(&self) -> Option<&Arc<RunCancel>> {
        self.cancel.as_ref()
    }

    /// The pool for rten. The compute thread is one of its threads, so that a run starts without a hand-over.
    pub fn rten_pool(&self) -> Option<Arc<rten::ThreadPool>> {
        self.rten_pool.clone()
    }

    /// Runs `work` on the calling thread as one of a pool of `threads`.
    fn run(threads: usize, work: impl FnOnce(&Self) + Send) {
        let pool = Arc::new(rten::ThreadPool::with_num_threads(threads));
        let worker = Self {
            rten_pool: Some(pool.clone()),
            cancel: None,
        };
        pool.run(|| work(&worker));
    }
}

/// ComputePool threads, each started when a run finds none idle.
pub(crate) struct ComputePool {
    dispatcher: Arc<Dispatcher>,
    /// `None` if it could not be created.
    wake_pipe: OnceLock<Option<Arc<WakePipe>>>,
}

/// Why a run gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComputeError {
    #[error("the backend panicked: {0}")]
    Panicked(String),
    #[error("no compute thread can be started: {0}")]
    NoThread(String),
}

/// The compute threads for graphs on the CPU, and those for graphs on GPUs, which mostly wait for the GPU and need no permits for
/// cores.
#[derive(Clone, Default)]
pub(crate) struct ComputePools {
    cpu: Arc<ComputePool>,
    gpu: Arc<ComputePool>,
}

impl ComputePools {
    /// The pool for graphs at `place`.
    pub fn pool_for(&self, place: Place) -> Arc<ComputePool> {
        match place {
            Place::Host => self.cpu.clone(),
            Place::Cuda(_) => self.gpu.clone(),
        }
    }
}

impl Default for ComputePool {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

impl ComputePool {
    fn new(cores: usize) -> Self {
        Self {
            dispatcher: Dispatcher::new(cores),
            wake_pipe: OnceLock::new(),
        }
    }

    /// Runs `job` for a deployment on a thread of the group for `threads` threads. Dropping the future drops the job at once unless
    /// it has begun; otherwise its result goes to `unclaimed`.
    pub async fn run<R: Send + 'static>(
        &self,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
        unclaimed: impl FnOnce(R) + Send + 'static,
    ) -> Result<R, ComputeError> {
        let (mut pending, result) = self.dispatcher.submit(owner, threads, job, unclaimed)?;
        let result = self.receive(result).await;
        pending.mark_ended();
        result.unwrap_or_else(|_| Err(ComputeError::Panicked("its thread is gone".into())))
    }

    /// Acquires the permits for a run elsewhere with `threads` threads. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// When the dispatcher is gone.
    pub async fn acquire(&self, owner: Owner, threads: usize) -> Result<Permit, ComputeError> {
        let (mut pending, permit) = self.dispatcher.request_permit(owner, threads)?;
        let permit = self.receive(permit).await;
        pending.mark_ended();
        permit.map_err(|_| ComputeError::Panicked("the dispatcher is gone".into()))
    }

    /// Waits for what a compute thread sends.
    pub async fn receive<F: Future>(&self, result: F) -> F::Output {
        let mut result = pin!(result);
        // Without a pipe, compute threads wake tasks directly.
        let wake_pipe = self.wake_pipe.get_or_init(|| WakePipe::start().ok());
        poll_fn(|cx| match wake_pipe {
            Some(wake_pipe) => {
                let waker = wake_pipe.waker(cx.waker(), self.dispatcher.contended());
                result.as_mut().poll(&mut Context::from_waker(&waker))
            }
            None => result.as_mut().poll(cx),
        })
        .await
    }

    /// Runs `job` for a deployment without waiting for it. A panic is caught and ignored.
    ///
    /// # Errors
    /// When no thread can be started for the job, which is dropped.
    pub fn spawn(
        &self,
        owner: Owner,
        threads: usize,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<(), ComputeError> {
        self.dispatcher
            .submit_detached(owner, threads, job)
            .map(drop)
    }

    /// How many runs with `threads` threads can run at once.
    pub fn max_parallel(&self, threads: usize) -> usize {
        self.dispatcher.max_parallel(threads)
    }
}

/// Runs `job` on this thread, and turns a panic into an error.
pub(crate) fn guarded<R>(job: impl FnOnce() -> R) -> Result<R, ComputeError> {
    catch_unwind(AssertUnwindSafe(job)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        ComputeError::Panicked(text.unwrap_or("no message").to_owned())
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
        compute: &ComputePool,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
    ) -> Result<R, ComputeError> {
        compute.run(OWNER, threads, job, drop).await
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_worker_lives_on() {
        let compute = ComputePool::new(2);
        for _ in 0..8 {
            let result = run(&compute, 2, |_| -> u8 { panic!("on purpose") }).await;
            assert!(matches!(result, Err(ComputeError::Panicked(text)) if text == "on purpose"));
        }
        assert_eq!(run(&compute, 1, |_| 7).await.unwrap(), 7);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn runs_of_all_kinds_together_stay_within_the_cores() {
        let compute = Arc::new(ComputePool::new(4));
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
        let state = compute.dispatcher.lock();
        for (threads, group) in &state.groups {
            assert!(group.idle <= 4 / threads, "{} of {threads}", group.idle);
        }
    }

    #[tokio::test]
    async fn a_run_without_a_caller_leaves_the_queue_with_its_inputs_at_once() {
        let compute = ComputePool::new(1);
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
        assert!(!compute.dispatcher.lock().permits.has_waiters());
        open.send(()).unwrap();
        first.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_result_of_a_run_that_lost_its_caller_is_reported() {
        let compute = ComputePool::new(1);
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
        let compute = Arc::new(ComputePool::new(2));
        let mut gates = Vec::new();
        for _ in 0..4 {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            gates.push(open);
            compute
                .spawn(Owner::numbered(1), 1, move |_| {
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
        let compute = Arc::new(ComputePool::new(2));
        for _ in 0..200 {
            let runs = (0..3).map(|_| run(&compute, 1, |_| ()));
            futures::future::join_all(runs).await;
        }
        assert!(compute.dispatcher.lock().groups[&1].idle <= 2);
    }

    /// Fills `busy` to its last permit with waiting runs and queues another; `free` must still run.
    async fn runs_beside(busy: &ComputePool, free: &ComputePool) {
        let mut gates = Vec::new();
        for _ in 0..busy.max_parallel(1) {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let (begun, has_begun) = oneshot::channel();
            let job = move |_: &Worker| {
                let _ = begun.send(());
                let _ = gate.recv();
            };
            busy.spawn(OWNER, 1, job).unwrap();
            has_begun.await.unwrap();
            gates.push(open);
        }
        // Of the same deployment, so that no permits are lent to it.
        let mut queued = Box::pin(run(busy, 1, |_| ()));
        assert!(futures::poll!(&mut queued).is_pending());
        assert!(busy.dispatcher.lock().permits.has_waiters());
        for threads in [1, free.max_parallel(1)] {
            run(free, threads, |_| ()).await.unwrap();
        }
        assert!(busy.dispatcher.lock().permits.has_waiters());
        assert!(futures::poll!(&mut queued).is_pending());
        drop(gates);
        queued.await.unwrap();
    }

    #[tokio::test]
    async fn runs_that_wait_for_gpus_do_not_block_runs_on_cores_and_vice_versa() {
        let computes = ComputePools::default();
        let (cores, cards) = (
            computes.pool_for(Place::Host),
            computes.pool_for(Place::Cuda(0)),
        );
        // All GPUs share their permits.
        assert!(Arc::ptr_eq(&cards, &computes.pool_for(Place::Cuda(1))));
        runs_beside(&cards, &cores).await;
        runs_beside(&cores, &cards).await;
    }
}
