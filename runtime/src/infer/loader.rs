//! Who loads graphs for a node: the backends in its own process, or engines in theirs.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::backend::{
    BackendInfo, Backends, Cards, LoadError, Loaded, SharedBackends, Source, Wanted,
};
use super::engines::{EngineEvent, EngineInfo, EngineTotals, Fleet, GraphMemory};
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
    /// Loads a model, for threads that may block.
    ///
    /// # Errors
    /// What the backends say of it.
    pub fn load(&self, source: &Source<'_>, wanted: Wanted<'_>) -> Result<Loaded, LoadError> {
        match self {
            Self::InProcess(backends) => backends.load(source, wanted),
            Self::Engines(fleet) => fleet.load(source, wanted),
        }
    }

    /// The cards of this machine. May wait for engines.
    pub fn cards(&self) -> Cards {
        match self {
            Self::InProcess(backends) => backends.cards(),
            Self::Engines(fleet) => fleet.cards(),
        }
    }

    /// Every backend, also those that cannot be used.
    pub fn info(&self) -> Vec<BackendInfo> {
        match self {
            Self::InProcess(backends) => backends.info(),
            Self::Engines(fleet) => fleet.info(),
        }
    }

    /// Forgets what is kept of a model on disk.
    pub fn forget(&self, digest: &str) {
        match self {
            Self::InProcess(backends) => backends.forget(digest),
            Self::Engines(fleet) => fleet.forget(digest),
        }
    }

    /// Memory that all graphs may take together, and that they take; nothing where it is not counted.
    pub fn graph_memory(&self) -> Option<GraphMemory> {
        match self {
            Self::InProcess(_) => None,
            Self::Engines(fleet) => Some(fleet.graph_memory()),
        }
    }

    /// The engines that run.
    pub fn engines(&self) -> Vec<EngineInfo> {
        match self {
            Self::InProcess(_) => Vec::new(),
            Self::Engines(fleet) => fleet.engines(),
        }
    }

    /// What happens to engines from now on; nothing when there are none.
    pub fn engine_events(&self) -> Option<broadcast::Receiver<EngineEvent>> {
        match self {
            Self::InProcess(_) => None,
            Self::Engines(fleet) => Some(fleet.follow()),
        }
    }

    /// What happened to engines since the node started; nothing when there are none.
    pub fn engine_totals(&self) -> Option<EngineTotals> {
        match self {
            Self::InProcess(_) => None,
            Self::Engines(fleet) => Some(fleet.totals()),
        }
    }

    /// What confines the engines, and what does not; nothing when there are none.
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
