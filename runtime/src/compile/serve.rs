//! The worker's side: runs one job after another until the node that started it ends.
//!
//! It caches compiled functions between jobs, so that after an edit of a component only what has changed is compiled.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::MAX_COMPONENT_BYTES;
use super::job::{self, Job, Native};
use super::messages::{Setup, WorkerMessage};
use crate::engine::{AsyncSupport, EngineOptions, SharedEngine};
use crate::infer::backend::{BackendOptions, Backends, Libraries};
use crate::infer::compute::{ComputeError, guarded};
use crate::infer::graph::GraphStore;
use crate::limits::Limits;
use crate::log::{LogLine, LogSink};
use crate::process::background;
use crate::process::confine::{Confinement, confine, confine_files};
use crate::process::frames;
use crate::sandbox::Capabilities;
use crate::snapshot::SnapshotContext;
use crate::text::bounded_format;

/// Instances in a worker's engine; an `init` runs in one.
const MAX_REPLICAS: u32 = 8;

/// Runs jobs until the node has ended. `stream` is the worker's end of the socket pair that the node created.
///
/// # Errors
/// When the node violates the protocol, or the worker cannot be confined.
pub fn serve(stream: UnixStream) -> io::Result<()> {
    background::lower_priority();
    let Some(setup) = frames::read_frame::<Setup>(&stream)? else {
        return Ok(());
    };
    // Code is written to a file in memory, which the limit of private memory does not count.
    background::limit_file_size(setup.memory_bytes)?;
    // Before any thread starts, which Landlock would not confine.
    let barriers = confine(&Confinement {
        read: vec![setup.files],
        write: Vec::new(),
        memory_bytes: Some(setup.memory_bytes),
    })?;
    background::exit_with_node(&stream)?;
    let engine = SharedEngine::new(&EngineOptions {
        max_replicas: MAX_REPLICAS,
        allocator: Some(setup.allocator),
    });
    let engine = Arc::new(engine.map_err(io::Error::other)?);
    let stream = Arc::new(Mutex::new(stream));
    let node = NodeStream(stream.clone());
    node.send(&WorkerMessage::Ready {
        compatibility: engine.compatibility_hashes(),
        barriers,
    })?;
    while let Some((job, files)) = node.next_job()? {
        let done = guarded(|| run(&engine, &node, job, files));
        let panicked = done.is_err();
        let done = match done {
            Ok(done) => done?,
            Err(ComputeError::Panicked(said) | ComputeError::NoThread(said)) => {
                Err(bounded_format!("the compiler panicked: {said}"))
            }
        };
        node.send(&WorkerMessage::Done(done))?;
        if panicked {
            // Its state may be inconsistent; the node starts another worker.
            return Ok(());
        }
    }
    Ok(())
}

/// The stream to the node.
#[derive(Clone)]
struct NodeStream(Arc<Mutex<UnixStream>>);

impl NodeStream {
    /// The next job with its files; `None` when the node has ended.
    fn next_job(&self) -> io::Result<Option<(Job, [OwnedFd; 2])>> {
        let stream = self.0.lock();
        let files = match frames::receive_files(&stream) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let job = frames::read_frame(&stream)?;
        Ok(job.map(|job| (job, files)))
    }

    fn send(&self, message: &WorkerMessage) -> io::Result<()> {
        // Locked for whole frames, because threads of `init` write lines.
        let stream = self.0.lock();
        frames::write_frame(&stream, message)
    }
}

impl LogSink for NodeStream {
    fn write(&self, line: LogLine) {
        // If the node has ended, so does this process.
        let _ = self.send(&WorkerMessage::Line {
            level: line.level,
            message: line.message,
        });
    }
}

fn run(
    engine: &Arc<SharedEngine>,
    node: &NodeStream,
    job: Job,
    [component, code]: [OwnedFd; 2],
) -> io::Result<Result<AsyncSupport, String>> {
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
        Ok(Native {
            support,
            code: made,
        }) => {
            File::from(code).write_all(&made)?;
            Ok(support)
        }
        Err(why) => Err(why),
    })
}

/// An `init` that runs for a snapshot.
struct Init {
    files: Option<PathBuf>,
    memory_bytes: u64,
    timeout: Duration,
}

impl Init {
    /// Takes and compiles the snapshot, on a thread that can open only the files of its deployment.
    fn snapshot(
        self,
        engine: &Arc<SharedEngine>,
        node: &NodeStream,
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
            Ok(executor.block_on(job::snapshot(self.context(engine, node), component)))
        })?;
        match thread.join() {
            Ok(taken) => taken,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn context(self, engine: Arc<SharedEngine>, node: NodeStream) -> SnapshotContext {
        let no_graphs = BackendOptions {
            libraries: Libraries::OnlyRten,
            ..BackendOptions::default()
        };
        SnapshotContext {
            engine,
            graphs: GraphStore::new(Backends::discover_shared(no_graphs)),
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
