//! Loads graphs: with backends in this process, or in engine processes.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::infer::backend::{
    BackendInfo, Backends, Gpus, LoadError, LoadRequest, Loaded, SharedBackends, Source,
};
use crate::infer::engines::{EngineEvent, EngineInfo, EngineTotals, Fleet, GraphMemory};
use crate::process::barrier::Barrier;

/// Loads graphs.
#[derive(Clone)]
pub(crate) enum Loader {
    /// In this process.
    InProcess(SharedBackends),
    /// In engines.
    Engines(Arc<Fleet>),
}

impl Loader {
    /// Loads a model. Blocks the thread.
    ///
    /// # Errors
    /// Why the backend cannot load it.
    pub fn load(&self, source: &Source<'_>, wanted: LoadRequest<'_>) -> Result<Loaded, LoadError> {
        match self {
            Self::InProcess(backends) => backends.load(source, wanted),
            Self::Engines(fleet) => fleet.load(source, wanted),
        }
    }

    /// The GPUs of this machine. May block until engines have answered.
    pub fn gpus(&self) -> Gpus {
        match self {
            Self::InProcess(backends) => backends.gpus(),
            Self::Engines(fleet) => fleet.gpus(),
        }
    }

    /// All backends, including those that cannot be used here.
    pub fn info(&self) -> Vec<BackendInfo> {
        match self {
            Self::InProcess(backends) => backends.info(),
            Self::Engines(fleet) => fleet.info(),
        }
    }

    /// Deletes what was derived from a model on disk.
    pub fn delete_derived(&self, digest: &str) {
        match self {
            Self::InProcess(backends) => backends.delete_derived(digest),
            Self::Engines(fleet) => fleet.delete_derived(digest),
        }
    }

    /// The memory of all graphs and its limit; `None` where it is not counted.
    pub fn graph_memory(&self) -> Option<GraphMemory> {
        match self {
            Self::InProcess(_) => None,
            Self::Engines(fleet) => Some(fleet.graph_memory()),
        }
    }

    /// The running engine processes.
    pub fn engines(&self) -> Vec<EngineInfo> {
        match self {
            Self::InProcess(_) => Vec::new(),
            Self::Engines(fleet) => fleet.engines(),
        }
    }

    /// Subscribes to events of engines; `None` when graphs run in this process.
    pub fn engine_events(&self) -> Option<broadcast::Receiver<EngineEvent>> {
        match self {
            Self::InProcess(_) => None,
            Self::Engines(fleet) => Some(fleet.subscribe()),
        }
    }

    /// Totals of engine events so far; `None` when graphs run in this process.
    pub fn engine_totals(&self) -> Option<EngineTotals> {
        match self {
            Self::InProcess(_) => None,
            Self::Engines(fleet) => Some(fleet.totals()),
        }
    }

    /// The barriers around engines, active or not; `None` when graphs run in this process.
    pub fn engine_barriers(&self) -> Option<Vec<Barrier>> {
        match self {
            Self::InProcess(_) => None,
            Self::Engines(fleet) => Some(fleet.barriers().to_vec()),
        }
    }
}

impl From<Backends> for Loader {
    fn from(backends: Backends) -> Self {
        Self::InProcess(Arc::new(backends))
    }
}
