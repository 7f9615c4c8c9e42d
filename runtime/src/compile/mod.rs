//! Compiles components and takes their snapshots, in worker processes with limits or in this process.
//!
//! `job.rs` is the work itself; `serve.rs` does it in a worker; `worker.rs` is the node's handle of one worker; `workers.rs` gives
//! jobs to workers, and kills a worker whose job exceeds a limit or is cancelled.

mod job;
mod messages;
mod owners;
mod serve;
mod worker;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::SharedEngine;
use crate::fair_semaphore::FairSemaphore;
use crate::permits::Owner;
use crate::snapshot::{self, SnapshotContext};
pub(crate) use job::{Job, Native};
pub use serve::serve;
use workers::WorkerPool;

/// Largest component, in bytes; a larger one is refused before it is compiled.
pub(crate) const MAX_COMPONENT_BYTES: u64 = 256 << 20;

/// A component on disk.
#[derive(Clone, Debug)]
pub struct ComponentFile {
    /// SHA-256 of the file, 64 hex digits.
    pub digest: String,
    /// The file of the component.
    pub path: PathBuf,
    /// On whose behalf it is compiled. With workers, an owner has one job at a time, and owners take turns.
    pub owner: Owner,
}

/// Where components are compiled.
#[derive(Clone, Debug, Default)]
pub enum Compilation {
    /// In this process, without limits on memory and time.
    #[default]
    InProcess,
    /// In worker processes with limits.
    Workers(WorkerOptions),
}

/// How components are compiled in worker processes.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// A program that calls [`serve`] when its first argument is `compile-worker`.
    pub program: PathBuf,
    /// Most jobs at once, each in a worker of its own.
    pub max_workers: usize,
    /// Private memory that a worker may use, in bytes.
    pub memory_bytes: u64,
    /// CPU time that a job may use, added up over all cores. A snapshot has the request timeout for its `init` in addition.
    pub processor_time: Duration,
    /// The folder that holds the files of all deployments, which an `init` may read.
    pub files: PathBuf,
}

/// Why compiling a component failed, other than by a defect that the compiler reports.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The job exceeded its memory.
    #[error(
        "{job} takes more memory than a compile worker may have: {found}, the limit is {} MiB. Make the component smaller, \
         or raise the limit with `samovar serve --compile-memory`",
        limit_bytes >> 20
    )]
    Memory {
        /// The job.
        job: &'static str,
        /// The allocation that failed.
        found: String,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The job exceeded its time.
    #[error(
        "{job} takes more than {limit:?} of processor time, the limit of a compile worker. Make the component smaller, or \
         raise the limit with `samovar serve --compile-time`"
    )]
    Time {
        /// The job.
        job: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The job crashed its worker.
    #[error(
        "{job} ended its compile worker: {how}. Change the component, or build it with another version of its tools; the \
         server's log has the last lines of the worker"
    )]
    Crash {
        /// The job.
        job: &'static str,
        /// How the process ended.
        how: String,
    },
    /// No worker process can be started.
    #[error("no compile worker can be started: {0}")]
    Start(String),
    /// The component cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The component's file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A task that compiles panicked, which is a bug.
    #[error("compiling stopped unexpectedly: {0}")]
    Stopped(String),
}

impl CompileError {
    /// Whether the component is at fault, and not the machine.
    pub fn blames_component(&self) -> bool {
        match self {
            Self::Memory { .. } | Self::Time { .. } | Self::Crash { .. } => true,
            Self::Start(_) | Self::Read { .. } | Self::Stopped(_) => false,
        }
    }
}

/// Most jobs at once in this process.
const MAX_JOBS: usize = 2;

/// Compiles components, in this process or in workers. Jobs return native code, or what the compiler says against the component.
pub(crate) enum Compiler {
    /// In this process.
    InProcess {
        engine: Arc<SharedEngine>,
        jobs: FairSemaphore,
    },
    /// In workers.
    Workers(Arc<WorkerPool>),
}

impl Compiler {
    /// A compiler for this engine.
    pub fn new(compilation: Compilation, engine: Arc<SharedEngine>) -> Self {
        match compilation {
            Compilation::InProcess => Self::InProcess {
                engine,
                jobs: FairSemaphore::new(MAX_JOBS),
            },
            Compilation::Workers(options) => Self::Workers(WorkerPool::new(options, &engine)),
        }
    }

    /// Compiles a component. Dropping the future cancels the job and ends its worker.
    ///
    /// # Errors
    /// When the job exceeded a limit or crashed, or the machine is at fault.
    pub async fn compile(
        &self,
        component: &ComponentFile,
    ) -> Result<Result<Native, String>, CompileError> {
        match self {
            Self::InProcess { engine, jobs } => {
                let permit = jobs.acquire(component.owner).await;
                let (engine, path) = (engine.clone(), component.path.clone());
                blocking(move || {
                    // Held until the work ends, even if the caller has gone.
                    let _permit = permit;
                    Ok(job::compile(&engine, &read(&path)?))
                })
                .await
            }
            Self::Workers(workers) => workers.run(&Job::Compile, component, None).await,
        }
    }

    /// Compiles the snapshot of a component. Dropping the future cancels the job and ends its worker.
    ///
    /// # Errors
    /// When the job exceeded a limit or crashed, or the machine is at fault.
    pub async fn snapshot(
        &self,
        component: &ComponentFile,
        context: SnapshotContext,
    ) -> Result<Result<Native, String>, CompileError> {
        match self {
            Self::InProcess { engine, jobs } => {
                let (engine, path) = (engine.clone(), component.path.clone());
                let bytes = blocking(move || read(&path)).await?;
                let taken = match snapshot::take(context, bytes).await {
                    Ok(taken) => taken,
                    Err(why) => return Ok(Err(why)),
                };
                let permit = jobs.acquire(component.owner).await;
                blocking(move || {
                    let _permit = permit;
                    Ok(job::compile_snapshot(&engine, &taken))
                })
                .await
            }
            Self::Workers(workers) => {
                let job = Job::Snapshot {
                    files: context.capabilities.files,
                    memory_bytes: context.limits.memory_bytes,
                    timeout: context.limits.timeout,
                };
                workers.run(&job, component, Some(&*context.log)).await
            }
        }
    }
}

fn read(component: &Path) -> Result<Vec<u8>, CompileError> {
    std::fs::read(component).map_err(|source| CompileError::Read {
        path: component.to_owned(),
        source,
    })
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, CompileError> + Send + 'static,
) -> Result<R, CompileError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| CompileError::Stopped(e.to_string()))?
}
