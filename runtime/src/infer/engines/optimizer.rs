//! Makes faster forms of models in worker processes, and puts them into the cache.
//!
//! A worker can read one model and write one empty file, so a model that takes over its worker can only corrupt its own form. Engines,
//! which compute with inputs of callers, can only read forms.

mod serve;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::infer::backend::forms;
use crate::infer::backend::model_cache::ModelCache;
use crate::infer::graph::max_loads;
use crate::process::clock::{Exceeded, wait_exceeded};
use crate::process::confine::Confinement;
use crate::process::{frames, signal_name};
pub use serve::serve;

/// The argument that makes the program a worker.
const WORKER: &str = "optimize-worker";
/// CPU time limit of a worker, in addition to a multiple of the time of the load.
const BASE_TIME: Duration = Duration::from_secs(10);
const LOAD_TIME_FACTOR: u32 = 10;
/// Most models that are remembered as made by this process.
const MAX_REMEMBERED: usize = 4096;

/// The exit code of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExitCode {
    Made = 0,
    Failed = 1,
    /// The form does not load faster than the model, or is too large.
    NotWorthIt = 10,
}

/// The job of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    backend: String,
    /// The library of the backend, which is opened before the worker is confined.
    library: Option<PathBuf>,
    model: PathBuf,
    threads: usize,
    /// The empty file for the form.
    to: PathBuf,
    confinement: Confinement,
}

/// A model whose form is to be made.
pub(super) struct FormRequest<'a> {
    pub backend: &'static str,
    pub library: Option<PathBuf>,
    /// The name of the folder of cached forms, as the backend reported it before it read any model.
    pub folder: &'a str,
    pub digest: &'a str,
    pub model: &'a Path,
    pub threads: usize,
    /// Duration of the load of the model.
    pub load_time: Duration,
}

/// Makes forms.
pub(super) struct Optimizer {
    program: PathBuf,
    /// Limit of a worker's private memory in bytes.
    memory_bytes: Option<u64>,
    root: PathBuf,
    caches: Mutex<HashMap<(&'static str, String), Arc<ModelCache>>>,
    /// Backends and digests of the models whose forms were made.
    made: Mutex<HashSet<(&'static str, String)>>,
    /// One permit per worker, as many as graphs load at once. If all are taken, a model is used without its form, which may be made
    /// the next time.
    workers: Semaphore,
}

impl Optimizer {
    /// Makes forms with workers of this program and caches them below `root`.
    pub fn new(program: PathBuf, memory_bytes: Option<u64>, root: PathBuf) -> Self {
        Self {
            program,
            memory_bytes,
            root,
            caches: Mutex::default(),
            made: Mutex::default(),
            workers: Semaphore::new(max_loads()),
        }
    }

    /// Removes the forms of other versions of a backend, and creates the folder that its engines read.
    pub fn prepare(&self, backend: &str, folder: &str) {
        if let Err(error) = self.cache(backend, folder) {
            tracing::warn!(backend, error, "optimized models are not cached");
        }
    }

    fn cache(&self, backend: &str, folder: &str) -> Result<Arc<ModelCache>, String> {
        let (backend, ending) = forms::find_backend(backend)
            .ok_or_else(|| format!("there is no backend `{backend}`"))?;
        if folder.is_empty() || !folder.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("`{folder}` is not the name of a folder of forms"));
        }
        let mut caches = lock(&self.caches);
        if let Some(cache) = caches.get(&(backend, folder.to_owned())) {
            return Ok(cache.clone());
        }
        let cache = ModelCache::open_named(&self.root.join(backend), folder, ending);
        let cache = Arc::new(cache.map_err(|e| e.to_string())?);
        // The folder of another version was removed.
        caches.retain(|(of, _), _| *of != backend);
        caches.insert((backend, folder.to_owned()), cache.clone());
        Ok(cache)
    }

    /// Makes the form of a model. Returns whether it exists now, and logs errors. Blocks.
    pub fn make(
        &self,
        request: &FormRequest<'_>,
        executor: &Handle,
        abandoned: Option<&CancellationToken>,
    ) -> bool {
        let FormRequest {
            backend, digest, ..
        } = *request;
        let made = self.try_make(request, executor, abandoned);
        made.unwrap_or_else(|error| {
            tracing::warn!(
                digest,
                backend,
                error,
                "optimized form of a model cannot be made"
            );
            false
        })
    }

    fn try_make(
        &self,
        request: &FormRequest<'_>,
        executor: &Handle,
        abandoned: Option<&CancellationToken>,
    ) -> Result<bool, String> {
        let cache = self.cache(request.backend, request.folder)?;
        let key = (request.backend, request.digest.to_owned());
        // A form that this process made does not load in the engine. Making it again would not help.
        let is_useless = cache.contains(request.digest) && lock(&self.made).contains(&key);
        if is_useless || cache.is_declined(request.digest) {
            return Ok(false);
        }
        let Ok(_permit) = self.workers.try_acquire() else {
            return Ok(false);
        };
        let to = cache.create_entry().map_err(|e| e.to_string())?;
        let library = request.library.clone();
        let library_folder = library.as_deref().and_then(Path::parent);
        let read = library_folder.into_iter().chain([request.model]);
        let job = Job {
            backend: request.backend.into(),
            confinement: Confinement {
                read: read.map(Path::to_path_buf).collect(),
                write: vec![to.as_ref().to_owned()],
                memory_bytes: self.memory_bytes,
            },
            library,
            model: request.model.to_owned(),
            threads: request.threads,
            to: to.as_ref().to_owned(),
        };
        let limit = BASE_TIME + request.load_time * LOAD_TIME_FACTOR;
        let end = {
            // Required by its timers and its process.
            let _entered = executor.enter();
            futures::executor::block_on(self.run(&job, limit, abandoned))?
        };
        match end {
            WorkerEnd::Made => {
                // No process has the file open now.
                cache
                    .commit(request.digest, to)
                    .map_err(|e| e.to_string())?;
                let mut made = lock(&self.made);
                if made.len() >= MAX_REMEMBERED {
                    made.clear();
                }
                made.insert(key);
                Ok(true)
            }
            WorkerEnd::NotWorthIt => {
                cache.decline(request.digest);
                Ok(false)
            }
            WorkerEnd::Failed(error) => {
                cache.decline(request.digest);
                Err(error)
            }
            WorkerEnd::Abandoned => Ok(false),
            WorkerEnd::Killed => Err("its worker was killed".into()),
        }
    }

