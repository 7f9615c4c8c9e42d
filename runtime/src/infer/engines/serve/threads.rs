//! The threads of an engine that run graphs, and how they wait for messages.
//!
//! The node wakes one thread if none is awake, which wakes another if there are more messages. While messages are frequent, one thread
//! polls for the next one instead of sleeping.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Engine, RtenPools, cores, lock};

/// Most threads that run graphs, per core.
const MAX_THREADS_PER_CORE: usize = 4;
/// How long runs wait for a thread before one is added.
const ADD_DELAY: Duration = Duration::from_millis(20);
/// How long a thread polls for the next message: as long as a single client takes to send it.
const POLL_TIME: Duration = Duration::from_micros(100);
/// Messages at longer intervals can afford a wake, and polling for them would rarely succeed.
const MAX_POLLED_INTERVAL: Duration = Duration::from_millis(1);

/// The threads that run graphs.
#[derive(Default)]
pub(super) struct RunThreads {
    threads: AtomicUsize,
    idle: AtomicUsize,
    /// Idle threads that sleep or are about to.
    asleep: AtomicUsize,
    /// Whether a thread polls for messages.
    polls: AtomicBool,
    /// Moving average of the waits for messages.
    typical_wait_ns: AtomicU64,
    next_number: AtomicU64,
    /// Whether the watchdog sleeps.
    watchdog_sleeps: AtomicBool,
    watch: Mutex<()>,
    watchdog_wake: Condvar,
}

impl RunThreads {
    fn should_poll(&self) -> bool {
        let typical = self.typical_wait_ns.load(Ordering::Relaxed);
        u128::from(typical) < MAX_POLLED_INTERVAL.as_nanos()
    }

    fn record_wait(&self, waited: Duration) {
        // Limits the weight of a long pause.
        let waited = waited.min(MAX_POLLED_INTERVAL * 4);
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        let before = self.typical_wait_ns.load(Ordering::Relaxed);
        // Concurrent updates may lose one, which does not matter.
        let typical = before - before / 8 + waited / 8;
        self.typical_wait_ns.store(typical, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts another thread that runs graphs.
    pub(super) fn add_thread(self: &Arc<Self>) -> io::Result<()> {
        self.threads.threads.fetch_add(1, Ordering::Relaxed);
        self.threads.idle.fetch_add(1, Ordering::Relaxed);
        let number = self.threads.next_number.fetch_add(1, Ordering::Relaxed);
        let engine = self.clone();
        let started = std::thread::Builder::new()
            .name(format!("run-{number}"))
            .spawn(move || {
                let pool = Arc::new(rten::ThreadPool::with_num_threads(1));
                let mut pools = RtenPools(vec![(1, pool.clone())]);
                pool.run(|| engine.work(&mut pools));
                engine.threads.threads.fetch_sub(1, Ordering::Relaxed);
            });
        if started.is_err() {
            self.threads.threads.fetch_sub(1, Ordering::Relaxed);
            self.threads.idle.fetch_sub(1, Ordering::Relaxed);
        }
        started.map(drop)
    }

    /// Handles messages until the node closes the stream, or more threads are idle than there are cores.
    fn work(&self, pools: &mut RtenPools) {
        let mut message = Vec::new();
        while self.next(&mut message) {
            if self.threads.idle.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.wake_watchdog();
            }
            self.handle_message(&message, pools);
            let idle = self.threads.idle.fetch_add(1, Ordering::Relaxed);
            if idle >= cores() && self.threads.threads.load(Ordering::Relaxed) > cores() {
                self.threads.idle.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits for the next message of the node. Returns `false` if the node has closed the stream.
    fn next(&self, message: &mut Vec<u8>) -> bool {
        let mut idle_since: Option<Instant> = None;
        while !self.is_closed.load(Ordering::SeqCst) {
            match self.requests.lock().next(message) {
                Ok(true) => {
                    if self.requests.must_wake_sender() {
                        self.wake_node();
                    }
                    if let Some(begun) = idle_since {
                        self.threads.record_wait(begun.elapsed());
                    }
                    return true;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "messages of the node are invalid");
                    return false;
                }
            }
            let begun = *idle_since.get_or_insert_with(Instant::now);
            if self.poll_for_message(begun) {
                continue;
            }
            self.threads.asleep.fetch_add(1, Ordering::SeqCst);
            let sleep = self.requests.next_sleep();
            // A thread that polls wakes this one, or makes the node do so, before it does anything else: it checks for sleepers after it
            // has stopped polling, and this one checks for a polling thread after it has counted itself as a sleeper.
            let sleep = match self.threads.polls.load(Ordering::SeqCst) {
                true => Some(sleep),
                false => self.requests.about_to_sleep(),
            };
            if let Some(sleep) = sleep
                && !self.is_closed.load(Ordering::SeqCst)
            {
                self.requests.sleep(sleep);
            }
            self.threads.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        false
    }

    /// Polls for the next message if no other thread does and messages are frequent, because sleeping and being woken takes longer than
    /// many runs. Returns whether there is a message.
    fn poll_for_message(&self, begun: Instant) -> bool {
        if !self.threads.should_poll() || self.threads.polls.swap(true, Ordering::SeqCst) {
            return false;
        }
        while self.requests.is_empty()
            && begun.elapsed() < POLL_TIME
            && !self.is_closed.load(Ordering::Relaxed)
        {
            // Leaves the core to threads with work.
            std::thread::yield_now();
        }
        self.threads.polls.store(false, Ordering::SeqCst);
        !self.requests.is_empty()
    }

    /// Wakes another thread if there are more messages, before a run starts. The node wakes only one thread for several messages.
    pub(super) fn wake_another(&self) {
        if self.threads.asleep.load(Ordering::SeqCst) > 0
            && self.requests.about_to_sleep().is_none()
        {
            self.requests.wake(1);
        }
    }

    pub(super) fn wake_node(&self) {
        // Fails only if the counter would overflow.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn wake_watchdog(&self) {
        if self.threads.watchdog_sleeps.swap(false, Ordering::AcqRel) {
            let _awake = lock(&self.threads.watch);
            self.threads.watchdog_wake.notify_one();
        }
    }

    /// Adds threads while runs wait for long ones.
    pub(super) fn watch_threads(self: Arc<Self>) {
        let max_threads = cores() * MAX_THREADS_PER_CORE;
        loop {
            let mut asleep = lock(&self.threads.watch);
            self.threads.watchdog_sleeps.store(true, Ordering::Release);
            while self.threads.watchdog_sleeps.load(Ordering::Acquire)
                && self.threads.idle.load(Ordering::Relaxed) > 0
            {
                asleep = self
                    .threads
                    .watchdog_wake
                    .wait(asleep)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(asleep);
            std::thread::sleep(ADD_DELAY);
            if self.threads.idle.load(Ordering::Relaxed) == 0
                && self.threads.threads.load(Ordering::Relaxed) < max_threads
                && !self.requests.is_empty()
                && let Err(error) = self.add_thread()
            {
                tracing::warn!(%error, "no thread can be started for waiting runs");
            }
        }
    }
}
