//! What the last start of a replica showed of its deployment: what runs its graphs, and whether replicas run `init`.

use super::Pool;
use crate::infer::backend::Device;
use crate::infer::graph::loading::GraphsByName;
use crate::snapshot::Snapshot;

/// What the last start of a replica showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastStart {
    /// Whether replicas start from a snapshot. `None` if the deployment asks for none, or no replica has started yet.
    pub snapshot: Option<Snapshot>,
    /// The deployment's graphs, once they were loaded.
    pub graphs: Vec<GraphPlacement>,
}

/// What runs a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphPlacement {
    /// The graph's name in the manifest.
    pub name: String,
    /// `rten` or `onnxruntime`.
    pub backend: &'static str,
    /// The device that it runs on.
    pub device: Device,
}

impl Pool {
    /// What the last start of a replica showed.
    pub fn last_start(&self) -> LastStart {
        self.last_start.lock().clone()
    }

    pub(super) fn record_graphs(&self, graphs: &GraphsByName) {
        let runs_on = graphs.iter().map(|(name, graph)| GraphPlacement {
            name: name.clone(),
            backend: graph.backend(),
            device: graph.device(),
        });
        self.last_start.lock().graphs = runs_on.collect();
    }

    pub(super) fn record_snapshot(&self, snapshot: &Option<Snapshot>) {
        self.last_start.lock().snapshot.clone_from(snapshot);
    }
}
