//! Lets starts of replicas pause while they fail; asks nothing of a deployment whose starts succeed but one look at a flag.

pub(crate) mod state;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use state::{Admission, Health, Trouble};

/// How well a pool's replicas start, shared by all its starts.
#[derive(Debug)]
pub(super) struct Gate {
    spotless: AtomicBool,
    health: Mutex<Health>,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            spotless: AtomicBool::new(true),
            health: Mutex::default(),
        })
    }

    /// Lets a replica start, perhaps as the attempt that an ill deployment is given.
    pub(super) fn may_start(self: &Arc<Self>, now: Instant) -> Result<Option<Attempt>, Trouble> {
        if self.is_spotless() {
            return Ok(None);
        }
        match self.change(|health| health.may_start(now)) {
            Admission::Free => Ok(None),
            Admission::Refused(trouble) => Err(trouble),
            Admission::Attempt(number) => Ok(Some(Attempt {
                gate: self.clone(),
                number,
            })),
        }
    }

    /// Whether a start would be refused now.
    pub(super) fn starts_pause(&self, now: Instant) -> bool {
        !self.is_spotless() && self.change(|health| health.starts_pause(now))
    }

    /// Notes that a replica has started.
    pub(super) fn started(&self) {
        if !self.is_spotless() {
            self.change(Health::started);
        }
    }

    /// Notes that a replica did not start.
    pub(super) fn start_failed(&self, reason: &str) {
        self.change(|health| health.start_failed(reason, Instant::now()));
    }

    /// What is wrong, if anything.
    pub(super) fn trouble(&self, now: Instant) -> Option<Trouble> {
        match self.is_spotless() {
            true => None,
            false => self.change(|health| health.trouble(now)),
        }
    }

    /// Forgets all that was wrong.
    pub(super) fn clear(&self) {
        self.change(|health| *health = Health::default());
    }

    fn is_spotless(&self) -> bool {
        // Another thread's news of a moment ago may be missed: it is as if this had come before it.
        self.spotless.load(Ordering::Relaxed)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        // Every method leaves it whole, also when a later one panics.
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut health);
        self.spotless.store(health.is_spotless(), Ordering::Relaxed);
        changed
    }
}

/// The attempt that is made after a pause. Dropped without having succeeded or failed, it makes room for the next.
#[derive(Debug)]
pub(super) struct Attempt {
    gate: Arc<Gate>,
    number: u64,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.gate
            .change(|health| health.given_up(self.number, Instant::now()));
    }
}
