//! How many replicas a node may hold, and whose idle one goes when a busier deployment needs the room.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Somebody who keeps idle replicas and can part with one.
pub(crate) trait IdleHolder: Send + Sync {
    /// Since when its longest idle replica has been so.
    fn oldest_idle(&self) -> Option<Instant>;
    /// Drops that replica.
    fn evict_oldest(&self);
}

/// The replica slots of a node.
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    holders: Mutex<Vec<Weak<dyn IdleHolder>>>,
}

impl Slots {
    /// As many slots as the allocator can hold replicas.
    pub fn new(count: u32) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count as usize)),
            holders: Mutex::default(),
        }
    }

    /// Lets idle replicas of this holder be dropped for others.
    pub fn register(&self, holder: Weak<dyn IdleHolder>) {
        let mut holders = self.lock();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// A slot: a free one, else that of the replica idle for longest on this node, else the next to come free.
    pub async fn take(&self) -> OwnedSemaphorePermit {
        if let Ok(slot) = self.free.clone().try_acquire_owned() {
            return slot;
        }
        self.evict_one();
        match self.free.clone().acquire_owned().await {
            Ok(slot) => slot,
            Err(_) => unreachable!("the semaphore is never closed"),
        }
    }

    /// Whether nobody need go for the next replica.
    pub fn has_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    fn evict_one(&self) {
        let holders: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let oldest = holders
            .iter()
            .filter_map(|holder| Some((holder.oldest_idle()?, holder)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, holder)) = oldest {
            holder.evict_oldest();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn IdleHolder>>> {
        // A list of weak handles is whole at every instant.
        self.holders
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
