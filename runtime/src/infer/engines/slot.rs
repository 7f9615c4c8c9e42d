//! Where a graph is loaded just now, if it is: it goes when its engine ends, or when others need its memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fleet::At;
use crate::infer::eviction::Resident;

/// The place of a graph.
#[derive(Default)]
pub(super) struct Slot {
    at: Mutex<Option<Arc<At>>>,
    last_used: AtomicU64,
}

impl Slot {
    /// Where it is loaded, if it is and its engine is there, for a run that begins now.
    pub fn at(&self, now: u64) -> Option<Arc<At>> {
        let at = self.lock().clone()?;
        self.last_used.store(now, Ordering::Relaxed);
        at.engine.is_there().then_some(at)
    }

    /// Notes where it was loaded.
    pub fn set(&self, at: Arc<At>, now: u64) {
        self.last_used.store(now, Ordering::Relaxed);
        let before = self.lock().replace(at);
        drop(before);
    }

    /// What it takes of the memory, if it is loaded.
    pub fn resident(&self) -> Option<Resident> {
        let at = self.lock();
        let at = at.as_ref()?;
        Some(Resident {
            bytes: at.share.bytes(),
            // Each run holds it.
            running: Arc::strong_count(at) - 1,
            last_used: self.last_used.load(Ordering::Relaxed),
        })
    }

    /// Unloads it, if it does not run. The next run loads it again.
    pub fn evict(&self) {
        let mut at = self.lock();
        let idle = at.take_if(|at| Arc::strong_count(at) == 1);
        drop(at);
        if let Some(at) = idle {
            at.note_eviction();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<At>>> {
        // One place for another, at once.
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
