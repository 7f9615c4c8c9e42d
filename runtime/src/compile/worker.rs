//! A worker process: the node's handle of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use super::WorkerOptions;
use super::job::{Job, Native};
use super::messages::{Setup, WorkerMessage};
use crate::engine::Allocator;
use crate::log::{LogLine, LogSink, truncate_line};
use crate::process::barrier::Barrier;
use crate::process::{frames, signal_name};
use crate::snapshot::REPLICA_NAME;

/// How long a worker may take until it is ready for jobs.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a worker may run after its stream was closed, before it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are kept of the end of a worker's standard error.
const MAX_STDERR_BYTES: usize = 4 << 10;
/// What the standard library prints before it aborts because an allocation failed.
const NO_MEMORY: &str = "memory allocation of ";

/// A worker process. Dropping this kills it.
pub(super) struct Worker {
    child: Child,
    stream: UnixStream,
    stderr: StderrTail,
    /// Jobs that the worker has begun.
    pub jobs: u64,
}

/// The end of what a worker has written to its standard error; complete once the task has ended.
struct StderrTail {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

/// How a worker ended during a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WorkerEnd {
    /// An allocation failed; with the message.
    Memory(String),
    /// Anything else; the text follows "ended its compile worker:".
    Crash(String),
}

impl Worker {
    /// Starts a worker and waits until it is ready.
    ///
    /// # Errors
    /// Why it does not start, or that it compiles for a different engine than the node's.
    pub async fn start(
        options: &WorkerOptions,
        allocator: Allocator,
        compatibility: [u64; 2],
    ) -> Result<Self, String> {
        let started = Self::spawn(options).map_err(|e| e.to_string());
        let mut worker = started?;
        let setup = worker.set_up(options, allocator, compatibility);
        let ready = match tokio::time::timeout(SETUP_TIMEOUT, setup).await {
            Ok(ready) => ready.map_err(|e| e.to_string()),
            Err(_) => Err(format!("it was not ready within {SETUP_TIMEOUT:?}")),
        };
        match ready {
            Ok(()) => Ok(worker),
            Err(error) => match worker.end().await {
                WorkerEnd::Memory(end) | WorkerEnd::Crash(end) => Err(format!("{error}; {end}")),
            },
        }
    }

    fn spawn(options: &WorkerOptions) -> io::Result<Self> {
        // The worker can later open only folders that exist when it confines itself.
        std::fs::create_dir_all(&options.files)?;
        let (stream, theirs) = std::os::unix::net::UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let mut child = Command::new(&options.program)
            .arg("compile-worker")
            .env_clear()
            // mimalloc reserves memory in steps of a GiB, all of which would count towards the limit.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            // An idle worker returns memory at once instead of at its next allocation.
            .env("MIMALLOC_PURGE_DELAY", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C must reach only the node, which lets requests finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stderr = child.stderr.take();
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            child,
            stderr: StderrTail::read(stderr),
            jobs: 0,
        })
    }

    async fn set_up(
        &mut self,
        options: &WorkerOptions,
        allocator: Allocator,
        compatibility: [u64; 2],
    ) -> io::Result<()> {
        let setup = Setup {
            allocator,
            memory_bytes: options.memory_bytes,
            files: options.files.clone(),
        };
        frames::write_frame_async(&mut self.stream, &setup).await?;
        match frames::read_frame_async(&mut self.stream).await? {
            Some(WorkerMessage::Ready {
                compatibility: theirs,
                barriers,
            }) => {
                if theirs != compatibility {
                    return Err(io::Error::other(format!(
                        "it compiles for another engine: found {theirs:x?}, expected {compatibility:x?}"
                    )));
                }
                tracing::info!(
                    process = self.child.id(),
                    confined_by = Barrier::names(&barriers).join(", "),
                    "compile worker started"
                );
                Ok(())
            }
            Some(_) => Err(io::Error::other("its first message is not `Ready`")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Runs a job. Lines that its `init` prints go to `log`. After an error the worker cannot be used again.
    ///
    /// # Errors
    /// When the worker has ended or violates the protocol.
    pub async fn run(
        &mut self,
        job: &Job,
        component: &File,
        log: Option<&dyn LogSink>,
        max_bytes: u64,
    ) -> io::Result<Result<Native, String>> {
        self.jobs += 1;
        let code = File::from(memfd_create("samovar-compiled", MemfdFlags::CLOEXEC)?);
        self.stream
            .async_io(Interest::WRITABLE, || {
                frames::send_files(&self.stream, [component.as_fd(), code.as_fd()])
            })
            .await?;
        frames::write_frame_async(&mut self.stream, job).await?;
        loop {
            match frames::read_frame_async(&mut self.stream).await? {
                Some(WorkerMessage::Line { level, message }) => {
                    if let Some(log) = log {
                        log.write(LogLine {
                            time: SystemTime::now(),
                            level,
                            replica: REPLICA_NAME.into(),
                            request_id: None,
                            message: truncate_line(message, false),
                        });
                    }
                }
                Some(WorkerMessage::Done(Ok(support))) => {
                    let read = tokio::task::spawn_blocking(move || read_code(&code, max_bytes));
                    let code = read.await.map_err(io::Error::other)??;
                    return Ok(Ok(Native { support, code }));
                }
                Some(WorkerMessage::Done(Err(why))) => return Ok(Err(why)),
                Some(WorkerMessage::Ready { .. }) => {
                    return Err(io::Error::other("it sent `Ready` during a job"));
                }
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// The process id.
    pub fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.child.id()?);
        let status = std::fs::read_to_string(path).ok()?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }

    /// Kills the worker, and waits until its memory is free.
    pub async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "compile worker cannot be killed");
        }
    }

    /// Waits until a worker that failed has ended, and returns how.
    pub async fn end(mut self) -> WorkerEnd {
        drop(self.stream);
        let status = match tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => match self.child.start_kill() {
                Ok(()) => self.child.wait().await,
                Err(error) => Err(error),
            },
        };
        let stderr = self.stderr.last().await;
        match status {
            Ok(status) => describe(status, &stderr),
            Err(error) => WorkerEnd::Crash(format!("how it ended is unknown: {error}")),
        }
    }
}

