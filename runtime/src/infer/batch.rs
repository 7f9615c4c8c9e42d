//! Decides which calls are joined into one run, and when it begins. Decisions only; the time is an argument.
//!
//! A call that arrives while runs of its graph are under way waits for one of them to end; all that wait then are joined. Only if
//! a run could begin at once, and other requests may still call, does a call wait for others, for a limited time.

mod costs;
pub(crate) mod rows;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use costs::BatchCost;

/// Waits in a row without another call after which waiting becomes rare: requests may be in guests for long without calling.
const MAX_FRUITLESS_WAITS: u32 = 4;
/// When waiting is rare, one of this many opportunities is taken.
const WAIT_EVERY: u32 = 16;

/// How calls of a graph are joined, from its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Most rows of a joined run.
    pub max_size: usize,
    /// Longest time that a call waits for others.
    pub max_delay: Duration,
}

/// The dimensions of a call's inputs without the first. Calls with equal keys can be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchKey(pub Vec<Vec<u32>>);

/// A call in the queue.
#[derive(Debug)]
pub(crate) struct QueuedCall<C> {
    pub call: C,
    pub key: BatchKey,
    pub rows: usize,
    pub arrived: Instant,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start a run, which then takes the calls that wait. It counts from now on.
    Start,
    /// Decide again at this time, if the call still waits.
    Recheck(Instant),
    /// Nothing: a run under way decides again when it ends.
    Wait,
}

/// The waiting calls of a graph, and its joined runs.
#[derive(Debug)]
pub(crate) struct BatchQueue<C> {
    rules: Batching,
    waiting: VecDeque<QueuedCall<C>>,
    /// Runs that were started.
    busy: usize,
    /// Calls in those runs.
    running: usize,
    costs: BatchCost,
    wait_policy: WaitPolicy,
}

/// Whether to wait for other calls, by whether recent waits found any.
#[derive(Debug, Default)]
struct WaitPolicy {
    /// Calls wait for others now.
    is_waiting: bool,
    /// Waits in a row without another call.
    fruitless: u32,
    opportunities: u32,
}

impl WaitPolicy {
    /// Whether to wait, or to continue waiting.
    fn should_wait(&mut self) -> bool {
        if !self.is_waiting {
            self.opportunities = self.opportunities.wrapping_add(1);
            self.is_waiting = self.fruitless < MAX_FRUITLESS_WAITS
                || self.opportunities.is_multiple_of(WAIT_EVERY);
        }
        self.is_waiting
    }

    /// Records that a run begins, which at most `calls` calls wait for.
    fn record_start(&mut self, calls: usize) {
        if std::mem::take(&mut self.is_waiting) {
            self.fruitless = if calls > 1 { 0 } else { self.fruitless + 1 };
        }
    }
}

impl<C> BatchQueue<C> {
    pub fn new(rules: Batching) -> Self {
        Self {
            rules,
            waiting: VecDeque::new(),
            busy: 0,
            running: 0,
            costs: BatchCost::new(rules.max_size),
            wait_policy: WaitPolicy::default(),
        }
    }

    /// The number of waiting calls.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a call. `max_parallel` runs may be under way at once; `active` requests are in guests, and may call.
    pub fn push(
        &mut self,
        call: QueuedCall<C>,
        max_parallel: usize,
        active: usize,
        now: Instant,
    ) -> Decision {
        self.waiting.push_back(call);
        self.decide(max_parallel, active, now)
    }

    /// Decides what to do after time has passed or a run has ended.
    pub fn decide(&mut self, max_parallel: usize, active: usize, now: Instant) -> Decision {
        let Some(oldest) = self.waiting.front() else {
            return Decision::Wait;
        };
        if self.busy >= max_parallel {
            return Decision::Wait;
        }
        let until = oldest.arrived + self.rules.max_delay;
        let may_come = active > self.waiting.len() + self.running;
        let limit = self.costs.limit();
        let is_full = limit == 1 || self.joinable(limit).1 >= limit;
        if may_come && !is_full && now < until && self.wait_policy.should_wait() {
            return Decision::Recheck(until);
        }
        self.wait_policy.record_start(self.waiting.len());
        self.busy += 1;
        Decision::Start
    }

