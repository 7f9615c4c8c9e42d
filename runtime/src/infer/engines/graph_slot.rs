//! The loaded instance of a graph, if any. It is lost when its engine ends, and evicted when others need its memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fleet::EngineGraph;
use crate::infer::eviction::Resident;

/// Holds a graph while it is loaded.
#[derive(Default)]
pub(super) struct GraphSlot {
    loaded: Mutex<Option<Arc<EngineGraph>>>,
    last_used: AtomicU64,
}

impl GraphSlot {
    /// Returns the loaded graph for a run, unless its engine has ended.
    pub fn get(&self, now: u64) -> Option<Arc<EngineGraph>> {
        let at = self.lock().clone()?;
        self.last_used.store(now, Ordering::Relaxed);
        at.engine.is_alive().then_some(at)
    }

    /// Sets the loaded graph.
    pub fn set(&self, at: Arc<EngineGraph>, now: u64) {
        self.last_used.store(now, Ordering::Relaxed);
        let before = self.lock().replace(at);
        drop(before);
    }

    /// Its memory use, if it is loaded.
    pub fn resident(&self) -> Option<Resident> {
        let at = self.lock();
        let at = at.as_ref()?;
        Some(Resident {
            bytes: at.share.bytes(),
            // Each run has a reference.
            running: Arc::strong_count(at) - 1,
            last_used: self.last_used.load(Ordering::Relaxed),
        })
    }

    /// Unloads it unless it is running. The next run loads it again.
    pub fn evict(&self) {
        let mut at = self.lock();
        let idle = at.take_if(|at| Arc::strong_count(at) == 1);
        drop(at);
        if let Some(at) = idle {
            at.record_eviction();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<EngineGraph>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