/// Copies the code that a worker wrote. The worker may still have the file open, so it must not be mapped.
fn read_code(code: &File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let size = code.metadata()?.len();
    if size > max_bytes {
        return Err(io::Error::other(format!(
            "found {size} bytes of code; the limit is {max_bytes}"
        )));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    code.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl StderrTail {
    fn read(stderr: Option<ChildStderr>) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let kept = text.clone();
        let reader = tokio::spawn(async move {
            let Some(mut stderr) = stderr else {
                return;
            };
            let mut buffer = [0; 1024];
            while let Ok(bytes @ 1..) = stderr.read(&mut buffer).await {
                let mut text = kept.lock();
                text.extend_from_slice(&buffer[..bytes]);
                let surplus = text.len().saturating_sub(MAX_STDERR_BYTES);
                text.drain(..surplus);
            }
        });
        Self { text, reader }
    }

    async fn last(self) -> String {
        let _ = tokio::time::timeout(EXIT_TIMEOUT, self.reader).await;
        let text = self.text.lock();
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

fn describe(status: ExitStatus, stderr: &str) -> WorkerEnd {
    if !stderr.is_empty() {
        tracing::warn!(%status, stderr, "compile worker ended");
    }
    let failed = stderr.lines().rev().find(|line| line.contains(NO_MEMORY));
    if let Some(line) = failed
        && status.signal() == Some(libc::SIGABRT)
    {
        return WorkerEnd::Memory(line.to_owned());
    }
    match status.signal() {
        Some(libc::SIGXFSZ) => WorkerEnd::Memory("the compiled code is larger".into()),
        Some(libc::SIGKILL) => WorkerEnd::Crash(
            "it was killed by SIGKILL, as the system does when the machine is out of memory".into(),
        ),
        Some(signal) => WorkerEnd::Crash(format!("it was killed by {}", signal_name(signal))),
        None => WorkerEnd::Crash(format!("it ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_worker_ended_follows_from_its_status_and_its_last_lines() {
        let signal = ExitStatus::from_raw;
        let stderr = "other\nmemory allocation of 64 bytes failed\n";
        assert_eq!(
            describe(signal(libc::SIGABRT), stderr),
            WorkerEnd::Memory("memory allocation of 64 bytes failed".into())
        );
        let crash = |status, stderr| match describe(status, stderr) {
            WorkerEnd::Crash(how) => how,
            WorkerEnd::Memory(found) => panic!("{found}"),
        };
        assert!(crash(signal(libc::SIGABRT), "").contains("SIGABRT"));
        assert!(crash(signal(libc::SIGSEGV), stderr).contains("SIGSEGV"));
        assert!(crash(signal(libc::SIGKILL), "").contains("out of memory"));
        assert!(crash(signal(3 << 8), "").contains('3'));
    }
}
