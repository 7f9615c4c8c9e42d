//! The compile workers of a node: started when a job needs one, and kept for a while for the next job.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::job::{Job, Native};
use super::owners::OwnerPermits;
use super::worker::{Worker, WorkerEnd};
use super::{CompileError, ComponentFile, WorkerOptions};
use crate::engine::{Allocator, SharedEngine};
use crate::log::LogSink;
use crate::process::clock::{Exceeded, wait_exceeded};

/// How long an idle worker is kept. It caches the functions that it compiled, for when a component is built again.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// The same for a worker that holds much memory, as after a large component.
const LARGE_IDLE: Duration = Duration::from_secs(3 * 60);
const LARGE_BYTES: u64 = 256 << 20;

/// The workers of a node.
pub(crate) struct WorkerPool {
    options: WorkerOptions,
    allocator: Allocator,
    compatibility: [u64; 2],
    permits: OwnerPermits,
    /// The most recently used worker is the last, and gets the next job: its cache holds what was just compiled.
    idle: Mutex<Vec<IdleWorker>>,
}

struct IdleWorker {
    worker: Worker,
    until: Instant,
}

impl WorkerPool {
    /// Workers that compile for this engine. None is started before the first job.
    pub fn new(options: WorkerOptions, engine: &SharedEngine) -> Arc<Self> {
        Arc::new(Self {
            permits: OwnerPermits::new(options.max_workers.max(1)),
            options,
            allocator: engine.allocator(),
            compatibility: engine.compatibility_hashes(),
            idle: Mutex::default(),
        })
    }

    /// Runs a job. Dropping the future kills its worker.
    ///
    /// # Errors
    /// When the job exceeded a limit or crashed, or the machine is at fault.
    pub async fn run(
        self: &Arc<Self>,
        job: &Job,
        component: &ComponentFile,
        log: Option<&dyn LogSink>,
    ) -> Result<Result<Native, String>, CompileError> {
        let _permit = self.permits.acquire(component.owner).await;
        let path = &component.path;
        let limit = self.options.processor_time + job.init_timeout();
        loop {
            // Opened for each worker, because processes share the position of an open file.
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
                exceeded = wait_exceeded(process, limit) => Err(exceeded),
            };
            let error = match ran {
                Ok(Ok(done)) => {
                    self.put_idle(worker);
                    return Ok(done);
                }
                Ok(Err(error)) => error,
                Err(exceeded) => {
                    worker.kill().await;
                    let job = job.label();
                    return Err(match exceeded {
                        Exceeded::Cpu => CompileError::Time { job, limit },
                        Exceeded::Wall(time) => CompileError::Crash {
                            job,
                            how: format!(
                                "it was killed because it had not finished after {time:?}"
                            ),
                        },
                    });
                }
            };
            let jobs = worker.jobs;
            let end = worker.end().await;
            tracing::warn!(job = job.label(), jobs, %error, ?end, "compile worker ended during a job");
            // Only the first job of a worker is blamed: after others, the state that they left may be the reason.
            if jobs == 1 {
                return Err(self.blame(job, end));
            }
        }
    }

    fn blame(&self, job: &Job, end: WorkerEnd) -> CompileError {
        let job = job.label();
        match end {
            WorkerEnd::Memory(found) => CompileError::Memory {
                job,
                found,
                limit_bytes: self.options.memory_bytes,
            },
            WorkerEnd::Crash(how) => CompileError::Crash { job, how },
        }
    }

    async fn start(&self) -> Result<Worker, CompileError> {
        Worker::start(&self.options, self.allocator, self.compatibility)
            .await
            .map_err(CompileError::Start)
    }

    fn take_idle(&self) -> Option<Worker> {
        self.idle.lock().pop().map(|idle| idle.worker)
    }

    /// Keeps an idle worker for a while.
    fn put_idle(self: &Arc<Self>, worker: Worker) {
        let idle = match worker.resident_bytes() {
            Some(LARGE_BYTES..) => LARGE_IDLE,
            _ => IDLE,
        };
        let until = Instant::now() + idle;
        self.idle.lock().push(IdleWorker { worker, until });
        let workers = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            if let Some(workers) = workers.upgrade() {
                let now = Instant::now();
                workers.idle.lock().retain(|idle| idle.until > now);
            }
        });
    }
}
