//! What the last start of a replica showed of its deployment: what runs its graphs, and whether replicas run `init`.

use super::{Pool, lock};
use crate::infer::backend::Device;
use crate::infer::graph::loading::GraphsByName;
use crate::snapshot::Snapshot;

/// What the last start of a replica showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether replicas start from a snapshot. `None` if the deployment asks for none, or no replica has started yet.
    pub snapshot: Option<Snapshot>,
    /// The deployment's graphs, once they were loaded.
    pub graphs: Vec<RunsOn>,
}

/// What runs a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunsOn {
    /// The graph's name in the manifest.
    pub name: String,
    /// `rten` or `onnxruntime`.
    pub backend: &'static str,
    /// The device that it runs on.
    pub device: Device,
}

impl Pool {
    /// What the last start of a replica showed.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    pub(super) fn record_graphs(&self, graphs: &GraphsByName) {
        let runs_on = graphs.iter().map(|(name, graph)| RunsOn {
            name: name.clone(),
            backend: graph.backend(),
            device: graph.device(),
        });
        lock(&self.seen).graphs = runs_on.collect();
    }

    pub(super) fn record_snapshot(&self, snapshot: &Option<Snapshot>) {
        lock(&self.seen).snapshot.clone_from(snapshot);
    }
}
