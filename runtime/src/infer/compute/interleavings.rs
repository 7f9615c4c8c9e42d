//! Runs that are submitted, wait for permits, panic, lose their callers and end at the same time, in thousands of interleavings.
//!
//! Runs the code of `dispatcher.rs` on shuttle's primitives, with threads that have no pool of rten: a lost run or permit leaves the
//! test waiting, which shuttle reports as a deadlock.

use std::cell::Cell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::{ComputeError, guarded};
use crate::permits::Owner;
use dispatcher::Dispatcher;

mod sync {
    pub use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};

    /// A task instead of a thread: compute threads never end, and shuttle does not wait for the end of tasks.
    pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        if name != "compute-monitor" && !super::may_start() {
            return Err(std::io::Error::other("no more threads"));
        }
        drop(shuttle::future::spawn(async move { body() }));
        Ok(())
    }
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same code, on shuttle's primitives, of which the tests need a part"
)]
#[path = "dispatcher.rs"]
mod dispatcher;

use Fate::{Ends, GivesUp, LeavesAtOnce, Panics};

/// Compute threads that start before the machine has no more. Shuttle runs all threads of a test on one.
const UNLIMITED: usize = usize::MAX;
thread_local!(static THREADS_LEFT: Cell<usize> = const { Cell::new(UNLIMITED) });

fn may_start() -> bool {
    let left = THREADS_LEFT.get();
    THREADS_LEFT.set(left.saturating_sub(1));
    left > 0
}

/// A thread without a pool.
struct Worker;

impl Worker {
    fn run(_threads: usize, work: impl FnOnce(&Self) + Send) {
        work(&Self);
    }
}

/// What happens to a run.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Ends,
    Panics,
    /// Its caller goes after it has waited for a while.
    GivesUp,
    /// Its caller goes before it has waited at all.
    LeavesAtOnce,
}

/// A run: its deployment, its threads, and its fate.
type Run = (usize, usize, Fate);

/// A node with what its runs count.
struct Node {
    dispatcher: Arc<Dispatcher>,
    cores: usize,
    busy: AtomicUsize,
    begun: AtomicUsize,
    claimed: AtomicUsize,
    unclaimed: AtomicUsize,
    failed: AtomicUsize,
}

impl Node {
    fn new(cores: usize, threads: usize) -> Arc<Self> {
        THREADS_LEFT.set(threads);
        Arc::new(Self {
            dispatcher: Dispatcher::new(cores),
            cores,
            busy: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            claimed: AtomicUsize::new(0),
            unclaimed: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
        })
    }

