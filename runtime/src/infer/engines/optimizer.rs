//! Has the form of a model that loads quickest made by a worker process, and puts it in its place.
//!
//! A worker gets one model, which it may read, and one empty file, which it may write. It hears of nothing else, so that a model which
//! takes its worker over spoils nothing but its own form. Engines run on what callers send, and may only read forms.

mod serve;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::infer::backend::forms;
use crate::infer::backend::keep::Keep;
use crate::process::clock::{Exceeded, wait_exceeded};
use crate::process::confine::Confinement;
use crate::process::{frames, signal_name};
pub use serve::serve;

/// The argument with which a program is a worker.
const WORKER: &str = "optimize-worker";
/// Processor time that a worker may take, beside a multiple of what loading the model took.
const BASE_TIME: Duration = Duration::from_secs(10);
const TIMES_LOADING: u32 = 10;
/// Workers at once for each core. A model that finds none free is loaded as it is, and may get its form the next time.
const WORKERS_PER_CORE: usize = 1;
/// Models of which it is remembered that their form was made in this process.
const REMEMBERED: usize = 4096;

/// How a worker says what became of its job: as the code with which its process exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Made = 0,
    Failed = 1,
    /// The form does not load quicker than the model, or is too large.
    NotWorthIt = 10,
}

/// What a worker is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    backend: String,
    /// The file of the backend's library, which is opened before the worker is confined.
    library: Option<PathBuf>,
    model: PathBuf,
    threads: usize,
    /// The empty file.
    to: PathBuf,
    confinement: Confinement,
}

/// A model whose form is wanted.
pub(super) struct Order<'a> {
    pub backend: &'static str,
    pub library: Option<PathBuf>,
    /// The folder in which the backend looks for forms, by its own word before it read any model.
    pub folder: &'a str,
    pub digest: &'a str,
    pub model: &'a Path,
    pub threads: usize,
    /// What loading the model took.
    pub loading: Duration,
}

