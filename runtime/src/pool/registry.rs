//! The replicas of a pool by their ids: what can be observed of each, and how each is told to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It is being made, or runs its `init`.
    Starting,
    /// It waits for a request.
    Idle,
    /// It serves a request.
    Busy,
    /// It serves its last request.
    Stopping,
}

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// The id that its log lines carry.
    pub id: String,
    /// What it is doing.
    pub state: ReplicaState,
    /// Time since its start began.
    pub age: Duration,
    /// Requests it has been given.
    pub served: u64,
}

/// How many replicas a pool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Replicas that can serve: idle or busy.
    pub ready: usize,
    /// Replicas that start.
    pub starting: usize,
}

/// What follows when a replica is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// The replica was idle, and is gone.
    Stopped,
    /// The replica finishes its request first.
    Draining,
}

/// The entry of one replica, shared with those that observe or stop it.
#[derive(Debug)]
pub(crate) struct ReplicaEntry {
    id: String,
    started_at: Instant,
    ready: AtomicBool,
    served: AtomicU64,
    stopping: AtomicBool,
    killed: AtomicBool,
    on_kill: AtomicWaker,
}

impl ReplicaEntry {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Requests that the replica has been given.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// PoolCounts one more request.
    pub fn count_request(&self) {
        // A replica serves one request at a time, and nothing else writes the count.
        self.served.store(self.served() + 1, Ordering::Relaxed);
    }

    /// Records that the replica can serve.
    pub fn mark_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Stops the replica after its current request.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Stops the replica at once.
    pub fn kill(&self) {
        self.stop();
        self.killed.store(true, Ordering::Release);
        self.on_kill.wake();
    }

    /// Waits until the replica is killed. Only the task that runs the replica may wait.
    pub fn poll_killed(&self, cx: &Context<'_>) -> Poll<()> {
        self.on_kill.register(cx.waker());
        match self.killed.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    pub fn info(&self, is_idle: bool, now: Instant) -> ReplicaInfo {
        let state = match (self.is_ready(), self.is_stopping()) {
            (false, _) => ReplicaState::Starting,
            (true, _) if is_idle => ReplicaState::Idle,
            (true, true) => ReplicaState::Stopping,
            (true, false) => ReplicaState::Busy,
        };
        ReplicaInfo {
            id: self.id.clone(),
            state,
            age: now.saturating_duration_since(self.started_at),
            served: self.served(),
        }
    }
}

/// The replicas of a pool, including those that start. Locked when a replica starts or goes, never by a request on a warm one.
#[derive(Debug, Default)]
pub(crate) struct ReplicaRegistry {
    entries: Mutex<BTreeMap<String, Arc<ReplicaEntry>>>,
}

impl ReplicaRegistry {
    /// Registers a replica that begins to start, under an unused id. It is removed when the guard is dropped.
    pub fn register(self: &Arc<Self>, new_id: impl Fn() -> String) -> RegistryGuard {
        let mut entries = self.entries.lock();
        let mut id = new_id();
        while entries.contains_key(&id) {
            id = new_id();
        }
        let entry = Arc::new(ReplicaEntry {
            id: id.clone(),
            started_at: Instant::now(),
            ready: AtomicBool::new(false),
            served: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            on_kill: AtomicWaker::new(),
        });
        entries.insert(id, entry.clone());
        RegistryGuard {
            entry,
            registry: self.clone(),
        }
    }

    /// All replicas, ordered by id.
    pub fn all(&self) -> Vec<Arc<ReplicaEntry>> {
        self.entries.lock().values().cloned().collect()
    }

    pub fn find(&self, id: &str) -> Option<Arc<ReplicaEntry>> {
        self.entries.lock().get(id).cloned()
    }

    /// How many replicas can serve, and how many start.
    pub fn readiness(&self) -> Readiness {
        let entries = self.entries.lock();
        let ready = entries.values().filter(|entry| entry.is_ready()).count();
        Readiness {
            ready,
            starting: entries.len() - ready,
        }
    }
}

/// The registration of a replica. Dropping it removes the replica from the registry.
#[derive(Debug)]
pub(crate) struct RegistryGuard {
    entry: Arc<ReplicaEntry>,
    registry: Arc<ReplicaRegistry>,
}

impl RegistryGuard {
    /// The entry, for use while the replica is elsewhere.
    pub fn entry(&self) -> Arc<ReplicaEntry> {
        self.entry.clone()
    }
}

impl std::ops::Deref for RegistryGuard {
    type Target = ReplicaEntry;

    fn deref(&self) -> &ReplicaEntry {
        &self.entry
    }
}

impl Drop for RegistryGuard {
    fn drop(&mut self) {
        self.registry.entries.lock().remove(&self.entry.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn an_entry_lasts_as_long_as_its_replica_and_ids_are_unique() {
        let registry = Arc::new(ReplicaRegistry::default());
        let drawn = Cell::new(0);
        let draw = || {
            drawn.set(drawn.get() + 1);
            ["aaaaa", "aaaaa", "bbbbb"][drawn.get() - 1].to_owned()
        };
        let first = registry.register(draw);
        let second = registry.register(draw);
        assert_eq!((first.id(), second.id()), ("aaaaa", "bbbbb"));
        let readiness = |ready, starting| Readiness { ready, starting };
        assert_eq!(registry.readiness(), readiness(0, 2));
        second.mark_ready();
        second.count_request();
        let states: Vec<_> = registry
            .all()
            .iter()
            .map(|entry| entry.info(false, Instant::now()))
            .map(|info| (info.state, info.served))
            .collect();
        let wanted = [(ReplicaState::Starting, 0), (ReplicaState::Busy, 1)];
        assert_eq!(states, wanted);
        registry.find("bbbbb").unwrap().stop();
        let info = second.info(false, Instant::now());
        assert_eq!(info.state, ReplicaState::Stopping);
        drop(first);
        assert!(registry.find("aaaaa").is_none());
        assert_eq!(registry.readiness(), readiness(1, 0));
    }
}
