//! What happens to engines: counted since the node started, and sent to those who follow it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

/// Events kept for a follower that is behind.
const KEPT_EVENTS: usize = 256;
/// Suspects that one event names.
pub(super) const MAX_SUSPECTS: usize = 16;

/// Why an engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndReason {
    /// It had no graph for a while.
    Idle,
    /// A signal ended it, as when native code crashes.
    Signal,
    /// Its process exited without being told to.
    Exit,
    /// The kernel killed it because memory was short.
    OutOfMemory,
    /// A run continued after its caller had gone.
    OverdueRun,
    /// A graph took too long to load.
    OverdueLoad,
    /// A graph was still loading after everything that wanted it had gone.
    AbandonedLoad,
    /// It did not answer for too long.
    Unresponsive,
    /// What it wrote to the memory that it shares with the node cannot be.
    InvalidMessage,
}

impl EndReason {
    /// As metrics and events spell it.
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

/// Which engine an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLabel {
    /// The backend that it was started for.
    pub backend: &'static str,
    /// The deployment's id that has it for itself; nothing when it is shared.
    pub deployment: Option<String>,
    /// Whether it runs one graph alone, because engines ended that this graph ran in.
    pub is_suspect: bool,
    /// Its process.
    pub process: Option<u32>,
}

/// Which graph an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphLabel {
    /// Its name in the manifest of the deployment that had it loaded.
    pub name: String,
    /// SHA-256 that tells its files from any others.
    pub digest: String,
    /// The deployment's id whose engines it is loaded in; nothing when it is loaded in shared ones.
    pub deployment: Option<String>,
}

impl GraphLabel {
    /// What is held against it is held under this key: what one deployment's inputs do to a graph does not count for another
    /// that has engines of its own.
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
    /// Type and shape of each input of one of its runs, as `f32 [1, 2]`; none when it was loading.
    pub inputs: Vec<String>,
}

/// Something that happened to an engine or on account of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// An engine started.
    Started(EngineLabel),
    /// An engine ended.
    Ended {
        /// Which.
        engine: EngineLabel,
        /// Why, for programs.
        reason: EndReason,
        /// Why, for people.
        message: String,
        /// The graphs that may have ended it, 16 at most.
        suspects: Vec<Suspect>,
    },
    /// A graph ended its own engine repeatedly and is not run for a while.
    Quarantined {
        /// The graph, with the inputs of the last run.
        suspect: Suspect,
        /// How often it ended its own engine lately.
        ends: usize,
        /// For how long it is not run.
        time: Duration,
    },
    /// A graph may be run again.
    Released(Arc<GraphLabel>),
    /// An idle graph was unloaded to make room for another. Its next run loads it again.
    Evicted {
        /// The graph.
        graph: Arc<GraphLabel>,
        /// The memory that it was counted with.
        bytes: u64,
    },
}

/// What was counted since the node started.
#[derive(Clone, Debug, Default)]
pub struct EngineTotals {
    /// Engines that started, by backend.
    pub starts: BTreeMap<&'static str, u64>,
    /// Engines that ended, by backend and reason.
    pub ends: BTreeMap<(&'static str, EndReason), u64>,
    /// How often a graph was quarantined.
    pub quarantines: u64,
    /// How often an idle graph was unloaded to make room for another.
    pub evictions: u64,
    /// Graphs that are quarantined now.
    pub quarantined_graphs: usize,
}

/// Counts and sends.
pub(super) struct History {
    totals: Mutex<EngineTotals>,
    events: broadcast::Sender<EngineEvent>,
}

impl History {
    pub fn new() -> Self {
        Self {
            totals: Mutex::default(),
            events: broadcast::Sender::new(KEPT_EVENTS),
        }
    }

    /// Counts an event and sends it to all who follow.
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
        // An error says that nothing follows.
        let _ = self.events.send(event);
    }

    /// Events from now on.
    pub fn follow(&self) -> broadcast::Receiver<EngineEvent> {
        self.events.subscribe()
    }

    /// What was counted; quarantined graphs are counted by the caller.
    pub fn totals(&self) -> EngineTotals {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, EngineTotals> {
        // Each counter is right at every instant.
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
    fn events_are_counted_and_sent() {
        let history = History::new();
        history.record(EngineEvent::Started(engine("rten")));
        let mut followed = history.follow();
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
