//! The connections of a server: how many there are, and which end when there are too many.
//!
//! A full table makes room by closing connections on which no request runs, so clients that send nothing cannot lock
//! out those that do. There is no share per address: behind a proxy, and on loopback, all clients have the same one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::state::{ConnectionState, Order};

/// A client may take so long to send its first request before its connection goes ahead of idle ones.
const YOUNG: Duration = Duration::from_secs(1);
/// A full table looks this often whether a connection became idle.
const RETRY: Duration = Duration::from_millis(50);
/// One in so many connections ends when the table is full, so that the next ones find room without another search.
const SHARE: usize = 64;

/// The open connections.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    started: Instant,
    open: AtomicUsize,
    all: Mutex<BTreeMap<u64, Arc<ConnectionState>>>,
    changed: Notify,
}

/// One of them, which leaves the table when it is dropped.
#[derive(Debug)]
pub struct Entry {
    table: Arc<Connections>,
    number: u64,
    /// What it is doing.
    pub state: Arc<ConnectionState>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut all = self.table.all();
        all.remove(&self.number);
        self.table.open.store(all.len(), Ordering::Relaxed);
        drop(all);
        // There is one waiter: the loop that accepts, or later the drain.
        self.table.changed.notify_one();
    }
}

impl Connections {
    /// A table with room for so many.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            started: Instant::now(),
            open: AtomicUsize::new(0),
            all: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many may be open.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Adds a connection. The accept loop gives ascending numbers.
    pub fn add(self: &Arc<Self>, number: u64) -> Entry {
        let state = Arc::new(ConnectionState::new(self.now_ms()));
        let mut all = self.all();
        all.insert(number, state.clone());
        self.open.store(all.len(), Ordering::Relaxed);
        drop(all);
        Entry {
            table: self.clone(),
            number,
            state,
        }
    }

    /// Waits until there is room for another connection, and makes some if need be.
    pub async fn room(&self) {
        while self.open() >= self.max {
            self.evict();
            // Connections that became idle meanwhile tell nobody.
            let _ = tokio::time::timeout(RETRY, self.changed.notified()).await;
        }
    }

    /// Ends a few of the connections on which no request runs.
    pub fn evict(&self) {
        let all = self.all();
        let seen: Vec<_> = all
            .iter()
            .filter(|(_, state)| !state.is_working())
            .map(|(number, state)| Seen {
                number: *number,
                has_asked: state.has_asked(),
                idle_since_ms: state.idle_since_ms(),
            })
            .collect();
        for number in choose(seen, self.max.div_ceil(SHARE), self.now_ms()) {
            if let Some(state) = all.get(&number) {
                state.tell(Order::Evict);
            }
        }
    }

    /// Gives all connections an order, and waits at most so long until they have ended. Answers whether they did.
    pub async fn end(&self, order: Order, within: Duration) -> bool {
        let end = async {
            while self.open() > 0 {
                // Told again, because a connection may have been added meanwhile.
                for state in self.all().values() {
                    state.tell(order);
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), self.changed.notified()).await;
            }
        };
        tokio::time::timeout(within, end).await.is_ok()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ConnectionState>>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the table whole.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on which no request runs.
#[derive(Clone, Copy, Debug)]
struct Seen {
    number: u64,
    has_asked: bool,
    idle_since_ms: u64,
}

/// Which of the connections end: first those that have been silent since they were accepted, then idle ones, then those
/// that were accepted a moment ago; of each kind, the oldest first.
fn choose(mut seen: Vec<Seen>, count: usize, now_ms: u64) -> Vec<u64> {
    let young = u64::try_from(YOUNG.as_millis()).unwrap_or(u64::MAX);
    let rank = |one: &Seen| {
        let is_young = now_ms.saturating_sub(one.idle_since_ms) < young;
        let kind = match (one.has_asked, is_young) {
            (false, false) => 0,
            (true, _) => 1,
            (false, true) => 2,
        };
        (kind, one.idle_since_ms, one.number)
    };
    if count < seen.len() {
        seen.select_nth_unstable_by_key(count, rank);
        seen.truncate(count);
    }
    seen.into_iter().map(|one| one.number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(seen: &[(u64, bool, u64)], count: usize) -> Vec<u64> {
        let seen = seen.iter().map(|&(number, has_asked, idle_since_ms)| Seen {
            number,
            has_asked,
            idle_since_ms,
        });
        let mut chosen = choose(seen.collect(), count, 10_000);
        chosen.sort_unstable();
        chosen
    }

    #[test]
    fn silent_ones_go_first_then_idle_ones_then_new_ones() {
        let seen = [
            (1, true, 200),
            (2, false, 9_500),
            (3, false, 5_000),
            (4, true, 100),
            (5, false, 4_000),
        ];
        let goes: Vec<_> = (0..=6).map(|count| chosen(&seen, count)).collect();
        assert_eq!(goes[0], [0; 0]);
        assert_eq!(goes[1], [5]);
        assert_eq!(goes[2], [3, 5]);
        assert_eq!(goes[3], [3, 4, 5]);
        assert_eq!(goes[4], [1, 3, 4, 5]);
        assert_eq!(goes[5], [1, 2, 3, 4, 5]);
        assert_eq!(goes[6], goes[5]);
    }

    #[tokio::test]
    async fn a_full_table_evicts_those_without_a_request_and_waits_for_the_others() {
        let table = Connections::new(2);
        let (busy, silent) = (table.add(0), table.add(1));
        busy.state.begins();
        let room = tokio::spawn({
            let table = table.clone();
            async move { table.room().await }
        });
        while silent.state.order() != Order::Evict {
            tokio::task::yield_now().await;
        }
        assert_eq!(busy.state.order(), Order::Serve);
        drop(silent);
        room.await.unwrap();
        assert_eq!((table.open(), table.max()), (1, 2));
    }

    #[tokio::test]
    async fn all_are_told_to_end() {
        let table = Connections::new(2);
        let entry = table.add(0);
        assert!(!table.end(Order::Finish, Duration::from_millis(1)).await);
        assert_eq!(entry.state.order(), Order::Finish);
        drop(entry);
        assert!(table.end(Order::Close, Duration::from_secs(60)).await);
    }
}
