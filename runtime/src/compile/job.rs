//! What is done with a component, in whatever process.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MAX_COMPONENT_BYTES;
use crate::engine::{Calls, SharedEngine};
use crate::snapshot::{self, Setting};

/// A job of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Compile the component.
    Compile,
    /// Run its `init`, and compile the component that starts there.
    Snapshot {
        /// The files that `init` sees.
        files: Option<PathBuf>,
        /// Memory that `init` may have.
        memory_bytes: u64,
        /// Longest time of `init`.
        timeout: Duration,
    },
}

impl Job {
    /// For error messages.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Compile => "compiling the component",
            Self::Snapshot { .. } => "taking the component's snapshot (`snapshot = true`)",
        }
    }

    /// What `init` may take beside compiling.
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
    /// The engine that it is for.
    pub calls: Calls,
    /// As wasmtime serializes it.
    pub code: Vec<u8>,
}

/// Compiles a component; an error says what is wrong with it.
pub(super) fn compile(engine: &SharedEngine, component: &[u8]) -> Result<Native, String> {
    Calls::fit(component, |calls| {
        let code = engine.engine(calls).precompile_component(component)?;
        Ok(Native { calls, code })
    })
    .map_err(|e: wasmtime::Error| format!("{e:#}"))
}

/// Compiles a component that holds the memory which its `init` left.
pub(super) fn compile_taken(engine: &SharedEngine, component: &[u8]) -> Result<Native, String> {
    let size = component.len() as u64;
    if size > MAX_COMPONENT_BYTES {
        return Err(format!(
            "with its memory it is {size} bytes long; at most {MAX_COMPONENT_BYTES} are compiled"
        ));
    }
    compile(engine, component)
}

/// Runs the component's `init` and compiles the component that starts there.
pub(super) async fn snapshot(setting: Setting, component: Vec<u8>) -> Result<Native, String> {
    let engine = setting.engine.clone();
    let taken = snapshot::take(setting, component).await?;
    compile_taken(&engine, &taken)
}
