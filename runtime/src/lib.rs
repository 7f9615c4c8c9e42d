//! The runtime: runs model components in sandboxes and graphs for them.
//!
//! It knows nothing of HTTP routes, models, environments or storage. A host creates one [`Runtime`], admits components with
//! [`Runtime::admit`], creates a [`Pool`] for each deployment with [`Runtime::pool`], and passes it requests with
//! [`Pool::handle`].

#![warn(missing_docs)]
// In tests an unexpected error is a failure, which `unwrap` reports with its place.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod account;
mod admission;
mod artifact;
mod compile;
mod config;
mod engine;
mod fair_semaphore;
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod infer;
mod limits;
pub mod log;
pub mod metrics;
mod permits;
mod pool;
mod process;
mod request;
mod runtime;
mod sandbox;
mod snapshot;
mod text;
mod time_slice;
mod verified_files;

pub use admission::AdmissionError;
pub use artifact::ArtifactError;
pub use compile::{
    Compilation, CompileError, ComponentFile, WorkerOptions, serve as serve_compile_worker,
};
pub use config::{Config, WeakConfig};
pub use engine::{Allocator, EngineOptions, machine_memory_bytes};
pub use infer::engines::{
    EndReason, EngineEvent, EngineInfo, EngineLabel, EngineTotals, Engines, GraphLabel,
    GraphMemory, Program, Suspect, serve as serve_engine, serve_optimizer,
};
pub use infer::graph::loading::GraphLoadError;
pub use infer::{backend, graph};
pub use limits::Limits;
pub use permits::Owner;
pub use pool::circuit_breaker::state::Unavailable;
pub use pool::load::Traffic;
pub use pool::registry::{Readiness, ReplicaInfo, ReplicaState, StopOutcome};
pub use pool::replica::{StartError, StartTimings};
pub use pool::state::{PoolCounts, PoolSettings};
pub use pool::{DeploymentSpec, FileCheck, GraphPlacement, LastStart, Pool, RunError, Timings};
pub use process::barrier::Barrier;
pub use process::confine::Confinement;
pub use process::memory_limit_bytes;
pub use request::failure::GuestFailure;
pub use request::guest_body::{GuestBody, IncompleteBody};
pub use runtime::{Runtime, RuntimeOptions};
pub use sandbox::Capabilities;
pub use snapshot::Snapshot;
pub use time_slice::{TimeSlice, set_time_slice};
