//! What follows from the end of an engine: suspects, quarantines and their ends.

use std::sync::Arc;
use std::time::Instant;

use super::{Fleet, Group, lock};
use crate::infer::engines::blame::{Quarantine, Verdict, Whose};
use crate::infer::engines::history::{
    EndReason, EngineEvent, EngineLabel, GraphLabel, MAX_SUSPECTS, Suspect,
};
use crate::infer::engines::running::{Ended, Running};
use crate::process::barrier::Barrier;

impl Group {
    /// How events name an engine of this group.
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
    /// Notes that an engine has started.
    pub(super) fn note_start(&self, group: &Group, engine: &Running) {
        let label = group.label(engine.process());
        tracing::info!(
            process = label.process,
            backend = label.backend,
            deployment = label.deployment,
            suspect = group.suspect,
            confined_by = Barrier::names(&engine.opened().barriers).join(", "),
            "engine started"
        );
        self.history.record(EngineEvent::Started(label));
    }

    /// Notes that an engine was closed because it had no graph.
    pub(super) fn note_idle_end(&self, group: &Group, engine: &Running) {
        self.history.record(EngineEvent::Ended {
            engine: group.label(engine.process()),
            reason: EndReason::Idle,
            message: "it had no graph for a while".into(),
            suspects: Vec::new(),
        });
    }

    /// Notes which graphs an engine ended with.
    pub(super) fn note_end(
        self: &Arc<Self>,
        group: &Group,
        ended: &Ended,
        mut suspects: Vec<Suspect>,
    ) {
        // Deleting a deployment whose graph loads is no fault of the graph: it loads alone the next time, and that is all.
        let whose = match (&group.suspect, ended.reason) {
            (Some(_), reason) if reason != EndReason::AbandonedLoad => Whose::Own,
            _ => Whose::Shared,
        };
        let now = Instant::now();
        let mut quarantines = Vec::new();
        let mut blame = lock(&self.blame);
        for suspect in &suspects {
            let begun = blame.ended(&suspect.graph.key(), whose, now);
            quarantines.extend(begun.map(|quarantine| (suspect.clone(), quarantine)));
        }
        drop(blame);
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
                "graph ran when its engine ended"
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
            self.note_quarantine(suspect, quarantine);
        }
    }

    fn note_quarantine(self: &Arc<Self>, suspect: Suspect, quarantine: Quarantine) {
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
                fleet.note_release(graph);
            }
        });
    }

    /// Notes the end of a quarantine, unless another has begun meanwhile.
    fn note_release(&self, graph: Arc<GraphLabel>) {
        let verdict = lock(&self.blame).verdict(&graph.key(), Instant::now());
        if !matches!(verdict, Verdict::Quarantined { .. }) {
            tracing::info!(
                graph = graph.name,
                digest = graph.digest,
                "graph may be run again"
            );
            self.history.record(EngineEvent::Released(graph));
        }
    }
}