    /// Takes the calls of a run that begins: the oldest one, and later ones with the same key up to the limit. Runs that are under way
    /// at once share the waiting calls evenly.
    pub fn take(&mut self, is_cancelled: impl Fn(&C) -> bool) -> Vec<QueuedCall<C>> {
        self.remove_cancelled(is_cancelled);
        let all: usize = self.waiting.iter().map(|waiting| waiting.rows).sum();
        let limit = self.costs.limit().min(all.div_ceil(self.busy.max(1)));
        let (calls, _) = self.joinable(limit);
        let taken: Vec<QueuedCall<C>> = calls
            .into_iter()
            .rev()
            .filter_map(|at| self.waiting.remove(at))
            .collect();
        self.running += taken.len();
        taken.into_iter().rev().collect()
    }

    /// Ends a run of `calls` calls.
    pub fn end_run(&mut self, calls: usize) {
        self.busy = self.busy.saturating_sub(1);
        self.running = self.running.saturating_sub(calls);
    }

    /// Removes calls whose callers have gone.
    pub fn remove_cancelled(&mut self, is_cancelled: impl Fn(&C) -> bool) {
        self.waiting.retain(|waiting| !is_cancelled(&waiting.call));
    }

    /// Drops all waiting calls.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Records how long a run with this many rows and bytes of inputs took.
    pub fn record(&mut self, rows: usize, bytes: usize, took: Duration) {
        self.costs.record(rows, bytes, took);
    }

