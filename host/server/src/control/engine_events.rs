//! Tells subscribers what happens to engines, with the deployments that it concerns.

use std::sync::Arc;

use samovar_runtime::{EngineEvent, EngineLabel, GraphLabel, Suspect};
use samovar_types::engine::EngineGraph;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::domain::engine_events::{
    EngineEnd, EngineNote, EvictionNote, QuarantineBegin, QuarantineNote,
};
use crate::domain::events::{Event, What};
use crate::events::bus::EventBus;
use crate::serving::Serving;

/// Tells what happens to engines for as long as the node runs.
pub async fn run(mut events: Receiver<EngineEvent>, bus: Arc<EventBus>, serving: Arc<Serving>) {
    loop {
        match events.recv().await {
            Ok(event) => bus.tell(Event {
                id: None,
                model: None,
                what: told(&serving, event),
            }),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "events of engines came faster than they were told");
            }
            // The runtime is gone; so will the node be.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn told(serving: &Serving, event: EngineEvent) -> What {
    match event {
        EngineEvent::Started(engine) => engine_note(serving, engine, None, &[]),
        EngineEvent::Ended {
            engine,
            reason,
            message,
            suspects,
        } => {
            let graphs: Vec<_> = suspects.iter().map(|one| one.graph.clone()).collect();
            let end = EngineEnd {
                reason: reason.name(),
                message,
                graphs: suspects.into_iter().map(graph).collect(),
            };
            engine_note(serving, engine, Some(end), &graphs)
        }
        EngineEvent::Quarantined {
            suspect,
            ends,
            time,
        } => {
            let begun = QuarantineBegin {
                seconds: time.as_secs(),
                ends,
            };
            quarantine_note(serving, suspect, Some(begun))
        }
        EngineEvent::Released(graph) => {
            let inputs = Vec::new();
            quarantine_note(serving, Suspect { graph, inputs }, None)
        }
        EngineEvent::Evicted { graph, bytes } => eviction_note(serving, graph, bytes),
    }
}

fn engine_note(
    serving: &Serving,
    engine: EngineLabel,
    end: Option<EngineEnd>,
    graphs: &[Arc<GraphLabel>],
) -> What {
    let deployments = serving.concerned(engine.deployment.as_deref(), graphs);
    What::Engine(Box::new(EngineNote {
        backend: engine.backend,
        process: engine.process,
        suspect: engine.is_suspect,
        end,
        deployments,
    }))
}

fn quarantine_note(serving: &Serving, suspect: Suspect, begun: Option<QuarantineBegin>) -> What {
    let deployments = serving.concerned(None, std::slice::from_ref(&suspect.graph));
    What::Quarantine(Box::new(QuarantineNote {
        graph: graph(suspect),
        begun,
        deployments,
    }))
}

fn eviction_note(serving: &Serving, label: Arc<GraphLabel>, bytes: u64) -> What {
    let deployments = serving.concerned(None, std::slice::from_ref(&label));
    let inputs = Vec::new();
    What::Eviction(Box::new(EvictionNote {
        graph: graph(Suspect {
            graph: label,
            inputs,
        }),
        bytes,
        deployments,
    }))
}

fn graph(suspect: Suspect) -> EngineGraph {
    EngineGraph {
        name: suspect.graph.name.clone(),
        digest: suspect.graph.digest.clone(),
        inputs: suspect.inputs,
    }
}