    fn run(self: &Arc<Self>, (owner, threads, fate): Run) {
        let (node, told) = (self.clone(), self.clone());
        let job = move |_: &Worker| {
            node.begun.fetch_add(1, Ordering::SeqCst);
            let busy = node.busy.fetch_add(threads, Ordering::SeqCst) + threads;
            assert!(busy <= node.cores, "{busy} threads on {} cores", node.cores);
            thread::yield_now();
            node.busy.fetch_sub(threads, Ordering::SeqCst);
            if fate == Panics {
                // Without the noise of the panic hook.
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        };
        let unclaimed = move |()| {
            told.unclaimed.fetch_add(1, Ordering::SeqCst);
        };
        let owner = Owner::numbered(owner);
        let submitted = self.dispatcher.submit(owner, threads, job, unclaimed);
        let (mut pending, mut result) = match submitted {
            Ok(submitted) => submitted,
            Err(_) => return self.note(Err(())),
        };
        let result = match fate {
            LeavesAtOnce => return,
            GivesUp => {
                let looked = (0..3).find_map(|_| {
                    thread::yield_now();
                    let mut cx = Context::from_waker(Waker::noop());
                    match std::pin::Pin::new(&mut result).poll(&mut cx) {
                        Poll::Ready(result) => Some(result),
                        Poll::Pending => None,
                    }
                });
                let Some(result) = looked else { return };
                result
            }
            Ends | Panics => block_on(result),
        };
        pending.mark_ended();
        // Either its thread could not be started, which drops the sender, or it panicked.
        self.note(result.map_err(|_| ()).and_then(|ran| ran.map_err(|_| ())));
    }

    fn note(&self, result: Result<(), ()>) {
        let counter = match result {
            Ok(()) => &self.claimed,
            Err(()) => &self.failed,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    /// Needs all permits, so it begins when the others have ended.
    fn settle(self: &Arc<Self>) {
        THREADS_LEFT.set(UNLIMITED);
        self.run((99, self.cores, Ends));
    }
}

/// Runs side by side on a node on which so many compute threads can be started.
fn together(cores: usize, threads: usize, runs: &'static [Run]) -> Arc<Node> {
    let node = Node::new(cores, threads);
    let callers: Vec<_> = runs
        .iter()
        .map(|run| {
            let node = node.clone();
            thread::spawn(move || node.run(*run))
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    node.settle();
    node
}

/// Runs a round under a random scheduler, and under one that finds rare orders of few events.
fn check(round: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(round.clone(), 2_000);
    shuttle::check_pct(round, 2_000, 3);
}

#[test]
fn no_run_is_forgotten_and_no_permit_lost() {
    const NARROW: &[Run] = &[
        (1, 1, Ends),
        (1, 1, GivesUp),
        (2, 1, Panics),
        (2, 1, LeavesAtOnce),
        (1, 1, Ends),
    ];
    const MIXED: &[Run] = &[
        (1, 2, Ends),
        (1, 1, Ends),
        (2, 2, GivesUp),
        (2, 1, LeavesAtOnce),
        (3, 1, Panics),
    ];
    for (cores, runs) in [(1, NARROW), (2, MIXED)] {
        check(move || {
            let node = together(cores, UNLIMITED, runs);
            let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
            assert_eq!(count(&node.failed), 1, "the one that panics");
            let ended = count(&node.claimed) + count(&node.unclaimed) + count(&node.failed);
            assert_eq!(count(&node.begun), ended);
            assert_eq!(count(&node.busy), 0);
        });
    }
}

#[test]
fn a_thread_that_does_not_start_costs_its_run_and_no_permit() {
    const RUNS: &[Run] = &[(1, 1, Ends), (2, 2, Ends), (3, 1, GivesUp), (1, 2, Ends)];
    for threads in 0..3 {
        check(move || {
            let node = together(2, threads, RUNS);
            let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
            // All runs that began have ended; none that was reported as failed has run.
            assert_eq!(
                count(&node.begun),
                count(&node.claimed) + count(&node.unclaimed)
            );
        });
    }
}

#[test]
fn a_run_that_was_asked_for_later_does_not_overtake() {
    check(|| {
        let dispatcher = {
            THREADS_LEFT.set(UNLIMITED);
            Dispatcher::new(1)
        };
        let begun = Arc::new(Mutex::new(Vec::new()));
        let job = |name: &'static str| {
            let begun = begun.clone();
            move |_: &Worker| begun.lock().unwrap().push(name)
        };
        let owner = Owner::numbered(1);
        // It ends at any time, while the others come.
        let (mut first, first_ended) = dispatcher.submit(owner, 1, job("first"), drop).unwrap();
        let (mut second, second_ended) = dispatcher.submit(owner, 1, job("second"), drop).unwrap();
        let third = {
            let (dispatcher, job) = (dispatcher.clone(), job("third"));
            thread::spawn(move || {
                let asked = dispatcher.submit(owner, 1, job, drop);
                let (mut third, ended) = asked.unwrap();
                block_on(ended).unwrap().unwrap();
                third.mark_ended();
            })
        };
        block_on(second_ended).unwrap().unwrap();
        block_on(first_ended).unwrap().unwrap();
        first.mark_ended();
        second.mark_ended();
        third.join().unwrap();
        assert_eq!(*begun.lock().unwrap(), ["first", "second", "third"]);
    });
}

#[test]
fn a_caller_that_goes_holds_up_no_run_behind_its_own() {
    check(|| {
        THREADS_LEFT.set(UNLIMITED);
        let dispatcher = Dispatcher::new(2);
        let (open, gate) = shuttle::sync::mpsc::channel();
        let endless = move |_: &Worker| gate.recv().unwrap();
        let ask = dispatcher.submit(Owner::numbered(1), 1, endless, drop);
        let (mut first, first_ended) = ask.unwrap();
        // Wants both cores, so nothing passes it.
        let wide = dispatcher.submit(Owner::numbered(2), 2, |_: &Worker| (), drop);
        let narrow = {
            let dispatcher = dispatcher.clone();
            thread::spawn(move || {
                let ask = dispatcher.submit(Owner::numbered(3), 1, |_: &Worker| (), drop);
                let (mut pending, ended) = ask.unwrap();
                block_on(ended).unwrap().unwrap();
                pending.mark_ended();
            })
        };
        drop(wide);
        // The first runs on all the while.
        narrow.join().unwrap();
        open.send(()).unwrap();
        block_on(first_ended).unwrap().unwrap();
        first.mark_ended();
    });
}
