//! Threads that run graphs, so that no executor thread is ever blocked and the cores are not oversubscribed.
//!
//! All runs of the node share one budget, a permit for each core: a run of a graph of `threads = n` begins when n permits
//! are free, in the order of asking. It runs on one of the threads kept for graphs of n, which brings a pool of n along.

mod budget;
mod courier;

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;

use tokio::sync::oneshot;

use budget::Budget;
use courier::Courier;

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
}

struct State {
    budget: Budget<Job>,
    crews: HashMap<usize, Crew>,
}

/// The threads for graphs of one `threads`. There are never more than runs of that kind fit into the budget at once.
#[derive(Default)]
struct Crew {
    /// Runs that have their permits and no thread yet.
    ready: VecDeque<Job>,
    /// Threads without a run, also those that are on their way to one of these.
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
        };
        Self {
            shared: Arc::new(Shared {
                cores,
                crowded: Arc::default(),
                state: Mutex::new(state),
            }),
            courier: OnceLock::new(),
        }
    }

    /// Runs `job` on a worker with `threads` threads. Dropping the future drops a job that has not begun.
    pub async fn run<R: Send + 'static>(
        &self,
        threads: usize,
        job: impl FnOnce(&Worker) -> R + Send + 'static,
    ) -> Result<R, ComputeError> {
        let (done, result) = oneshot::channel();
        self.start(threads, move |worker| {
            if done.is_closed() {
                return;
            }
            let _ = done.send(guarded(|| job(worker)));
        })?;
        self.delivered(result)
            .await
            .unwrap_or_else(|_| Err(ComputeError::Panicked("its thread is gone".into())))
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

    /// Runs `job` when its turn comes, whoever waits for it. Its panic is caught and told to nobody.
    ///
    /// # Errors
    /// When no thread can be started for it; it is dropped then, or run by another thread later.
    pub fn start(
        &self,
        threads: usize,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<(), ComputeError> {
        let threads = self.kind(threads);
        let started = {
            let mut state = self.shared.lock();
            state.budget.ask(threads, Box::new(job));
            Shared::hand_out(&self.shared, &mut state)
        };
        started.map_err(|e| ComputeError::NoThread(e.to_string()))
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
        while let Some((threads, job)) = state.budget.next() {
            let crew = state.crews.entry(threads).or_default();
            crew.ready.push_back(job);
            if crew.idle >= crew.ready.len() {
                // Those that are awake look before they sleep.
                if crew.asleep > 0 {
                    crew.called.notify_one();
                }
                continue;
            }
            if let Err(error) = self.spawn(threads) {
                // Without a thread it would keep its permits for ever.
                drop(crew.ready.pop_back());
                state.budget.give_back(threads);
                result = Err(error);
            }
        }
        let crowded = state.budget.is_waited_for();
        self.crowded.store(crowded, Ordering::Relaxed);
        result
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

    fn work(self: &Arc<Self>, threads: usize, worker: &Worker) {
        let mut state = self.lock();
        loop {
            state.crews.entry(threads).or_default().idle += 1;
            if let Err(error) = self.hand_out(&mut state) {
                tracing::error!(%error, "no compute thread can be started");
            }
            let job = loop {
                let crew = state.crews.entry(threads).or_default();
                if let Some(job) = crew.ready.pop_front() {
                    crew.idle -= 1;
                    break job;
                }
                crew.asleep += 1;
                let called = crew.called.clone();
                state = called.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.crews.entry(threads).or_default().asleep -= 1;
            };
            drop(state);
            let _ = guarded(|| job(worker));
            state = self.lock();
            state.budget.give_back(threads);
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

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_worker_lives_on() {
        let compute = Compute::new(2);
        for _ in 0..8 {
            let result = compute.run(2, |_| -> u8 { panic!("on purpose") }).await;
            assert!(matches!(result, Err(ComputeError::Panicked(text)) if text == "on purpose"));
        }
        assert_eq!(compute.run(1, |_| 7).await.unwrap(), 7);
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
                let run = compute.run(threads, move |_| {
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
    async fn a_run_that_nobody_waits_for_any_more_is_left_out() {
        let compute = Compute::new(1);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let first = compute.run(1, move |_| gate.recv());
        let mut first = Box::pin(first);
        assert!(futures::poll!(&mut first).is_pending());
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = ran.clone();
        let mut second = Box::pin(compute.run(1, move |_| counted.fetch_add(1, Ordering::SeqCst)));
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        open.send(()).unwrap();
        first.await.unwrap().unwrap();
        compute.run(1, |_| ()).await.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    }
}
