//! The jobs of the compiler: compile a component, or its snapshot.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MAX_COMPONENT_BYTES;
use crate::engine::{AsyncSupport, SharedEngine};
use crate::snapshot::{self, SnapshotContext};

/// A job for a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Compile the component.
    Compile,
    /// Run `init`, and compile the component that starts after it.
    Snapshot {
        /// The folder that `init` may read.
        files: Option<PathBuf>,
        /// Bytes of memory that `init` may use.
        memory_bytes: u64,
        /// Time limit of `init`.
        timeout: Duration,
    },
}

impl Job {
    /// A description for error messages.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Compile => "compiling the component",
            Self::Snapshot { .. } => "taking the component's snapshot (`snapshot = true`)",
        }
    }

    /// CPU time that the job may use in addition, for `init`.
    pub fn init_timeout(&self) -> Duration {
        match self {
            Self::Compile => Duration::ZERO,
            Self::Snapshot { timeout, .. } => *timeout,
        }
    }
}

/// Native code of a component.
#[derive(Debug)]
pub(crate) struct Native {
    /// The engine that runs it.
    pub support: AsyncSupport,
    /// wasmtime's serialized form.
    pub code: Vec<u8>,
}

/// Compiles a component. The error says what is wrong with it.
pub(super) fn compile(engine: &SharedEngine, component: &[u8]) -> Result<Native, String> {
    AsyncSupport::select(component, |support| {
        let code = engine.engine(support).precompile_component(component)?;
        Ok(Native { support, code })
    })
    .map_err(|e: wasmtime::Error| format!("{e:#}"))
}

/// Compiles a snapshot.
pub(super) fn compile_snapshot(engine: &SharedEngine, component: &[u8]) -> Result<Native, String> {
    let size = component.len() as u64;
    if size > MAX_COMPONENT_BYTES {
        return Err(format!(
            "with its memory it is {size} bytes long; the limit is {MAX_COMPONENT_BYTES}"
        ));
    }
    compile(engine, component)
}

/// Takes a component's snapshot and compiles it.
pub(super) async fn snapshot(
    context: SnapshotContext,
    component: Vec<u8>,
) -> Result<Native, String> {
    let engine = context.engine.clone();
    let taken = snapshot::take(context, component).await?;
    compile_snapshot(&engine, &taken)
}
