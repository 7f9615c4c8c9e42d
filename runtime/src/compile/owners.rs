//! Who compiles next: an owner has one job at a time, and owners with jobs take turns.
//!
//! `turns.rs` would give an owner all permits while no other waits. A job may go on for minutes, so that the next owner would
//! wait as long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Line, OwnedMutexGuard};

use crate::budget::Owner;
use crate::turns::{Permit, Turns};

/// Turns for so many jobs at once.
pub(super) struct Owners {
    turns: Turns,
    /// Of each owner with jobs: held by the one that runs or waits in `turns`.
    lines: Mutex<HashMap<Owner, Weak<Line<()>>>>,
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    _permit: Permit,
    _first: OwnedMutexGuard<()>,
}

impl Owners {
    /// Turns for this many jobs at once.
    pub fn new(at_once: usize) -> Self {
        Self {
            turns: Turns::new(at_once),
            lines: Mutex::default(),
        }
    }

    /// Waits for a turn.
    pub async fn take(&self, owner: Owner) -> Turn {
        let first = self.line(owner).lock_owned().await;
        Turn {
            _permit: self.turns.take(owner).await,
            _first: first,
        }
    }

    fn line(&self, owner: Owner) -> Arc<Line<()>> {
        // Entries are put in and taken out whole.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&owner).and_then(Weak::upgrade) {
            return line;
        }
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::default();
        lines.insert(owner, Arc::downgrade(&line));
        line
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_owner_leaves_turns_for_others() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(Owner::named);
        let owners = Owners::new(2);
        let first = owners.take(a).await;
        let mut second = Box::pin(owners.take(a));
        assert!((&mut second).now_or_never().is_none(), "a has one");
        let other = owners.take(b).now_or_never().unwrap();
        let mut third = Box::pin(owners.take(c));
        assert!((&mut third).now_or_never().is_none(), "all are taken");
        drop(first);
        // It waits for a turn now, behind one that came before.
        assert!((&mut second).now_or_never().is_none());
        let third = third.now_or_never().unwrap();
        drop(other);
        let second = second.now_or_never().unwrap();
        drop((second, third));
        let _last = owners.take(d).now_or_never().unwrap();
        assert_eq!(owners.lines.lock().unwrap().len(), 1, "only d");
    }

    #[tokio::test]
    async fn what_no_longer_waits_keeps_nobody_waiting() {
        let [a, b] = ["a", "b"].map(Owner::named);
        let owners = Owners::new(1);
        let first = owners.take(a).await;
        let mut gone = Box::pin(owners.take(b));
        assert!((&mut gone).now_or_never().is_none());
        let mut next = Box::pin(owners.take(b));
        assert!((&mut next).now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!(next.now_or_never().is_some());
    }
}
