//! What was removed last, so that whoever comes late with an older view of it does not bring it back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use samovar_types::id::Id;

/// Removed things that are remembered. Their ids do not come again.
const REMEMBERED: usize = 10_000;

/// Things that were removed, by their ids or other names that do not come again.
pub struct Gone<K = Id> {
    inner: Mutex<Inner<K>>,
}

struct Inner<K> {
    order: VecDeque<K>,
    all: BTreeSet<K>,
    turns: BTreeMap<K, Weak<tokio::sync::Mutex<()>>>,
}

impl<K: Ord + Clone> Default for Gone<K> {
    fn default() -> Self {
        let inner = Inner {
            order: VecDeque::new(),
            all: BTreeSet::new(),
            turns: BTreeMap::new(),
        };
        Self {
            inner: Mutex::new(inner),
        }
    }
}

impl<K: Ord + Clone> Gone<K> {
    /// Remembers one.
    pub fn add(&self, key: K) {
        let mut inner = self.lock();
        if !inner.all.insert(key.clone()) {
            return;
        }
        inner.order.push_back(key);
        if inner.order.len() > REMEMBERED
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.all.remove(&oldest);
        }
    }

    /// Whether one is remembered.
    pub fn has(&self, key: &K) -> bool {
        self.lock().all.contains(key)
    }

    /// The turn of whoever removes one: those who come later wait for it.
    pub fn turn(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut inner = self.lock();
        inner.turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = inner.turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        inner.turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        // Sets of plain keys: a panic leaves none of them half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let gone = Gone::default();
        for number in 0..=REMEMBERED {
            gone.add(number);
            gone.add(number);
        }
        assert!(!gone.has(&0) && gone.has(&1) && gone.has(&REMEMBERED));
        assert_eq!(gone.lock().order.len(), REMEMBERED);
    }

    #[tokio::test]
    async fn those_who_remove_the_same_one_wait_for_each_other() {
        let gone = Gone::default();
        let (first, other) = (gone.turn(1), gone.turn(2));
        let held = first.lock().await;
        assert!(gone.turn(1).try_lock().is_err());
        assert!(other.try_lock().is_ok());
        drop(held);
        drop(first);
        assert!(gone.turn(1).try_lock().is_ok());
        assert_eq!(gone.lock().turns.len(), 2);
    }
}
