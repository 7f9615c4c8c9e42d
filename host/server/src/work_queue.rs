//! A queue of keys to reconcile. One task at a time works on a key; however often it is added meanwhile, that makes one more
//! run, which sees the latest state.
//!
//! This is the work queue of Kubernetes' controllers, with one thing more: [`WorkQueue::finished`] waits until a key has
//! been worked on at a revision, so that a handler can wait for what it committed.

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use samovar_store::Rev;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When a key is worked on again after its work has panicked.
const RETRY_AFTER_PANIC: Duration = Duration::from_secs(5);

/// Keys to work on.
pub struct WorkQueue<K> {
    keys: Mutex<HashMap<K, Entry>>,
    added: Notify,
    /// Counts runs that have ended.
    ended: watch::Sender<u64>,
}

/// A key that waits or is worked on; without either it has no entry.
struct Entry {
    waiting: Option<Waiting>,
    is_running: bool,
    /// Up to which revision it has been worked on.
    finished: Rev,
}

#[derive(Clone, Copy)]
struct Waiting {
    /// The newest revision that it was added at.
    rev: Rev,
    not_before: Instant,
}

/// What there is to do.
enum Next<K> {
    Work(K, Rev),
    Sleep(Option<Instant>),
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            keys: Mutex::default(),
            added: Notify::new(),
            ended: watch::Sender::new(0),
        }
    }
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static> WorkQueue<K> {
    /// Has a key worked on that may have changed after one revision and up to another.
    pub fn add(&self, key: K, after: Rev, rev: Rev) {
        let now = Instant::now();
        let mut keys = self.lock();
        let entry = keys.entry(key).or_insert_with(|| Entry {
            waiting: None,
            is_running: false,
            // It had no entry, so nothing of before is left to do.
            finished: after,
        });
        let rev = entry.waiting.map_or(rev, |waiting| waiting.rev.max(rev));
        entry.waiting = Some(Waiting {
            rev,
            not_before: now,
        });
        drop(keys);
        self.added.notify_one();
    }

    /// Has a key looked at again, of which everything up to a revision is known to have been added.
    pub fn wake(&self, key: K, rev: Rev) {
        self.add(key, rev, rev);
    }

    /// Has a key worked on once more although it may be finished at a revision: who waits for that waits for another run.
    pub fn redo(&self, key: K, rev: Rev) {
        self.add(key.clone(), rev, rev);
        if let Some(entry) = self.lock().get_mut(&key) {
            entry.finished = entry.finished.min(rev.saturating_sub(1));
        }
    }

    /// Changes whenever a run has ended.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Waits until a key that was added at this revision, or before, has been worked on.
    pub async fn finished(&self, key: &K, rev: Rev) {
        let mut ended = self.ended.subscribe();
        let is_finished = || {
            let keys = self.lock();
            keys.get(key).is_none_or(|entry| entry.finished >= rev)
        };
        // Ends only with the queue, which is borrowed.
        let _ = ended.wait_for(|_| is_finished()).await;
    }

    /// Works on keys, so many at a time, for as long as this is polled. `work` answers after which time the same key is
    /// to be worked on again, unless it is added before.
    pub async fn run<F>(&self, limit: usize, work: impl Fn(K) -> F)
    where
        F: Future<Output = Option<Duration>> + Send + 'static,
    {
        let mut running = JoinSet::new();
        loop {
            let sleep_until = loop {
                if running.len() >= limit {
                    break None;
                }
                match self.next(Instant::now()) {
                    Next::Work(key, rev) => {
                        let work = AssertUnwindSafe(work(key.clone())).catch_unwind();
                        running.spawn(async move {
                            // The panic hook has logged it.
                            let again = work.await.unwrap_or(Some(RETRY_AFTER_PANIC));
                            (key, rev, again)
                        });
                    }
                    Next::Sleep(until) => break until,
                }
            };
            let sleep = async {
                match sleep_until {
                    Some(instant) => tokio::time::sleep_until(instant).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(ended) = running.join_next() => {
                    if let Ok((key, rev, again)) = ended {
                        self.end(&key, rev, again);
                    }
                }
                () = self.added.notified(), if running.len() < limit => {}
                () = sleep => {}
            }
        }
    }

    /// Takes a key whose time has come.
    fn next(&self, now: Instant) -> Next<K> {
        let mut keys = self.lock();
        let mut soonest: Option<Instant> = None;
        for (key, entry) in keys.iter_mut().filter(|(_, entry)| !entry.is_running) {
            let Some(waiting) = entry.waiting else {
                continue;
            };
            if waiting.not_before <= now {
                entry.waiting = None;
                entry.is_running = true;
                return Next::Work(key.clone(), waiting.rev);
            }
            soonest = soonest.into_iter().chain([waiting.not_before]).min();
        }
        Next::Sleep(soonest)
    }

    fn end(&self, key: &K, rev: Rev, again: Option<Duration>) {
        let mut keys = self.lock();
        if let Some(entry) = keys.get_mut(key) {
            entry.is_running = false;
            entry.finished = entry.finished.max(rev);
            let again = again.map(|pause| Waiting {
                rev,
                not_before: Instant::now() + pause,
            });
            entry.waiting = entry.waiting.or(again);
            if entry.waiting.is_none() {
                keys.remove(key);
            }
        }
        drop(keys);
        self.ended.send_modify(|ended| *ended += 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        // Each entry is changed whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// A queue whose work waits for a permit, and how often each key was begun and ended.
    #[derive(Default)]
    struct Worked {
        begun: AtomicUsize,
        ended: AtomicUsize,
    }

    fn start(limit: usize) -> (Arc<WorkQueue<u8>>, Arc<Semaphore>, Arc<Worked>) {
        let queue = Arc::new(WorkQueue::default());
        let (gate, worked) = (Arc::new(Semaphore::new(0)), Arc::new(Worked::default()));
        let (running, permits, counts) = (queue.clone(), gate.clone(), worked.clone());
        tokio::spawn(async move {
            let work = |_| {
                let (permits, counts) = (permits.clone(), counts.clone());
                async move {
                    counts.begun.fetch_add(1, Ordering::SeqCst);
                    permits.acquire().await.unwrap().forget();
                    counts.ended.fetch_add(1, Ordering::SeqCst);
                    None
                }
            };
            running.run(limit, work).await;
        });
        (queue, gate, worked)
    }

    async fn reach(counter: &AtomicUsize, count: usize) {
        while counter.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_added_during_a_run_makes_one_more() {
        let (queue, gate, worked) = start(4);
        queue.add(1, 9, 10);
        reach(&worked.begun, 1).await;
        for rev in 11..20 {
            queue.add(1, rev - 1, rev);
        }
        gate.add_permits(1);
        reach(&worked.begun, 2).await;
        queue.finished(&1, 10).await;
        let later = queue.finished(&1, 19);
        assert!(later.now_or_never().is_none(), "it has not run since");
        gate.add_permits(1);
        queue.finished(&1, 19).await;
        assert_eq!(worked.ended.load(Ordering::SeqCst), 2);
        assert!(queue.lock().is_empty());
    }

    #[tokio::test]
    async fn a_change_within_a_batch_is_finished_only_after_a_run() {
        let (queue, gate, _) = start(1);
        // Commits 6 to 9 were read at once; the key changed with one of them.
        queue.add(1, 5, 9);
        queue.finished(&1, 5).await;
        for rev in 6..=9 {
            assert!(queue.finished(&1, rev).now_or_never().is_none(), "{rev}");
        }
        gate.add_permits(1);
        queue.finished(&1, 9).await;
        // Woken without a change: what was waited for stays finished.
        queue.wake(1, 9);
        queue.finished(&1, 9).await;
        gate.add_permits(1);
        queue.redo(1, 9);
        assert!(queue.finished(&1, 9).now_or_never().is_none());
        gate.add_permits(1);
        queue.finished(&1, 9).await;
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_each_other_within_the_limit() {
        let (queue, gate, worked) = start(2);
        for key in 1..=3 {
            queue.add(key, 0, 1);
        }
        reach(&worked.begun, 2).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(worked.begun.load(Ordering::SeqCst), 2);
        gate.add_permits(3);
        for key in 1..=3 {
            queue.finished(&key, 1).await;
        }
        // Of a key that was not added, everything is done.
        queue.finished(&9, 7).await;
    }

    #[tokio::test]
    async fn a_run_that_asks_for_another_or_panics_gets_one() {
        let queue = Arc::new(WorkQueue::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let (running, counted) = (queue.clone(), runs.clone());
        tokio::spawn(async move {
            let work = |_: u8| {
                let counted = counted.clone();
                async move {
                    match counted.fetch_add(1, Ordering::SeqCst) {
                        0 => Some(Duration::from_millis(1)),
                        1 => panic!("expected"),
                        _ => None,
                    }
                }
            };
            running.run(1, work).await;
        });
        queue.add(1, 4, 5);
        queue.finished(&1, 5).await;
        // The second run is due, and panics; the third is due later, unless the key is added.
        reach(&runs, 2).await;
        queue.finished(&1, 5).await;
        while queue.lock()[&1].is_running {
            tokio::task::yield_now().await;
        }
        queue.add(1, 5, 6);
        queue.finished(&1, 6).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert!(queue.lock().is_empty());
    }
}
