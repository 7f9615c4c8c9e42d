//! The replicas of a pool by their ids: what can be told of each, and who is to stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It is made, and runs its `init`.
    Starting,
    /// It waits for a request.
    Idle,
    /// It serves one.
    Busy,
    /// It serves its last one.
    Stopping,
}

/// A replica, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Its id, as in logs.
    pub id: String,
    /// What it does.
    pub state: ReplicaState,
    /// How long ago it began to start.
    pub age: Duration,
    /// Requests that it was given.
    pub served: u64,
}

/// How many replicas there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Those that can serve, idle or busy.
    pub ready: usize,
    /// Those that start.
    pub starting: usize,
}

/// What happened to a replica that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// It is gone.
    Now,
    /// It finishes what it does first.
    Later,
}

/// One replica's entry.
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

    /// Notes that the replica can serve.
    pub fn set_ready(&self) {
        let _ = self.ready.set(Instant::now());
    }

    /// Since when it can serve.
    pub fn ready(&self) -> Option<Instant> {
        self.ready.get().copied()
    }

    /// Lets the replica go after what it does now.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::Release);
    }

    pub fn stops(&self) -> bool {
        self.stops.load(Ordering::Acquire)
    }

    /// Lets the replica go at once, whatever it does.
    pub fn kill(&self) {
        self.stop();
        self.killed.store(true, Ordering::Release);
        self.runner.wake();
    }

    /// Waits until it is to be let go at once; for whoever runs the replica, who is the only one to wait.
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

/// The replicas of a pool, also those that start. Locked when one comes or goes, never by a request on a warm one.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    cards: Mutex<BTreeMap<String, Arc<Card>>>,
}

impl Roster {
    /// Enters a replica that begins to start, under an id that no other here has; it is struck off when the answer is
    /// dropped.
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

    /// Everyone, by id.
    pub fn all(&self) -> Vec<Arc<Card>> {
        self.lock().values().cloned().collect()
    }

    pub fn find(&self, id: &str) -> Option<Arc<Card>> {
        self.lock().get(id).cloned()
    }

    /// How many can serve, and how many start.
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

/// An entry that lasts until this is dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    card: Arc<Card>,
    roster: Arc<Roster>,
}

impl Listed {
    /// The entry, for those who look at it while the replica is elsewhere.
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
