//! One worker process, as the node sees it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use super::WorkerOptions;
use super::job::{Job, Native};
use super::messages::{Answer, Open};
use crate::engine::Allocator;
use crate::log::{LogLine, LogSink, line};
use crate::process::barrier::Barrier;
use crate::process::{frames, signal_name};
use crate::snapshot::REPLICA;

/// How long a worker may take until it is ready for jobs.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a worker that closed its stream has until it is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// What is kept of the end of a worker's standard error.
const MAX_SAID_BYTES: usize = 4 << 10;
/// What the standard library prints before it aborts for want of memory.
const NO_MEMORY: &str = "memory allocation of ";

/// A worker. It is killed when this is dropped.
pub(super) struct Worker {
    child: Child,
    stream: UnixStream,
    said: Said,
    /// Jobs that it has begun.
    pub jobs: u64,
}

/// The end of what a worker wrote to its standard error, complete when the task has ended.
struct Said {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

/// How a worker ended in the middle of a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// An allocation failed, with what it said of it.
    Memory(String),
    /// Anything else, in words that follow "ended its compile worker:".
    Crash(String),
}

impl Worker {
    /// Starts a worker and waits until it is ready.
    ///
    /// # Errors
    /// In words, when it does not start, or compiles for another engine than the node's.
    pub async fn start(
        options: &WorkerOptions,
        allocator: Allocator,
        compatibility: [u64; 2],
    ) -> Result<Self, String> {
        let started = Self::spawn(options).map_err(|e| e.to_string());
        let mut worker = started?;
        let opening = worker.open(options, allocator, compatibility);
        let opened = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(opened) => opened.map_err(|e| e.to_string()),
            Err(_) => Err(format!("it was not ready within {OPEN_TIMEOUT:?}")),
        };
        match opened {
            Ok(()) => Ok(worker),
            Err(error) => match worker.end().await {
                End::Memory(end) | End::Crash(end) => Err(format!("{error}; {end}")),
            },
        }
    }

    fn spawn(options: &WorkerOptions) -> io::Result<Self> {
        // What is not there when the worker confines itself cannot be opened later.
        std::fs::create_dir_all(&options.files)?;
        let (stream, theirs) = std::os::unix::net::UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let mut child = Command::new(&options.program)
            .arg("compile-worker")
            .env_clear()
            // The allocator reserves memory in steps of a GiB. Without this all of it counts as used.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            // An idle worker gives its memory back, which otherwise happens with later allocations.
            .env("MIMALLOC_PURGE_DELAY", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for the node, which lets requests finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stderr = child.stderr.take();
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            child,
            said: Said::read(stderr),
            jobs: 0,
        })
    }

    async fn open(
        &mut self,
        options: &WorkerOptions,
        allocator: Allocator,
        compatibility: [u64; 2],
    ) -> io::Result<()> {
        let open = Open {
            allocator,
            memory_bytes: options.memory_bytes,
            files: options.files.clone(),
        };
        frames::write_frame_async(&mut self.stream, &open).await?;
        match frames::read_frame_async(&mut self.stream).await? {
            Some(Answer::Opened {
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
            Some(_) => Err(io::Error::other("its first answer is not `Opened`")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Runs a job; lines of its `init` go to the log. After an error the worker is of no more use.
    ///
    /// # Errors
    /// When the worker is gone, or does not answer as a worker does.
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
                Some(Answer::Line { level, message }) => {
                    if let Some(log) = log {
                        log.write(LogLine {
                            time: SystemTime::now(),
                            level,
                            replica: REPLICA.into(),
                            request_id: None,
                            message: line(message, false),
                        });
                    }
                }
                Some(Answer::Done(Ok(calls))) => {
                    let read = tokio::task::spawn_blocking(move || read(&code, max_bytes));
                    let code = read.await.map_err(io::Error::other)??;
                    return Ok(Ok(Native { calls, code }));
                }
                Some(Answer::Done(Err(why))) => return Ok(Err(why)),
                Some(Answer::Opened { .. }) => {
                    return Err(io::Error::other("it opened in the middle of a job"));
                }
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Its process.
    pub fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Memory that it holds now.
    pub fn resident_bytes(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.child.id()?);
        let status = std::fs::read_to_string(path).ok()?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }

    /// Kills it, and waits until its memory is free.
    pub async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "compile worker cannot be killed");
        }
    }

    /// Waits for the end of a worker that failed, and says how it ended.
    pub async fn end(mut self) -> End {
        drop(self.stream);
        let status = match tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => match self.child.start_kill() {
                Ok(()) => self.child.wait().await,
                Err(error) => Err(error),
            },
        };
        let said = self.said.last().await;
        match status {
            Ok(status) => describe(status, &said),
            Err(error) => End::Crash(format!("its end is not known: {error}")),
        }
    }
}

/// The code that a worker wrote. Read into memory of the node's own: the worker may still have the file open.
fn read(code: &File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let size = code.metadata()?.len();
    if size > max_bytes {
        return Err(io::Error::other(format!(
            "found {size} bytes of code, at most {max_bytes} are read"
        )));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    code.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Said {
    fn read(stderr: Option<ChildStderr>) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let kept = text.clone();
        let reader = tokio::spawn(async move {
            let Some(mut stderr) = stderr else {
                return;
            };
            let mut buffer = [0; 1024];
            while let Ok(bytes @ 1..) = stderr.read(&mut buffer).await {
                // Bytes are added whole, so a panic leaves a text.
                let mut text = kept.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&buffer[..bytes]);
                let surplus = text.len().saturating_sub(MAX_SAID_BYTES);
                text.drain(..surplus);
            }
        });
        Self { text, reader }
    }

    async fn last(self) -> String {
        let _ = tokio::time::timeout(EXIT_TIMEOUT, self.reader).await;
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

fn describe(status: ExitStatus, said: &str) -> End {
    if !said.is_empty() {
        tracing::warn!(%status, said, "compile worker ended");
    }
    let failed = said.lines().rev().find(|line| line.contains(NO_MEMORY));
    if let Some(line) = failed
        && status.signal() == Some(libc::SIGABRT)
    {
        return End::Memory(line.to_owned());
    }
    match status.signal() {
        Some(libc::SIGXFSZ) => End::Memory("the compiled code is larger".into()),
        Some(libc::SIGKILL) => End::Crash(
            "it was killed by SIGKILL, as the system does when the machine is out of memory".into(),
        ),
        Some(signal) => End::Crash(format!("it was killed by {}", signal_name(signal))),
        None => End::Crash(format!("it ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_a_worker_ended_is_told_from_its_status_and_its_last_lines() {
        let signal = ExitStatus::from_raw;
        let said = "other\nmemory allocation of 64 bytes failed\n";
        assert_eq!(
            describe(signal(libc::SIGABRT), said),
            End::Memory("memory allocation of 64 bytes failed".into())
        );
        let crash = |status, said| match describe(status, said) {
            End::Crash(how) => how,
            End::Memory(found) => panic!("{found}"),
        };
        assert!(crash(signal(libc::SIGABRT), "").contains("SIGABRT"));
        assert!(crash(signal(libc::SIGSEGV), said).contains("SIGSEGV"));
        assert!(crash(signal(libc::SIGKILL), "").contains("out of memory"));
        assert!(crash(signal(3 << 8), "").contains('3'));
    }
}
