//! The state of the engines for the API and metrics.

use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::broadcast;

use super::{Fleet, lock};
use crate::infer::engines::history::{EngineEvent, EngineTotals};
use crate::infer::engines::{EngineInfo, GraphMemory};
use crate::process::barrier::Barrier;
use crate::process::status_bytes;

impl Fleet {
    /// The running engines.
    pub fn engines(&self) -> Vec<EngineInfo> {
        let slots: Vec<_> = lock(&self.slots)
            .iter()
            .map(|(group, slot)| (group.clone(), slot.clone()))
            .collect();
        let running = slots.into_iter().filter_map(|(group, slot)| {
            // The state is locked while an engine starts.
            let engine = slot.state.try_lock().ok()?.engine.clone()?;
            engine.is_alive().then(|| EngineInfo {
                backend: group.backend.name(),
                graphs: slot.graphs.load(Ordering::Relaxed),
                deployment: group.deployment,
                is_suspect: group.suspect.is_some(),
                process: engine.process(),
                resident_bytes: engine.process().and_then(resident_bytes),
                confined_by: Barrier::names(&engine.capabilities().barriers),
            })
        });
        running.collect()
    }

    /// The memory of graphs.
    pub fn graph_memory(&self) -> GraphMemory {
        self.memory.info()
    }

    /// The mechanisms that confine engines here, and those that are not available.
    pub fn barriers(&self) -> &[Barrier] {
        self.capabilities
            .get()
            .map_or(&[], |opened| &opened.barriers)
    }

    /// Subscribes to events of engines.
    pub fn subscribe(&self) -> broadcast::Receiver<EngineEvent> {
        self.history.subscribe()
    }

    /// Counters since the node started.
    pub fn totals(&self) -> EngineTotals {
        EngineTotals {
            quarantined_graphs: lock(&self.crash_history).count_quarantined(Instant::now()),
            ..self.history.totals()
        }
    }
}

/// Resident memory of a process in bytes, if the system reports it.
fn resident_bytes(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status_bytes(&text, "VmRSS:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_known_for_running_processes_only() {
        let own = resident_bytes(std::process::id()).unwrap();
        assert!(own > 1 << 20, "{own}");
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
