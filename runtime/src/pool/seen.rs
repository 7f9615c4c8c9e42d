//! What a pool has seen of its deployment when replicas started: what runs its graphs, and whether `init` still runs.

use super::{Pool, lock};
use crate::infer::backend::Device;
use crate::infer::loading::DeploymentGraphs;
use crate::snapshot::Snapshot;

/// What was seen with the last start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What became of its wish for a snapshot; nothing when it has none, or nothing was started yet.
    pub snapshot: Option<Snapshot>,
    /// Its graphs, once they were loaded.
    pub graphs: Vec<RunsOn>,
}

/// What runs a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunsOn {
    /// Its name in the manifest.
    pub name: String,
    /// `rten` or `onnxruntime`.
    pub backend: &'static str,
    /// Where.
    pub device: Device,
}

impl Pool {
    /// What was seen with the last start of a replica.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    pub(super) fn see_graphs(&self, graphs: &DeploymentGraphs) {
        let runs_on = graphs.iter().map(|(name, graph)| RunsOn {
            name: name.clone(),
            backend: graph.backend(),
            device: graph.device(),
        });
        lock(&self.seen).graphs = runs_on.collect();
    }

    pub(super) fn see_snapshot(&self, snapshot: &Option<Snapshot>) {
        lock(&self.seen).snapshot.clone_from(snapshot);
    }
}
