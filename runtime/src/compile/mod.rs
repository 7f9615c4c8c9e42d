//! Compiles components and takes their snapshots: in worker processes with limits, or in this process.
//!
//! `job.rs` is what is done with a component; `serve.rs` does it in a worker; `worker.rs` is one worker as the node sees it;
//! `workers.rs` gives jobs to workers, and kills a worker whose job exceeds a limit or is cancelled.

mod job;
mod messages;
mod owners;
mod serve;
mod worker;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::budget::Owner;
use crate::engine::SharedEngine;
use crate::snapshot::{self, Setting};
use crate::turns::Turns;
pub(crate) use job::{Job, Native};
pub use serve::serve;
use workers::Workers;

/// A larger component is refused before a compiler sees it.
pub(crate) const MAX_COMPONENT_BYTES: u64 = 256 << 20;

/// Where a component's bytes lie.
#[derive(Clone, Debug)]
pub struct ComponentFile {
    /// SHA-256 of the file, 64 hex digits.
    pub digest: String,
    /// The file.
    pub path: PathBuf,
    /// Who has it compiled. In workers an owner has one job at a time, and owners take turns.
    pub owner: Owner,
}

/// Where components are compiled.
#[derive(Clone, Debug, Default)]
pub enum Compilation {
    /// In this process, without limits of memory and time.
    #[default]
    InProcess,
    /// In worker processes.
    Workers(WorkerOptions),
}

/// How components are compiled in worker processes.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// A program that calls [`serve`] when its first argument is `compile-worker`.
    pub program: PathBuf,
    /// Jobs at once, each in a worker of its own.
    pub max_workers: usize,
    /// Bytes of private memory of a worker.
    pub memory_bytes: u64,
    /// Processor time of a job on all cores together, without what `init` may take for a snapshot.
    pub processor_time: Duration,
    /// The folder below which deployments have their files, which `init` may read.
    pub files: PathBuf,
}

/// Why a component was neither compiled nor refused.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The job exceeded its memory.
    #[error(
        "{job} takes more memory than a compile worker may have: {found}, the limit is {} MiB. Make the component smaller, \
         or raise the limit with `samovar serve --compile-memory`",
        limit_bytes >> 20
    )]
    Memory {
        /// What was done.
        job: &'static str,
        /// Which allocation failed.
        found: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// The job exceeded its time.
    #[error(
        "{job} takes more than {limit:?} of processor time, the limit of a compile worker. Make the component smaller, or \
         raise the limit with `samovar serve --compile-time`"
    )]
    Time {
        /// What was done.
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
        /// What was done.
        job: &'static str,
        /// How the process ended.
        how: String,
    },
    /// No worker can be started, which is not the component's fault.
    #[error("no compile worker can be started: {0}")]
    Start(String),
    /// The component cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Its file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A bug: a task that compiles must not panic.
    #[error("compiling stopped unexpectedly: {0}")]
    Stopped(String),
}

impl CompileError {
    /// Whether the component is at fault.
    pub fn blames_component(&self) -> bool {
        match self {
            Self::Memory { .. } | Self::Time { .. } | Self::Crash { .. } => true,
            Self::Start(_) | Self::Read { .. } | Self::Stopped(_) => false,
        }
    }
}

/// Jobs that compile at once in this process.
const JOBS_AT_ONCE: usize = 2;

/// Compiles components. Native code, or why the component cannot have any.
pub(crate) enum Compiler {
    /// In this process.
    InProcess {
        engine: Arc<SharedEngine>,
        turns: Turns,
    },
    /// In workers.
    Workers(Arc<Workers>),
}

impl Compiler {
    /// Code for this engine.
    pub fn new(compilation: Compilation, engine: Arc<SharedEngine>) -> Self {
        match compilation {
            Compilation::InProcess => Self::InProcess {
                engine,
                turns: Turns::new(JOBS_AT_ONCE),
            },
            Compilation::Workers(options) => Self::Workers(Workers::new(options, &engine)),
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
            Self::InProcess { engine, turns } => {
                let turn = turns.take(component.owner).await;
                let (engine, path) = (engine.clone(), component.path.clone());
                blocking(move || {
                    // Kept until the work ends, also when nobody waits for it any more.
                    let _turn = turn;
                    Ok(job::compile(&engine, &read(&path)?))
                })
                .await
            }
            Self::Workers(workers) => workers.run(&Job::Compile, component, None).await,
        }
    }

    /// Compiles a component as its `init` leaves it. Dropping the future cancels the job and ends its worker.
    ///
    /// # Errors
    /// When the job exceeded a limit or crashed, or the machine is at fault.
    pub async fn snapshot(
        &self,
        component: &ComponentFile,
        setting: Setting,
    ) -> Result<Result<Native, String>, CompileError> {
        match self {
            Self::InProcess { engine, turns } => {
                let (engine, path) = (engine.clone(), component.path.clone());
                let bytes = blocking(move || read(&path)).await?;
                let taken = match snapshot::take(setting, bytes).await {
                    Ok(taken) => taken,
                    Err(why) => return Ok(Err(why)),
                };
                let turn = turns.take(component.owner).await;
                blocking(move || {
                    let _turn = turn;
                    Ok(job::compile_taken(&engine, &taken))
                })
                .await
            }
            Self::Workers(workers) => {
                let job = Job::Snapshot {
                    files: setting.capabilities.files,
                    memory_bytes: setting.limits.memory_bytes,
                    timeout: setting.limits.timeout,
                };
                workers.run(&job, component, Some(&*setting.log)).await
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
