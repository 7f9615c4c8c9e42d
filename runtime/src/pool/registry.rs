//! The replicas of a pool by id: their state, and requests to stop them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

/// State of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// The instance is created and runs its `init`.
    Starting,
    /// It waits for a request.
    Idle,
    /// It serves a request.
    Busy,
    /// It serves its last request.
    Stopping,
}

/// Information about a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Id of the replica, as in logs.
    pub id: String,
    /// State of the replica.
    pub state: ReplicaState,
    /// Time since the beginning of its start.
    pub age: Duration,
    /// Number of requests that it was given.
    pub served: u64,
}

/// Numbers of replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Replicas that can serve, idle or busy.
    pub ready: usize,
    /// Replicas that are starting.
    pub starting: usize,
}

/// Result of stopping a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// It has stopped.
    Now,
    /// It finishes its request or its start first.
    Later,
}

/// Entry of a replica.
#[derive(Debug)]
pub(crate) struct Card {
    id: String,
    begun: Instant,
    ready: OnceLock<Instant>,
    served: AtomicU64,
    stops: AtomicBool,
    killed: AtomicBool,
    runner: AtomicWaker,
}

impl Card {
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub fn count_request(&self) {
        // Only the replica itself counts.
        self.served.store(self.served() + 1, Ordering::Relaxed);
    }

    /// Records that the replica can serve.
    pub fn set_ready(&self) {
        let _ = self.ready.set(Instant::now());
    }

    /// Since when it can serve.
    pub fn ready(&self) -> Option<Instant> {
        self.ready.get().copied()
    }

    /// Stops the replica after its request or its start.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::Release);
    }

    pub fn stops(&self) -> bool {
        self.stops.load(Ordering::Acquire)
    }

    /// Stops the replica at once.
    pub fn kill(&self) {
        self.stop();
        self.killed.store(true, Ordering::Release);
        self.runner.wake();
    }

    /// Waits until the replica has to stop at once. Only the code that runs the replica may wait.
    pub fn poll_killed(&self, cx: &Context<'_>) -> Poll<()> {
        self.runner.register(cx.waker());
        match self.killed.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    pub fn info(&self, idle: bool, now: Instant) -> ReplicaInfo {
        let state = match (self.ready(), self.stops()) {
            (None, _) => ReplicaState::Starting,
            (Some(_), _) if idle => ReplicaState::Idle,
            (Some(_), true) => ReplicaState::Stopping,
            (Some(_), false) => ReplicaState::Busy,
        };
        ReplicaInfo {
            id: self.id.clone(),
            state,
            age: now.saturating_duration_since(self.begun),
            served: self.served(),
        }
    }
}

/// The replicas of a pool, including starting ones. Locked when a replica starts or stops, never by a request on a warm one.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    cards: Mutex<BTreeMap<String, Arc<Card>>>,
}

impl Roster {
    /// Adds a starting replica with a unique id. It is removed when the returned value is dropped.
    pub fn enter(self: &Arc<Self>, new_id: impl Fn() -> String) -> Listed {
        let mut cards = self.lock();
        let mut id = new_id();
        while cards.contains_key(&id) {
            id = new_id();
        }
        let card = Arc::new(Card {
            id: id.clone(),
            begun: Instant::now(),
            ready: OnceLock::new(),
            served: AtomicU64::new(0),
            stops: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            runner: AtomicWaker::new(),
        });
        cards.insert(id, card.clone());
        Listed {
            card,
            roster: self.clone(),
        }
    }

    /// All replicas, by id.
    pub fn all(&self) -> Vec<Arc<Card>> {
        self.lock().values().cloned().collect()
    }

    pub fn find(&self, id: &str) -> Option<Arc<Card>> {
        self.lock().get(id).cloned()
    }

    /// Numbers of replicas that can serve and that are starting.
    pub fn presence(&self) -> Presence {
        let cards = self.lock();
        let ready = cards.values().filter(|card| card.ready().is_some()).count();
        Presence {
            ready,
            starting: cards.len() - ready,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Card>>> {
        // A map of cards is whole at every instant.
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an entry until it is dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    card: Arc<Card>,
    roster: Arc<Roster>,
}

impl Listed {
    /// The shared entry.
    pub fn card(&self) -> Arc<Card> {
        self.card.clone()
    }
}

impl std::ops::Deref for Listed {
    type Target = Card;

    fn deref(&self) -> &Card {
        &self.card
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.roster.lock().remove(&self.card.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn an_entry_lasts_as_long_as_its_replica_and_ids_are_unique() {
        let roster = Arc::new(Roster::default());
        let drawn = Cell::new(0);
        let draw = || {
            drawn.set(drawn.get() + 1);
            ["aaaaa", "aaaaa", "bbbbb"][drawn.get() - 1].to_owned()
        };
        let first = roster.enter(draw);
        let second = roster.enter(draw);
        assert_eq!((first.id(), second.id()), ("aaaaa", "bbbbb"));
        let presence = |ready, starting| Presence { ready, starting };
        assert_eq!(roster.presence(), presence(0, 2));
        second.set_ready();
        second.count_request();
        let states: Vec<_> = roster
            .all()
            .iter()
            .map(|card| card.info(false, Instant::now()))
            .map(|info| (info.state, info.served))
            .collect();
        let wanted = [(ReplicaState::Starting, 0), (ReplicaState::Busy, 1)];
        assert_eq!(states, wanted);
        roster.find("bbbbb").unwrap().stop();
        let info = second.info(false, Instant::now());
        assert_eq!(info.state, ReplicaState::Stopping);
        drop(first);
        assert!(roster.find("aaaaa").is_none());
        assert_eq!(roster.presence(), presence(1, 0));
    }
}
