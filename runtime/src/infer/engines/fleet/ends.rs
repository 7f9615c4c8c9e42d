//! Records starts and ends of engines: suspects, quarantines and releases.

use std::sync::Arc;
use std::time::Instant;

use super::{Fleet, Group, lock};
use crate::infer::engines::crash_history::{EngineKind, Quarantine, Verdict};
use crate::infer::engines::handle::{Ended, EngineHandle};
use crate::infer::engines::history::{
    EndReason, EngineEvent, EngineLabel, GraphLabel, MAX_SUSPECTS, Suspect,
};
use crate::process::barrier::Barrier;

impl Group {
    /// The label of an engine of this group in events.
    pub(super) fn label(&self, process: Option<u32>) -> EngineLabel {
        EngineLabel {
            backend: self.backend.name(),
            deployment: self.deployment.clone(),
            is_suspect: self.suspect.is_some(),
            process,
        }
    }
}

impl Fleet {
    /// Records the start of an engine.
    pub(super) fn record_start(&self, group: &Group, engine: &EngineHandle) {
        let label = group.label(engine.process());
        tracing::info!(
            process = label.process,
            backend = label.backend,
            deployment = label.deployment,
            suspect = group.suspect,
            confined_by = Barrier::names(&engine.capabilities().barriers).join(", "),
            "engine started"
        );
        self.history.record(EngineEvent::Started(label));
    }

    /// Records that an engine was closed because it was idle.
    pub(super) fn record_idle_end(&self, group: &Group, engine: &EngineHandle) {
        self.history.record(EngineEvent::Ended {
            engine: group.label(engine.process()),
            reason: EndReason::Idle,
            message: "it had no graph for a while".into(),
            suspects: Vec::new(),
        });
    }

    /// Records the end of an engine and its suspects.
    pub(super) fn record_end(
        self: &Arc<Self>,
        group: &Group,
        ended: &Ended,
        mut suspects: Vec<Suspect>,
    ) {
        // An abandoned load is not the fault of the graph: it only loads alone the next time.
        let kind = match (&group.suspect, ended.reason) {
            (Some(_), reason) if reason != EndReason::AbandonedLoad => EngineKind::Own,
            _ => EngineKind::Shared,
        };
        let now = Instant::now();
        let mut quarantines = Vec::new();
        let mut crashes = lock(&self.crash_history);
        for suspect in &suspects {
            let begun = crashes.record_end(&suspect.graph.key(), kind, now);
            quarantines.extend(begun.map(|quarantine| (suspect.clone(), quarantine)));
        }
        drop(crashes);
        let names = suspects.iter().map(|suspect| suspect.graph.name.as_str());
        tracing::warn!(
            process = ended.process,
            reason = ended.reason.name(),
            why = ended.why,
            graphs = names.collect::<Vec<_>>().join(", "),
            "engine ended"
        );
        for suspect in suspects.iter().filter(|one| !one.inputs.is_empty()) {
            tracing::warn!(
                graph = suspect.graph.name,
                digest = suspect.graph.digest,
                inputs = suspect.inputs.join(", "),
                "graph was running when its engine ended"
            );
        }
        suspects.truncate(MAX_SUSPECTS);
        self.history.record(EngineEvent::Ended {
            engine: group.label(ended.process),
            reason: ended.reason,
            message: ended.why.clone(),
            suspects,
        });
        for (suspect, quarantine) in quarantines {
            self.start_quarantine(suspect, quarantine);
        }
    }

    fn start_quarantine(self: &Arc<Self>, suspect: Suspect, quarantine: Quarantine) {
        let Quarantine { ends, time } = quarantine;
        let graph = suspect.graph.clone();
        tracing::warn!(
            graph = graph.name,
            digest = graph.digest,
            seconds = time.as_secs(),
            ends,
            "graph quarantined"
        );
        self.history.record(EngineEvent::Quarantined {
            suspect,
            ends,
            time,
        });
        let fleet = Arc::downgrade(self);
        self.executor.spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(fleet) = fleet.upgrade() {
                fleet.end_quarantine(graph);
            }
        });
    }

    /// Records the end of a quarantine, unless another one has begun meanwhile.
    fn end_quarantine(&self, graph: Arc<GraphLabel>) {
        let verdict = lock(&self.crash_history).verdict(&graph.key(), Instant::now());
        if !matches!(verdict, Verdict::Quarantined { .. }) {
            tracing::info!(
                graph = graph.name,
                digest = graph.digest,
                "graph released from quarantine"
            );
            self.history.record(EngineEvent::Released(graph));
        }
    }
}
