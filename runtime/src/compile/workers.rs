//! The workers of a node: few at once, started when a job needs one, kept for a while for the next.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::job::{Job, Native};
use super::owners::Owners;
use super::worker::{End, Worker};
use super::{CompileError, ComponentFile, WorkerOptions};
use crate::engine::{Allocator, SharedEngine};
use crate::log::LogSink;
use crate::process::clock::{Exceeded, exceeded};

/// How long a worker without a job stays. It holds the functions that it compiled, for a component that is built again.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// The same for one that holds much memory, which it does after a large component.
const LARGE_IDLE: Duration = Duration::from_secs(3 * 60);
const LARGE_BYTES: u64 = 256 << 20;

/// The workers of a node.
pub(crate) struct Workers {
    options: WorkerOptions,
    allocator: Allocator,
    compatibility: [u64; 2],
    turns: Owners,
    /// The one that was busy last is the last, and the next to get a job: it has the functions of an edit just before.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    worker: Worker,
    until: Instant,
}

impl Workers {
    /// Workers that compile for this engine. None is started before there is a job.
    pub fn new(options: WorkerOptions, engine: &SharedEngine) -> Arc<Self> {
        Arc::new(Self {
            turns: Owners::new(options.max_workers.max(1)),
            options,
            allocator: engine.allocator(),
            compatibility: engine.compatibility(),
            idle: Mutex::default(),
        })
    }

    /// Runs a job. When the future is dropped, its worker is killed.
    ///
    /// # Errors
    /// When the job exceeded a limit or crashed, or the machine is at fault.
    pub async fn run(
        self: &Arc<Self>,
        job: &Job,
        component: &ComponentFile,
        log: Option<&dyn LogSink>,
    ) -> Result<Result<Native, String>, CompileError> {
        let _turn = self.turns.take(component.owner).await;
        let path = &component.path;
        let limit = self.options.processor_time + job.init_timeout();
        loop {
            // Opened for each worker: the position in an open file is shared.
            let component = File::open(path).map_err(|source| CompileError::Read {
                path: path.clone(),
                source,
            })?;
            let mut worker = match self.take_idle() {
                Some(worker) => worker,
                None => self.start().await?,
            };
            let memory_bytes = self.options.memory_bytes;
            let process = worker.process();
            let ran = tokio::select! {
                biased;
                ran = worker.run(job, &component, log, memory_bytes) => Ok(ran),
                exceeded = exceeded(process, limit) => Err(exceeded),
            };
            let error = match ran {
                Ok(Ok(done)) => {
                    self.keep(worker);
                    return Ok(done);
                }
                Ok(Err(error)) => error,
                Err(exceeded) => {
                    worker.kill().await;
                    let job = job.label();
                    return Err(match exceeded {
                        Exceeded::Processor => CompileError::Time { job, limit },
                        Exceeded::Wall(time) => CompileError::Crash {
                            job,
                            how: format!("it was killed, because it was not done after {time:?}"),
                        },
                    });
                }
            };
            let jobs = worker.jobs;
            let end = worker.end().await;
            tracing::warn!(job = job.label(), jobs, %error, ?end, "compile worker ended during a job");
            // A job is to blame only for the end of a worker that had no other before: what those left may be the reason.
            if jobs == 1 {
                return Err(self.blame(job, end));
            }
        }
    }

    fn blame(&self, job: &Job, end: End) -> CompileError {
        let job = job.label();
        match end {
            End::Memory(found) => CompileError::Memory {
                job,
                found,
                limit_bytes: self.options.memory_bytes,
            },
            End::Crash(how) => CompileError::Crash { job, how },
        }
    }

    async fn start(&self) -> Result<Worker, CompileError> {
        Worker::start(&self.options, self.allocator, self.compatibility)
            .await
            .map_err(CompileError::Start)
    }

    fn take_idle(&self) -> Option<Worker> {
        self.lock().pop().map(|idle| idle.worker)
    }

    /// Keeps a worker for the next job, for a while.
    fn keep(self: &Arc<Self>, worker: Worker) {
        let idle = match worker.resident_bytes() {
            Some(LARGE_BYTES..) => LARGE_IDLE,
            _ => IDLE,
        };
        let until = Instant::now() + idle;
        self.lock().push(Idle { worker, until });
        let workers = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            if let Some(workers) = workers.upgrade() {
                let now = Instant::now();
                workers.lock().retain(|idle| idle.until > now);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        // One worker at a time is put in or taken out.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
