//! Events of engines: counted since the node started, and published to subscribers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

/// Capacity of the event channel, for slow subscribers.
const CHANNEL_EVENTS: usize = 256;
/// Most suspects in one event.
pub(super) const MAX_SUSPECTS: usize = 16;

/// Why an engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndReason {
    /// It was idle.
    Idle,
    /// A signal ended it, such as when native code crashes.
    Signal,
    /// Its process exited unexpectedly.
    Exit,
    /// The kernel's OOM killer ended it.
    OutOfMemory,
    /// A run continued after it was cancelled.
    OverdueRun,
    /// A graph exceeded the time limit of loads.
    OverdueLoad,
    /// A graph was still loading after all its callers had gone.
    AbandonedLoad,
    /// It did not respond in time.
    Unresponsive,
    /// It wrote an invalid message to the shared memory.
    InvalidMessage,
}

impl EndReason {
    /// The name in metrics and events, such as `out_of_memory`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Signal => "signal",
            Self::Exit => "exit",
            Self::OutOfMemory => "out_of_memory",
            Self::OverdueRun => "overdue_run",
            Self::OverdueLoad => "overdue_load",
            Self::AbandonedLoad => "abandoned_load",
            Self::Unresponsive => "unresponsive",
            Self::InvalidMessage => "invalid_message",
        }
    }
}

/// Identifies an engine in events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLabel {
    /// The backend that it runs.
    pub backend: &'static str,
    /// ID of the deployment that owns it; `None` if it is shared.
    pub deployment: Option<String>,
    /// Whether it runs a single graph, which is a suspect.
    pub is_suspect: bool,
    /// Its process ID.
    pub process: Option<u32>,
}

/// Identifies a graph in events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphLabel {
    /// Its name in the manifest of the deployment that loaded it.
    pub name: String,
    /// SHA-256 of its files, in hexadecimal.
    pub digest: String,
    /// ID of the deployment that owns its engine; `None` for shared engines.
    pub deployment: Option<String>,
}

impl GraphLabel {
    /// The key of its crash history. Deployments with their own engines have separate histories, because their inputs differ.
    pub(super) fn key(&self) -> String {
        match &self.deployment {
            Some(deployment) => format!("{deployment}/{}", self.digest),
            None => self.digest.clone(),
        }
    }
}

/// A graph that may have ended its engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The graph.
    pub graph: Arc<GraphLabel>,
    /// Type and shape of each input of one of its runs, such as `f32 [1, 2]`; empty if it was loading.
    pub inputs: Vec<String>,
}

/// An event of an engine or of a graph in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// An engine started.
    Started(EngineLabel),
    /// An engine ended.
    Ended {
        /// The engine.
        engine: EngineLabel,
        /// The reason in a form for programs.
        reason: EndReason,
        /// A description of the reason.
        message: String,
        /// The graphs that may be the cause, at most 16.
        suspects: Vec<Suspect>,
    },
    /// A graph was quarantined because it ended its own engine repeatedly.
    Quarantined {
        /// The graph, with the inputs of the last run.
        suspect: Suspect,
        /// Recent ends of its own engine.
        ends: usize,
        /// The duration of the quarantine.
        time: Duration,
    },
    /// The quarantine of a graph has ended.
    Released(Arc<GraphLabel>),
    /// An idle graph was unloaded to make room for another. Its next run loads it again.
    Evicted {
        /// The graph.
        graph: Arc<GraphLabel>,
        /// The bytes that it was charged.
        bytes: u64,
    },
}

/// Counters since the node started.
#[derive(Clone, Debug, Default)]
pub struct EngineTotals {
    /// Engines that started, by backend.
    pub starts: BTreeMap<&'static str, u64>,
    /// Engines that ended, by backend and reason.
    pub ends: BTreeMap<(&'static str, EndReason), u64>,
    /// Quarantines that started.
    pub quarantines: u64,
    /// Idle graphs that were unloaded to make room for another.
    pub evictions: u64,
    /// Graphs in quarantine now.
    pub quarantined_graphs: usize,
}

/// Counts and publishes events.
pub(super) struct History {
    totals: Mutex<EngineTotals>,
    events: broadcast::Sender<EngineEvent>,
}

impl History {
    pub fn new() -> Self {
        Self {
            totals: Mutex::default(),
            events: broadcast::Sender::new(CHANNEL_EVENTS),
        }
    }

    /// Counts an event and publishes it to subscribers.
    pub fn record(&self, event: EngineEvent) {
        let mut totals = self.lock();
        match &event {
            EngineEvent::Started(engine) => *totals.starts.entry(engine.backend).or_default() += 1,
            EngineEvent::Ended { engine, reason, .. } => {
                *totals.ends.entry((engine.backend, *reason)).or_default() += 1;
            }
            EngineEvent::Quarantined { .. } => totals.quarantines += 1,
            EngineEvent::Released(_) => {}
            EngineEvent::Evicted { .. } => totals.evictions += 1,
        }
        drop(totals);
        // Fails only if there are no subscribers.
        let _ = self.events.send(event);
    }

    /// Subscribes to events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<EngineEvent> {
        self.events.subscribe()
    }

    /// The counters, without `quarantined_graphs`.
    pub fn totals(&self) -> EngineTotals {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, EngineTotals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(backend: &'static str) -> EngineLabel {
        EngineLabel {
            backend,
            deployment: None,
            is_suspect: false,
            process: Some(1),
        }
    }

    #[test]
    fn events_are_counted_and_published() {
        let history = History::new();
        history.record(EngineEvent::Started(engine("rten")));
        let mut followed = history.subscribe();
        let ended = EngineEvent::Ended {
            engine: engine("rten"),
            reason: EndReason::Signal,
            message: "it was killed by SIGABRT".into(),
            suspects: Vec::new(),
        };
        history.record(ended.clone());
        history.record(EngineEvent::Started(engine("onnxruntime")));
        history.record(ended.clone());
        history.record(EngineEvent::Evicted {
            graph: Arc::new(GraphLabel {
                name: "g".into(),
                digest: "00ff".into(),
                deployment: None,
            }),
            bytes: 1 << 20,
        });
        let totals = history.totals();
        assert_eq!(totals.starts, [("rten", 1), ("onnxruntime", 1)].into());
        assert_eq!(totals.ends, [(("rten", EndReason::Signal), 2)].into());
        assert_eq!(totals.evictions, 1);
        assert_eq!(followed.try_recv(), Ok(ended));
    }

    #[test]
    fn an_isolated_deployment_has_keys_of_its_own() {
        let label = |deployment: Option<&str>| GraphLabel {
            name: "g".into(),
            digest: "00ff".into(),
            deployment: deployment.map(str::to_owned),
        };
        assert_eq!(label(None).key(), "00ff");
        assert_eq!(label(Some("d")).key(), "d/00ff");
    }
}