    /// The indices of the calls that would be joined, and their rows.
    fn joinable(&self, limit: usize) -> (Vec<usize>, usize) {
        let Some(first) = self.waiting.front() else {
            return (Vec::new(), 0);
        };
        let (mut calls, mut rows) = (vec![0], first.rows);
        for (at, other) in self.waiting.iter().enumerate().skip(1) {
            if rows + other.rows <= limit && other.key == first.key {
                calls.push(at);
                rows += other.rows;
            }
        }
        (calls, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Batching = Batching {
        max_size: 8,
        max_delay: Duration::from_millis(2),
    };

    struct Clock(Instant);

    impl Clock {
        fn at(&self, us: u64) -> Instant {
            self.0 + Duration::from_micros(us)
        }
    }

    fn clock() -> Clock {
        Clock(Instant::now())
    }

    fn call(
        name: &'static str,
        width: u32,
        rows: usize,
        arrived: Instant,
    ) -> QueuedCall<&'static str> {
        QueuedCall {
            call: name,
            key: BatchKey(vec![vec![width]]),
            rows,
            arrived,
        }
    }

    fn names(taken: &[QueuedCall<&'static str>]) -> Vec<&'static str> {
        taken.iter().map(|waiting| waiting.call).collect()
    }

    #[test]
    fn a_lone_call_begins_at_once() {
        let (mut queue, clock) = (BatchQueue::new(RULES), clock());
        let decision = queue.push(call("a", 4, 1, clock.at(0)), 1, 1, clock.at(0));
        assert_eq!(decision, Decision::Start);
        assert_eq!(names(&queue.take(|_| false)), ["a"]);
    }

    #[test]
    fn calls_that_arrive_during_a_run_are_joined_after_it() {
        let (mut queue, clock) = (BatchQueue::new(RULES), clock());
        queue.push(call("a", 4, 1, clock.at(0)), 1, 1, clock.at(0));
        assert_eq!(queue.take(|_| false).len(), 1);
        for (name, width) in [("b", 4), ("c", 5), ("d", 4), ("gone", 4), ("e", 4)] {
            let decision = queue.push(call(name, width, 1, clock.at(10)), 1, 9, clock.at(10));
            assert_eq!(decision, Decision::Wait);
        }
        queue.end_run(1);
        assert_eq!(queue.decide(1, 5, clock.at(50)), Decision::Start);
        assert_eq!(names(&queue.take(|name| *name == "gone")), ["b", "d", "e"]);
        queue.end_run(3);
        assert_eq!(queue.decide(1, 1, clock.at(60)), Decision::Start);
        assert_eq!(names(&queue.take(|_| false)), ["c"]);
        queue.end_run(1);
        assert_eq!(queue.decide(1, 9, clock.at(70)), Decision::Wait);
    }

    #[test]
    fn the_wait_for_others_ends_when_they_have_arrived_or_at_its_limit() {
        let (mut queue, clock) = (BatchQueue::new(RULES), clock());
        let decision = queue.push(call("a", 4, 1, clock.at(0)), 1, 2, clock.at(0));
        assert_eq!(decision, Decision::Recheck(clock.at(2000)));
        assert_eq!(
            queue.decide(1, 2, clock.at(1999)),
            Decision::Recheck(clock.at(2000))
        );
        let decision = queue.push(call("b", 4, 1, clock.at(1999)), 1, 2, clock.at(1999));
        assert_eq!(decision, Decision::Start);
        assert_eq!(names(&queue.take(|_| false)), ["a", "b"]);
        queue.end_run(2);
        queue.push(call("c", 4, 1, clock.at(5000)), 1, 2, clock.at(5000));
        assert_eq!(queue.decide(1, 2, clock.at(7000)), Decision::Start);
    }

    #[test]
    fn fruitless_waits_become_rare() {
        let (mut queue, clock) = (BatchQueue::new(RULES), clock());
        let mut waits = 0;
        for n in 0..100 {
            let now = clock.at(n * 10_000);
            if queue.push(call("a", 4, 1, now), 1, 2, now) != Decision::Start {
                waits += 1;
                assert_eq!(queue.decide(1, 2, now + RULES.max_delay), Decision::Start);
            }
            assert_eq!(queue.take(|_| false).len(), 1);
            queue.end_run(1);
        }
        assert_eq!(waits, 4 + 96 / 16);
        // Another call arrives during the next wait, so waits are frequent again.
        let now = clock.at(2_000_000);
        while queue.push(call("a", 4, 1, now), 1, 2, now) == Decision::Start {
            assert_eq!(queue.take(|_| false).len(), 1);
            queue.end_run(1);
        }
        let decision = queue.push(call("b", 4, 1, now), 1, 2, now);
        assert_eq!(decision, Decision::Start);
        assert_eq!(names(&queue.take(|_| false)), ["a", "b"]);
        queue.end_run(2);
        let decision = queue.push(call("c", 4, 1, now), 1, 2, now);
        assert_eq!(decision, Decision::Recheck(now + RULES.max_delay));
    }

    #[test]
    fn a_full_batch_does_not_wait() {
        let (mut queue, clock) = (BatchQueue::new(RULES), clock());
        let decision = queue.push(call("a", 4, 5, clock.at(0)), 1, 3, clock.at(0));
        assert_eq!(decision, Decision::Recheck(clock.at(2000)));
        let decision = queue.push(call("b", 4, 3, clock.at(1)), 1, 3, clock.at(1));
        assert_eq!(decision, Decision::Start);
        assert_eq!(names(&queue.take(|_| false)), ["a", "b"]);
        queue.end_run(2);
        let decision = queue.push(call("large", 4, 9, clock.at(2)), 1, 3, clock.at(2));
        assert_eq!(decision, Decision::Start);
        assert_eq!(names(&queue.take(|_| false)), ["large"]);
    }

    #[test]
    fn runs_at_once_share_the_waiting_calls() {
        let (mut queue, clock) = (BatchQueue::new(RULES), clock());
        for n in 0..6 {
            let decision = queue.push(call("x", 4, 1, clock.at(n)), 2, 0, clock.at(n));
            assert_eq!(decision == Decision::Start, n < 2);
        }
        assert_eq!(queue.take(|_| false).len(), 3);
        assert_eq!(queue.take(|_| false).len(), 2);
        queue.end_run(3);
        assert_eq!(queue.decide(2, 0, clock.at(9)), Decision::Start);
        assert_eq!(queue.take(|_| false).len(), 1);
    }

    #[test]
    fn a_graph_without_gain_runs_each_call_alone() {
        let (mut queue, clock) = (BatchQueue::new(RULES), clock());
        queue.record(1, 10, Duration::from_millis(1));
        queue.record(4, 40, Duration::from_millis(5));
        let decision = queue.push(call("a", 4, 1, clock.at(0)), 1, 3, clock.at(0));
        assert_eq!(decision, Decision::Start, "it waits for no other");
        queue.push(call("b", 4, 1, clock.at(0)), 1, 3, clock.at(0));
        assert_eq!(names(&queue.take(|_| false)), ["a"]);
    }
}