/// Makes forms.
pub(super) struct Optimizer {
    program: PathBuf,
    /// Bytes of memory of its own that a worker may have.
    memory_bytes: Option<u64>,
    root: PathBuf,
    keeps: Mutex<HashMap<(&'static str, String), Arc<Keep>>>,
    /// Models whose forms were made, by backend and digest.
    made: Mutex<HashSet<(&'static str, String)>>,
    workers: AtomicUsize,
    max_workers: usize,
}

/// One of so many workers at once.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Optimizer {
    /// Forms that are kept below `root`, made by workers of this program.
    pub fn new(program: PathBuf, memory_bytes: Option<u64>, root: PathBuf) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            program,
            memory_bytes,
            root,
            keeps: Mutex::default(),
            made: Mutex::default(),
            workers: AtomicUsize::new(0),
            max_workers: (cores * WORKERS_PER_CORE).max(2),
        }
    }

    /// Removes what other versions of a backend have left, and makes the folder that its engines read.
    pub fn prepare(&self, backend: &str, folder: &str) {
        if let Err(error) = self.keep(backend, folder) {
            tracing::warn!(backend, error, "optimized models are not kept");
        }
    }

    fn keep(&self, backend: &str, folder: &str) -> Result<Arc<Keep>, String> {
        let (backend, ending) =
            forms::known(backend).ok_or_else(|| format!("there is no backend `{backend}`"))?;
        if folder.is_empty() || !folder.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("`{folder}` is no name of a folder of forms"));
        }
        let mut keeps = lock(&self.keeps);
        if let Some(keep) = keeps.get(&(backend, folder.to_owned())) {
            return Ok(keep.clone());
        }
        let keep = Keep::named(&self.root.join(backend), folder, ending);
        let keep = Arc::new(keep.map_err(|e| e.to_string())?);
        // The folder of another version is gone now.
        keeps.retain(|(of, _), _| *of != backend);
        keeps.insert((backend, folder.to_owned()), keep.clone());
        Ok(keep)
    }

    /// Has the form of a model made. Answers whether it is there now; everything else is in the log. For threads that may block.
    pub fn make(
        &self,
        order: &Order<'_>,
        executor: &Handle,
        abandoned: Option<&CancellationToken>,
    ) -> bool {
        let Order {
            backend, digest, ..
        } = *order;
        let made = self.try_make(order, executor, abandoned);
        made.unwrap_or_else(|error| {
            tracing::warn!(
                digest,
                backend,
                error,
                "a model cannot be kept in the form that loads quickest"
            );
            false
        })
    }

    fn try_make(
        &self,
        order: &Order<'_>,
        executor: &Handle,
        abandoned: Option<&CancellationToken>,
    ) -> Result<bool, String> {
        let keep = self.keep(order.backend, order.folder)?;
        let key = (order.backend, order.digest.to_owned());
        // What this process made does not load in the engine. To make it again would change nothing.
        let is_in_vain = keep.has(order.digest) && lock(&self.made).contains(&key);
        if is_in_vain || keep.is_declined(order.digest) {
            return Ok(false);
        }
        let Some(_place) = self.place() else {
            return Ok(false);
        };
        let to = keep.fresh().map_err(|e| e.to_string())?;
        let library = order.library.clone();
        let beside = library.as_deref().and_then(Path::parent);
        let read = beside.into_iter().chain([order.model]);
        let job = Job {
            backend: order.backend.into(),
            confinement: Confinement {
                read: read.map(Path::to_path_buf).collect(),
                write: vec![to.as_ref().to_owned()],
                memory_bytes: self.memory_bytes,
            },
            library,
            model: order.model.to_owned(),
            threads: order.threads,
            to: to.as_ref().to_owned(),
        };
        let limit = BASE_TIME + order.loading * TIMES_LOADING;
        let ended = {
            // For its timers and its process.
            let _entered = executor.enter();
            futures::executor::block_on(self.run(&job, limit, abandoned))?
        };
        match ended {
            Ended::Made => {
                // No process has the file open any more.
                keep.adopt(order.digest, to).map_err(|e| e.to_string())?;
                let mut made = lock(&self.made);
                if made.len() >= REMEMBERED {
                    made.clear();
                }
                made.insert(key);
                Ok(true)
            }
            Ended::NotWorthIt => {
                keep.decline(order.digest);
                Ok(false)
            }
            Ended::Failed(how) => {
                keep.decline(order.digest);
                Err(how)
            }
            Ended::Unwanted => Ok(false),
            Ended::Killed => Err("its worker was killed".into()),
        }
    }

    fn place(&self) -> Option<Place<'_>> {
        let taken = self.workers.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.workers);
        (taken < self.max_workers).then_some(place)
    }

    /// Runs a worker to its end.
    async fn run(
        &self,
        job: &Job,
        limit: Duration,
        abandoned: Option<&CancellationToken>,
    ) -> Result<Ended, String> {
        let failed = |e: io::Error| format!("no worker can be started: {e}");
        let (stream, mut child) = self.start().map_err(failed)?;
        frames::write_frame(&stream, job).map_err(failed)?;
        let process = child.id();
        let lost = async {
            match abandoned {
                Some(abandoned) => abandoned.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let given_up = tokio::select! {
            status = child.wait() => return status.map(ended).map_err(failed),
            exceeded = wait_exceeded(process, limit) => Ended::Failed(match exceeded {
                Exceeded::Cpu => format!("its worker took more than {limit:?} of processor time"),
                Exceeded::Wall(time) => format!("its worker was not done after {time:?}"),
            }),
            () = lost => Ended::Unwanted,
        };
        // Waits until it is gone, so that it writes no more.
        child.kill().await.map_err(failed)?;
        Ok(given_up)
    }

    fn start(&self) -> io::Result<(UnixStream, Child)> {
        let (stream, theirs) = UnixStream::pair()?;
        let child = Command::new(&self.program)
            .arg(WORKER)
            .env_clear()
            // Addresses that the allocator only reserves do not count towards the limit of memory.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            .envs(super::running::passed_on())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for the node.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok((stream, child))
    }

    /// Forgets that the form of a model was made: the file is gone.
    pub fn forget(&self, digest: &str) {
        lock(&self.made).retain(|(_, made)| made != digest);
    }

    /// Removes a form that does not load, and makes no other.
    pub fn decline(&self, backend: &'static str, folder: &str, digest: &str) {
        if let Ok(keep) = self.keep(backend, folder) {
            keep.remove(digest);
            keep.decline(digest);
        }
    }
}

/// How a worker ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Made,
    NotWorthIt,
    /// On account of the model.
    Failed(String),
    /// By another process, as when memory is short.
    Killed,
    /// Nothing wants the model any more.
    Unwanted,
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) if code == Outcome::Made as i32 => Ended::Made,
        (Some(code), _) if code == Outcome::NotWorthIt as i32 => Ended::NotWorthIt,
        (_, Some(libc::SIGKILL)) => Ended::Killed,
        (_, Some(signal)) => {
            Ended::Failed(format!("its worker was killed by {}", signal_name(signal)))
        }
        _ => Ended::Failed(format!("its worker ended with {status}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps, whole at every instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_worker_says_what_became_of_the_form() {
        let exit = |code: i32| ended(ExitStatus::from_raw(code << 8));
        assert_eq!(exit(0), Ended::Made);
        assert_eq!(exit(10), Ended::NotWorthIt);
        assert!(matches!(exit(1), Ended::Failed(_)));
        let signal = |signal| ended(ExitStatus::from_raw(signal));
        assert_eq!(signal(libc::SIGKILL), Ended::Killed);
        let crashed = signal(libc::SIGSEGV);
        assert_eq!(
            crashed,
            Ended::Failed("its worker was killed by SIGSEGV".into())
        );
    }

    #[test]
    fn forms_lie_in_folders_of_known_backends_alone() {
        let root = tempfile::tempdir().unwrap();
        let optimizer = Optimizer::new("/nowhere".into(), None, root.path().to_owned());
        assert!(optimizer.keep("rten", "00ff").is_ok());
        assert!(optimizer.keep("rten", "../00ff").is_err());
        assert!(optimizer.keep("rten", "").is_err());
        assert!(optimizer.keep("../rten", "00ff").is_err());
        optimizer.keep("rten", "01ff").unwrap();
        assert!(!root.path().join("rten/00ff").exists());
    }

    #[test]
    fn no_more_workers_run_at_once_than_may() {
        let optimizer = Optimizer::new("/nowhere".into(), None, "/nowhere".into());
        let places: Vec<_> = (0..optimizer.max_workers)
            .map(|_| optimizer.place().unwrap())
            .collect();
        assert!(optimizer.place().is_none());
        assert!(optimizer.place().is_none());
        drop(places);
        assert!(optimizer.place().is_some());
    }
}
