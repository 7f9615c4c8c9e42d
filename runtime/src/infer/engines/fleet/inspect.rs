//! What can be seen of the engines from outside.

use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::broadcast;

use super::{Fleet, lock};
use crate::infer::engines::history::{EngineEvent, EngineTotals};
use crate::infer::engines::{EngineInfo, GraphMemory};
use crate::process::barrier::Barrier;
use crate::process::status_bytes;

impl Fleet {
    /// The engines that run.
    pub fn engines(&self) -> Vec<EngineInfo> {
        let berths: Vec<_> = lock(&self.berths)
            .iter()
            .map(|(group, berth)| (group.clone(), berth.clone()))
            .collect();
        let running = berths.into_iter().filter_map(|(group, berth)| {
            // One that just starts is no engine yet.
            let engine = berth.state.try_lock().ok()?.engine.clone()?;
            engine.is_there().then(|| EngineInfo {
                backend: group.backend.name(),
                graphs: berth.graphs.load(Ordering::Relaxed),
                deployment: group.deployment,
                is_suspect: group.suspect.is_some(),
                process: engine.process(),
                resident_bytes: engine.process().and_then(resident_bytes),
                confined_by: Barrier::names(&engine.opened().barriers),
            })
        });
        running.collect()
    }

    /// What graphs take of the memory.
    pub fn graph_memory(&self) -> GraphMemory {
        self.memory.info()
    }

    /// What confines engines here, and what does not.
    pub fn barriers(&self) -> &[Barrier] {
        self.opened.get().map_or(&[], |opened| &opened.barriers)
    }

    /// What happens to engines from now on.
    pub fn follow(&self) -> broadcast::Receiver<EngineEvent> {
        self.history.follow()
    }

    /// What happened to engines since the node started.
    pub fn totals(&self) -> EngineTotals {
        EngineTotals {
            quarantined_graphs: lock(&self.blame).quarantined(Instant::now()),
            ..self.history.totals()
        }
    }
}

/// Bytes of memory that a process has in RAM, as far as the system says.
fn resident_bytes(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status_bytes(&text, "VmRSS:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some_memory_and_none_that_is_not_there() {
        let own = resident_bytes(std::process::id()).unwrap();
        assert!(own > 1 << 20, "{own}");
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
