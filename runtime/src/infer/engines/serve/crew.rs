//! The threads of an engine that run graphs, and how they wait for the next message.
//!
//! The node wakes one thread when none is awake, and that one wakes another when there is more. While messages come often, one
//! thread looks out for the next instead of sleeping.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Engine, Pools, cores, lock};

/// Threads that run graphs, for each core, at most.
const MAX_THREADS_PER_CORE: usize = 4;
/// How long runs wait for a thread before there is one more.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long a thread looks out for the next message: as long as a single client takes to send it.
const LOOKOUT: Duration = Duration::from_micros(100);
/// Messages that come less often than this can bear a wake, and looking out for them would be in vain.
const WORTH_LOOKING: Duration = Duration::from_millis(1);

/// The threads that run graphs.
#[derive(Default)]
pub(super) struct Crew {
    threads: AtomicUsize,
    idle: AtomicUsize,
    /// Those of the idle ones that sleep, or are about to.
    asleep: AtomicUsize,
    /// Whether one of them is awake and looks for messages.
    looks_out: AtomicBool,
    /// How long messages were waited for, of late.
    typical_wait_ns: AtomicU64,
    number: AtomicU64,
    /// Whether the watchman sleeps.
    unwatched: AtomicBool,
    watch: Mutex<()>,
    called: Condvar,
}

impl Crew {
    fn is_worth_looking(&self) -> bool {
        let typical = self.typical_wait_ns.load(Ordering::Relaxed);
        u128::from(typical) < WORTH_LOOKING.as_nanos()
    }

    fn note_wait(&self, waited: Duration) {
        // A long pause tells no more than one that is too long to look out for.
        let waited = waited.min(WORTH_LOOKING * 4);
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        let before = self.typical_wait_ns.load(Ordering::Relaxed);
        // Of threads that note theirs at once one is lost, which does not matter.
        let typical = before - before / 8 + waited / 8;
        self.typical_wait_ns.store(typical, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts one more thread that runs graphs.
    pub(super) fn hire(self: &Arc<Self>) -> io::Result<()> {
        self.crew.threads.fetch_add(1, Ordering::Relaxed);
        self.crew.idle.fetch_add(1, Ordering::Relaxed);
        let number = self.crew.number.fetch_add(1, Ordering::Relaxed);
        let engine = self.clone();
        let started = std::thread::Builder::new()
            .name(format!("run-{number}"))
            .spawn(move || {
                let pool = Arc::new(rten::ThreadPool::with_num_threads(1));
                let mut pools = Pools(vec![(1, pool.clone())]);
                pool.run(|| engine.work(&mut pools));
                engine.crew.threads.fetch_sub(1, Ordering::Relaxed);
            });
        if started.is_err() {
            self.crew.threads.fetch_sub(1, Ordering::Relaxed);
            self.crew.idle.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    /// Takes runs until the node is gone, or there are more threads that wait than cores.
    fn work(&self, pools: &mut Pools) {
        let mut message = Vec::new();
        while self.next(&mut message) {
            if self.crew.idle.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.call_watchman();
            }
            self.take(&message, pools);
            let idle = self.crew.idle.fetch_add(1, Ordering::Relaxed);
            if idle >= cores() && self.crew.threads.load(Ordering::Relaxed) > cores() {
                self.crew.idle.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits for the next message of the node; false when the node is gone.
    fn next(&self, message: &mut Vec<u8>) -> bool {
        let mut waits_since: Option<Instant> = None;
        while !self.is_over.load(Ordering::SeqCst) {
            match self.requests.take().next(message) {
                Ok(true) => {
                    if self.requests.made_room() {
                        self.ring();
                    }
                    if let Some(begun) = waits_since {
                        self.crew.note_wait(begun.elapsed());
                    }
                    return true;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the node's messages are wrong");
                    return false;
                }
            }
            let begun = *waits_since.get_or_insert_with(Instant::now);
            if self.looked_out(begun) {
                continue;
            }
            self.crew.asleep.fetch_add(1, Ordering::SeqCst);
            let sleep = self.requests.next_sleep();
            // A lookout wakes this one, or has the node do so, before it does anything else: it looks for sleepers after it has
            // ceased to look out, and this one looks for a lookout after it has counted itself among the sleepers.
            let sleep = match self.crew.looks_out.load(Ordering::SeqCst) {
                true => Some(sleep),
                false => self.requests.about_to_sleep(),
            };
            if let Some(sleep) = sleep
                && !self.is_over.load(Ordering::SeqCst)
            {
                self.requests.sleep(sleep);
            }
            self.crew.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        false
    }

    /// Looks out for the next message for a while, if no other thread does and messages come so often that this is worth it: to
    /// sleep and be woken takes longer than many a run. True when there is one.
    fn looked_out(&self, begun: Instant) -> bool {
        if !self.crew.is_worth_looking() || self.crew.looks_out.swap(true, Ordering::SeqCst) {
            return false;
        }
        while self.requests.is_empty()
            && begun.elapsed() < LOOKOUT
            && !self.is_over.load(Ordering::Relaxed)
        {
            // The core is for those who have something to do.
            std::thread::yield_now();
        }
        self.crew.looks_out.store(false, Ordering::SeqCst);
        !self.requests.is_empty()
    }

    /// Before a run begins: the node wakes one thread for as many messages as come at once, and that one wakes another.
    pub(super) fn call_others(&self) {
        if self.crew.asleep.load(Ordering::SeqCst) > 0 && self.requests.about_to_sleep().is_none() {
            self.requests.wake(1);
        }
    }

    pub(super) fn ring(&self) {
        // It fails only when the node has not listened for longer than there are numbers.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn call_watchman(&self) {
        if self.crew.unwatched.swap(false, Ordering::AcqRel) {
            let _awake = lock(&self.crew.watch);
            self.crew.called.notify_one();
        }
    }

    /// Adds threads where runs wait for those that take long.
    pub(super) fn watch(self: Arc<Self>) {
        let most = cores() * MAX_THREADS_PER_CORE;
        loop {
            let mut asleep = lock(&self.crew.watch);
            self.crew.unwatched.store(true, Ordering::Release);
            while self.crew.unwatched.load(Ordering::Acquire)
                && self.crew.idle.load(Ordering::Relaxed) > 0
            {
                asleep = self
                    .crew
                    .called
                    .wait(asleep)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(asleep);
            std::thread::sleep(PATIENCE);
            if self.crew.idle.load(Ordering::Relaxed) == 0
                && self.crew.threads.load(Ordering::Relaxed) < most
                && !self.requests.is_empty()
                && let Err(error) = self.hire()
            {
                tracing::warn!(%error, "no thread can be started for runs that wait");
            }
        }
    }
}
