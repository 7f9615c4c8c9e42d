//! Permits for jobs: an owner has one job at a time, and owners take semaphore.
//!
//! `fair_semaphore.rs` alone would give an owner all permits while no other waits. A job can take minutes, and the next owner would wait
//! as long.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::fair_semaphore::{FairSemaphore, SemaphorePermit};
use crate::permits::Owner;

/// Permits for a number of jobs at once.
pub(super) struct OwnerPermits {
    semaphore: FairSemaphore,
    /// One lock per owner with jobs, held by the job that runs or waits in `semaphore`.
    locks: Mutex<HashMap<Owner, Weak<AsyncMutex<()>>>>,
}

/// A permit for one job, released when dropped.
pub(super) struct OwnerPermit {
    _permit: SemaphorePermit,
    _lock: OwnedMutexGuard<()>,
}

impl OwnerPermits {
    /// Permits for `at_once` jobs at once.
    pub fn new(at_once: usize) -> Self {
        Self {
            semaphore: FairSemaphore::new(at_once),
            locks: Mutex::default(),
        }
    }

    /// Waits for a permit. Dropping the future abandons the request.
    pub async fn acquire(&self, owner: Owner) -> OwnerPermit {
        let lock = self.lock_of(owner).lock_owned().await;
        OwnerPermit {
            _permit: self.semaphore.acquire(owner).await,
            _lock: lock,
        }
    }

    fn lock_of(&self, owner: Owner) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock();
        if let Some(lock) = locks.get(&owner).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(owner, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_owner_leaves_permits_for_others() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(Owner::named);
        let owners = OwnerPermits::new(2);
        let first = owners.acquire(a).await;
        let mut second = Box::pin(owners.acquire(a));
        assert!((&mut second).now_or_never().is_none(), "a has one");
        let other = owners.acquire(b).now_or_never().unwrap();
        let mut third = Box::pin(owners.acquire(c));
        assert!((&mut third).now_or_never().is_none(), "all are taken");
        drop(first);
        // It now waits for a permit, behind a request that came first.
        assert!((&mut second).now_or_never().is_none());
        let third = third.now_or_never().unwrap();
        drop(other);
        let second = second.now_or_never().unwrap();
        drop((second, third));
        let _last = owners.acquire(d).now_or_never().unwrap();
        assert_eq!(owners.locks.lock().len(), 1, "only d");
    }

    #[tokio::test]
    async fn an_abandoned_request_does_not_block_others() {
        let [a, b] = ["a", "b"].map(Owner::named);
        let owners = OwnerPermits::new(1);
        let first = owners.acquire(a).await;
        let mut gone = Box::pin(owners.acquire(b));
        assert!((&mut gone).now_or_never().is_none());
        let mut next = Box::pin(owners.acquire(b));
        assert!((&mut next).now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!(next.now_or_never().is_some());
    }
}
