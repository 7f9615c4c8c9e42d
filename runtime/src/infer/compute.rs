//! Threads that run graphs, so that no executor thread is ever blocked and the cores are not oversubscribed.
//!
//! A graph of `threads = n` runs on one of `cores / n` workers, each of which brings a pool of n threads along.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce(&Worker) + Send>;

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

/// The compute threads of a node, started when the first graph of their kind runs.
#[derive(Default)]
pub(crate) struct Compute {
    queues: Mutex<HashMap<usize, Arc<Queue>>>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    added: Condvar,
}

/// A run that did not come to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComputeError {
    #[error("the backend panicked: {0}")]
    Panicked(String),
    #[error("no compute thread can be started: {0}")]
    NoThread(String),
}

impl Compute {
    /// Runs `job` on a worker with `threads` threads. Dropping the future drops a job that has not begun.
    pub async fn run<R: Send + 'static>(
        &self,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
    ) -> Result<R, ComputeError> {
        let queue = self
            .queue(threads)
            .map_err(|e| ComputeError::NoThread(e.to_string()))?;
        let (done, result) = oneshot::channel();
        queue.push(Box::new(move |worker| {
            if done.is_closed() {
                return;
            }
            let _ = done.send(guarded(|| job(worker)));
        }));
        result
            .await
            .unwrap_or_else(|_| Err(ComputeError::Panicked("its thread is gone".into())))
    }

    fn queue(&self, threads: usize) -> std::io::Result<Arc<Queue>> {
        let mut queues = lock(&self.queues);
        if let Some(queue) = queues.get(&threads) {
            return Ok(queue.clone());
        }
        let queue = Arc::new(Queue::default());
        for number in 0..workers(cores(), threads) {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("compute-{threads}-{number}"))
                .spawn(move || {
                    let pool = Arc::new(rten::ThreadPool::with_num_threads(threads));
                    let worker = Worker {
                        rten_pool: Some(pool.clone()),
                    };
                    pool.run(|| queue.work(&worker));
                })?;
        }
        queues.insert(threads, queue.clone());
        Ok(queue)
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

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn workers(cores: usize, threads: usize) -> usize {
    (cores / threads.max(1)).max(1)
}

impl Queue {
    fn push(&self, job: Job) {
        lock(&self.jobs).push_back(job);
        self.added.notify_one();
    }

    fn work(&self, worker: &Worker) {
        loop {
            let mut jobs = lock(&self.jobs);
            let job = loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => {
                        jobs = self
                            .added
                            .wait(jobs)
                            .unwrap_or_else(std::sync::PoisonError::into_inner);
                    }
                }
            };
            drop(jobs);
            job(worker);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Jobs never run while a lock is held, so a panic cannot leave a queue half-changed.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_times_threads_stay_within_the_cores() {
        assert_eq!(workers(2, 1), 2);
        assert_eq!(workers(8, 3), 2);
        assert_eq!(workers(2, 8), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_worker_lives_on() {
        let compute = Compute::default();
        for _ in 0..4 {
            let result = compute.run(1, |_| -> u8 { panic!("on purpose") }).await;
            assert!(matches!(result, Err(ComputeError::Panicked(text)) if text == "on purpose"));
        }
        assert_eq!(compute.run(1, |_| 7).await.unwrap(), 7);
    }
}