    /// Runs a worker to its end.
    async fn run(
        &self,
        job: &Job,
        limit: Duration,
        abandoned: Option<&CancellationToken>,
    ) -> Result<WorkerEnd, String> {
        let failed = |e: io::Error| format!("no worker can be started: {e}");
        let (stream, mut child) = self.start().map_err(failed)?;
        frames::write_frame(&stream, job).map_err(failed)?;
        let process = child.id();
        let cancelled = async {
            match abandoned {
                Some(abandoned) => abandoned.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            status = child.wait() => return status.map(classify).map_err(failed),
            exceeded = wait_exceeded(process, limit) => WorkerEnd::Failed(match exceeded {
                Exceeded::Cpu => format!("its worker took more than {limit:?} of processor time"),
                Exceeded::Wall(time) => format!("its worker did not finish within {time:?}"),
            }),
            () = cancelled => WorkerEnd::Abandoned,
        };
        // Waits for its end, after which it cannot write.
        child.kill().await.map_err(failed)?;
        Ok(end)
    }

    fn start(&self) -> io::Result<(UnixStream, Child)> {
        let (stream, theirs) = UnixStream::pair()?;
        let child = Command::new(&self.program)
            .arg(WORKER)
            .env_clear()
            // Address space that the allocator only reserves does not count towards the memory limit.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            .envs(super::handle::passed_variables())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for the node.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok((stream, child))
    }

    /// Forgets that forms of a model were made, because they are deleted.
    pub fn delete_derived(&self, digest: &str) {
        lock(&self.made).retain(|(_, made)| made != digest);
    }

    /// Removes a form that does not load, and marks the model as not worth optimizing.
    pub fn decline(&self, backend: &'static str, folder: &str, digest: &str) {
        if let Ok(cache) = self.cache(backend, folder) {
            cache.remove(digest);
            cache.decline(digest);
        }
    }
}

/// How a worker ended.
#[derive(Debug, PartialEq, Eq)]
enum WorkerEnd {
    Made,
    NotWorthIt,
    /// Because of the model.
    Failed(String),
    /// Killed by another process, such as the OOM killer.
    Killed,
    /// No caller waits for the model any more.
    Abandoned,
}

fn classify(status: ExitStatus) -> WorkerEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) if code == ExitCode::Made as i32 => WorkerEnd::Made,
        (Some(code), _) if code == ExitCode::NotWorthIt as i32 => WorkerEnd::NotWorthIt,
        (_, Some(libc::SIGKILL)) => WorkerEnd::Killed,
        (_, Some(signal)) => {
            WorkerEnd::Failed(format!("its worker was killed by {}", signal_name(signal)))
        }
        _ => WorkerEnd::Failed(format!("its worker ended with {status}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_whether_the_form_was_made() {
        let exit = |code: i32| classify(ExitStatus::from_raw(code << 8));
        assert_eq!(exit(0), WorkerEnd::Made);
        assert_eq!(exit(10), WorkerEnd::NotWorthIt);
        assert!(matches!(exit(1), WorkerEnd::Failed(_)));
        let signal = |signal| classify(ExitStatus::from_raw(signal));
        assert_eq!(signal(libc::SIGKILL), WorkerEnd::Killed);
        let crashed = signal(libc::SIGSEGV);
        assert_eq!(
            crashed,
            WorkerEnd::Failed("its worker was killed by SIGSEGV".into())
        );
    }

    #[test]
    fn forms_are_only_in_folders_of_known_backends() {
        let root = tempfile::tempdir().unwrap();
        let optimizer = Optimizer::new("/nowhere".into(), None, root.path().to_owned());
        assert!(optimizer.cache("rten", "00ff").is_ok());
        assert!(optimizer.cache("rten", "../00ff").is_err());
        assert!(optimizer.cache("rten", "").is_err());
        assert!(optimizer.cache("../rten", "00ff").is_err());
        optimizer.cache("rten", "01ff").unwrap();
        assert!(!root.path().join("rten/00ff").exists());
    }

    #[test]
    fn the_number_of_workers_is_limited() {
        let optimizer = Optimizer::new("/nowhere".into(), None, "/nowhere".into());
        let permits: Vec<_> = (0..max_loads())
            .map(|_| optimizer.workers.try_acquire().unwrap())
            .collect();
        assert!(optimizer.workers.try_acquire().is_err());
        assert!(optimizer.workers.try_acquire().is_err());
        drop(permits);
        assert!(optimizer.workers.try_acquire().is_ok());
    }
}
