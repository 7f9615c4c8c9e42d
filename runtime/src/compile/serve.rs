//! The worker's side: runs one job after the other, for as long as the node that started it is there.
//!
//! It keeps compiled functions between jobs, so that a component that is built again compiles only what was edited.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::MAX_COMPONENT_BYTES;
use super::job::{self, Job, Native};
use super::messages::{Answer, Open};
use crate::engine::{Calls, EngineOptions, SharedEngine};
use crate::infer::backend::{BackendOptions, Backends, Libraries};
use crate::infer::compute::{ComputeError, guarded};
use crate::infer::graphs::GraphStore;
use crate::limits::Limits;
use crate::log::{LogLine, LogSink};
use crate::process::background;
use crate::process::confine::{Confinement, confine, confine_files};
use crate::process::frames;
use crate::sandbox::Capabilities;
use crate::snapshot::Setting;
use crate::text::bounded_format;

/// Replicas of a worker's engine: an `init` runs in one.
const MAX_REPLICAS: u32 = 8;

/// Runs jobs until the node is gone. `stream` is the worker's end of the socket pair that the node made.
///
/// # Errors
/// When the node sends something else than jobs.
pub fn serve(stream: UnixStream) -> io::Result<()> {
    background::enter();
    let Some(open) = frames::read_frame::<Open>(&stream)? else {
        return Ok(());
    };
    // Code is written to a file in memory, which the limit of private memory does not count.
    background::limit_file_size(open.memory_bytes)?;
    // Before any thread starts, which Landlock would not hold for.
    let barriers = confine(&Confinement {
        read: vec![open.files],
        write: Vec::new(),
        memory_bytes: Some(open.memory_bytes),
    })?;
    background::end_with(&stream)?;
    let engine = SharedEngine::new(&EngineOptions {
        max_replicas: MAX_REPLICAS,
        allocator: Some(open.allocator),
    });
    let engine = Arc::new(engine.map_err(io::Error::other)?);
    let stream = Arc::new(Mutex::new(stream));
    let node = Node(stream.clone());
    node.answer(&Answer::Opened {
        compatibility: engine.compatibility(),
        barriers,
    })?;
    while let Some((job, files)) = node.next()? {
        let done = guarded(|| run(&engine, &node, job, files));
        let panicked = done.is_err();
        let done = match done {
            Ok(done) => done?,
            Err(ComputeError::Panicked(said) | ComputeError::NoThread(said)) => {
                Err(bounded_format!("the compiler panicked: {said}"))
            }
        };
        node.answer(&Answer::Done(done))?;
        if panicked {
            // What it holds may be in any state; the node starts another worker.
            return Ok(());
        }
    }
    Ok(())
}

/// The node, as a worker sees it.
#[derive(Clone)]
struct Node(Arc<Mutex<UnixStream>>);

impl Node {
    /// The next job with its files; `None` when the node is gone.
    fn next(&self) -> io::Result<Option<(Job, [OwnedFd; 2])>> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match frames::receive_files(&stream) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let job = frames::read_frame(&stream)?;
        Ok(job.map(|job| (job, files)))
    }

    fn answer(&self, answer: &Answer) -> io::Result<()> {
        // Frames go out whole: lines come from the threads of `init`.
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frames::write_frame(&stream, answer)
    }
}

impl LogSink for Node {
    fn write(&self, line: LogLine) {
        // A node that is gone ends this process.
        let _ = self.answer(&Answer::Line {
            level: line.level,
            message: line.message,
        });
    }
}

fn run(
    engine: &Arc<SharedEngine>,
    node: &Node,
    job: Job,
    [component, code]: [OwnedFd; 2],
) -> io::Result<Result<Calls, String>> {
    let mut bytes = Vec::new();
    let mut component = File::from(component).take(MAX_COMPONENT_BYTES);
    component.read_to_end(&mut bytes)?;
    let native = match job {
        Job::Compile => job::compile(engine, &bytes),
        Job::Snapshot {
            files,
            memory_bytes,
            timeout,
        } => {
            let init = Init {
                files,
                memory_bytes,
                timeout,
            };
            init.snapshot(engine, node, bytes)?
        }
    };
    Ok(match native {
        Ok(Native { calls, code: made }) => {
            File::from(code).write_all(&made)?;
            Ok(calls)
        }
        Err(why) => Err(why),
    })
}

/// An `init` that is run for a snapshot.
struct Init {
    files: Option<PathBuf>,
    memory_bytes: u64,
    timeout: Duration,
}

impl Init {
    /// Runs it on a thread that can open its own files alone, and compiles what it leaves.
    fn snapshot(
        self,
        engine: &Arc<SharedEngine>,
        node: &Node,
        component: Vec<u8>,
    ) -> io::Result<Result<Native, String>> {
        let (engine, node) = (engine.clone(), node.clone());
        let thread = std::thread::Builder::new().name("snapshot".into());
        let thread = thread.spawn(move || -> io::Result<_> {
            let own = Confinement {
                read: self.files.iter().cloned().collect(),
                write: Vec::new(),
                memory_bytes: None,
            };
            confine_files(&own).map_err(io::Error::other)?;
            let executor = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            Ok(executor.block_on(job::snapshot(self.setting(engine, node), component)))
        })?;
        match thread.join() {
            Ok(taken) => taken,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn setting(self, engine: Arc<SharedEngine>, node: Node) -> Setting {
        let no_graphs = BackendOptions {
            libraries: Libraries::OnlyRten,
            ..BackendOptions::default()
        };
        Setting {
            engine,
            graphs: GraphStore::new(Backends::beside_others(no_graphs)),
            capabilities: Capabilities {
                files: self.files,
                ..Capabilities::default()
            },
            limits: Limits {
                memory_bytes: self.memory_bytes,
                timeout: self.timeout,
                body_bytes: 0,
            },
            log: Arc::new(node),
        }
    }
}
