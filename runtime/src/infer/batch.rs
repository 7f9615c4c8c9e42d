//! Which calls are joined to one run, and when it begins. Decisions only: the time is told, nothing is run here.
//!
//! A call that comes while runs of its graph go on waits for one of them to end; what waits then goes together. Only
//! when a run could begin at once and others are known to be on their way is there a wait for them, with an end.

mod costs;
pub(crate) mod rows;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use costs::Costs;

/// After so many waits in a row that nobody came in, there are no more for a while: requests may be in guests for long
/// that do not call.
const VAIN_WAITS: u32 = 4;
/// Of so many occasions to wait one is taken again then.
const WAIT_EVERY: u32 = 16;

/// How calls of a graph are joined, as its manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Rows that go together at most.
    pub max_size: usize,
    /// The longest wait for others that are on their way.
    pub max_delay: Duration,
}

/// What a call's inputs must have in common with another's to be joined with it: everything but the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kin(pub Vec<Vec<u32>>);

/// A call as it waits.
#[derive(Debug)]
pub(crate) struct Waiting<C> {
    pub call: C,
    pub kin: Kin,
    pub rows: usize,
    pub arrived: Instant,
}

/// What the caller of a decision does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Begins a run, which then takes what it finds. One lane is busy from now on.
    Begin,
    /// Asks again at this time, if the call still waits.
    Ask(Instant),
    /// Nothing: a run that goes on will look for more when it ends.
    Leave,
}

/// The calls of a graph that wait, and how many runs go on.
#[derive(Debug)]
pub(crate) struct Queue<C> {
    rules: Batching,
    waiting: VecDeque<Waiting<C>>,
    /// Runs that have begun or were told to.
    busy: usize,
    /// Calls that are in those runs.
    running: usize,
    costs: Costs,
    hope: Hope,
}

/// Whether waits for others were worth it lately.
#[derive(Debug, Default)]
struct Hope {
    /// Whether calls wait for others now.
    waits: bool,
    vain: u32,
    occasions: u32,
}

impl Hope {
    /// Whether to wait, or to go on waiting.
    fn is_there(&mut self) -> bool {
        if !self.waits {
            self.occasions = self.occasions.wrapping_add(1);
            self.waits = self.vain < VAIN_WAITS || self.occasions.is_multiple_of(WAIT_EVERY);
        }
        self.waits
    }

    /// A run begins, of so many calls at most.
    fn begins(&mut self, calls: usize) {
        if std::mem::take(&mut self.waits) {
            self.vain = if calls > 1 { 0 } else { self.vain + 1 };
        }
    }
}

impl<C> Queue<C> {
    pub fn new(rules: Batching) -> Self {
        Self {
            rules,
            waiting: VecDeque::new(),
            busy: 0,
            running: 0,
            costs: Costs::new(rules.max_size),
            hope: Hope::default(),
        }
    }

    /// Calls that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a call. `lanes` runs may go on at once; `active` requests are in guests that may call.
    pub fn push(&mut self, waiting: Waiting<C>, lanes: usize, active: usize, now: Instant) -> Act {
        self.waiting.push_back(waiting);
        self.decide(lanes, active, now)
    }

    /// What to do now that time has passed or a run has ended.
    pub fn decide(&mut self, lanes: usize, active: usize, now: Instant) -> Act {
        let Some(oldest) = self.waiting.front() else {
            return Act::Leave;
        };
        if self.busy >= lanes {
            return Act::Leave;
        }
        let until = oldest.arrived + self.rules.max_delay;
        let coming = active > self.waiting.len() + self.running;
        let limit = self.costs.limit();
        let full = limit == 1 || self.joinable(limit).1 >= limit;
        if coming && !full && now < until && self.hope.is_there() {
            return Act::Ask(until);
        }
        self.hope.begins(self.waiting.len());
        self.busy += 1;
        Act::Begin
    }

    /// What a run that begins takes: the oldest call and those of its kin that came after it, as far as they fit.
    /// Runs that go on at once share what waits evenly.
    pub fn take(&mut self, gone: impl Fn(&C) -> bool) -> Vec<Waiting<C>> {
        self.forget(gone);
        let all: usize = self.waiting.iter().map(|waiting| waiting.rows).sum();
        let limit = self.costs.limit().min(all.div_ceil(self.busy.max(1)));
        let (calls, _) = self.joinable(limit);
        let taken: Vec<Waiting<C>> = calls
            .into_iter()
            .rev()
            .filter_map(|at| self.waiting.remove(at))
            .collect();
        self.running += taken.len();
        taken.into_iter().rev().collect()
    }

    /// A run of `calls` calls has ended, or was found to be needless.
    pub fn ended(&mut self, calls: usize) {
        self.busy = self.busy.saturating_sub(1);
        self.running = self.running.saturating_sub(calls);
    }

    /// Takes out calls that nobody waits for any more.
    pub fn forget(&mut self, gone: impl Fn(&C) -> bool) {
        self.waiting.retain(|waiting| !gone(&waiting.call));
    }

    /// Drops all that wait.
    pub fn give_up(&mut self) {
        self.waiting.clear();
    }

    /// What a run of so many rows, with so many bytes of inputs, took.
    pub fn learn(&mut self, rows: usize, bytes: usize, took: Duration) {
        self.costs.learn(rows, bytes, took);
    }

    /// Places of the calls that would go together, and their rows.
    fn joinable(&self, limit: usize) -> (Vec<usize>, usize) {
        let Some(first) = self.waiting.front() else {
            return (Vec::new(), 0);
        };
        let (mut calls, mut rows) = (vec![0], first.rows);
        for (at, other) in self.waiting.iter().enumerate().skip(1) {
            if rows + other.rows <= limit && other.kin == first.kin {
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
    ) -> Waiting<&'static str> {
        Waiting {
            call: name,
            kin: Kin(vec![vec![width]]),
            rows,
            arrived,
        }
    }

    fn names(taken: &[Waiting<&'static str>]) -> Vec<&'static str> {
        taken.iter().map(|waiting| waiting.call).collect()
    }

    #[test]
    fn a_lone_call_begins_at_once() {
        let (mut queue, clock) = (Queue::new(RULES), clock());
        let act = queue.push(call("a", 4, 1, clock.at(0)), 1, 1, clock.at(0));
        assert_eq!(act, Act::Begin);
        assert_eq!(names(&queue.take(|_| false)), ["a"]);
    }

    #[test]
    fn what_comes_during_a_run_goes_together_after_it() {
        let (mut queue, clock) = (Queue::new(RULES), clock());
        queue.push(call("a", 4, 1, clock.at(0)), 1, 1, clock.at(0));
        assert_eq!(queue.take(|_| false).len(), 1);
        for (name, width) in [("b", 4), ("c", 5), ("d", 4), ("gone", 4), ("e", 4)] {
            let act = queue.push(call(name, width, 1, clock.at(10)), 1, 9, clock.at(10));
            assert_eq!(act, Act::Leave);
        }
        queue.ended(1);
        assert_eq!(queue.decide(1, 5, clock.at(50)), Act::Begin);
        assert_eq!(names(&queue.take(|name| *name == "gone")), ["b", "d", "e"]);
        queue.ended(3);
        assert_eq!(queue.decide(1, 1, clock.at(60)), Act::Begin);
        assert_eq!(names(&queue.take(|_| false)), ["c"]);
        queue.ended(1);
        assert_eq!(queue.decide(1, 9, clock.at(70)), Act::Leave);
    }

    #[test]
    fn the_wait_for_others_ends_when_they_are_here_or_it_has_been_long_enough() {
        let (mut queue, clock) = (Queue::new(RULES), clock());
        let act = queue.push(call("a", 4, 1, clock.at(0)), 1, 2, clock.at(0));
        assert_eq!(act, Act::Ask(clock.at(2000)));
        assert_eq!(queue.decide(1, 2, clock.at(1999)), Act::Ask(clock.at(2000)));
        let act = queue.push(call("b", 4, 1, clock.at(1999)), 1, 2, clock.at(1999));
        assert_eq!(act, Act::Begin);
        assert_eq!(names(&queue.take(|_| false)), ["a", "b"]);
        queue.ended(2);
        queue.push(call("c", 4, 1, clock.at(5000)), 1, 2, clock.at(5000));
        assert_eq!(queue.decide(1, 2, clock.at(7000)), Act::Begin);
    }

    #[test]
    fn waits_in_vain_become_rare() {
        let (mut queue, clock) = (Queue::new(RULES), clock());
        let mut waits = 0;
        for n in 0..100 {
            let now = clock.at(n * 10_000);
            if queue.push(call("a", 4, 1, now), 1, 2, now) != Act::Begin {
                waits += 1;
                assert_eq!(queue.decide(1, 2, now + RULES.max_delay), Act::Begin);
            }
            assert_eq!(queue.take(|_| false).len(), 1);
            queue.ended(1);
        }
        assert_eq!(waits, 4 + 96 / 16);
        // Somebody comes in the next wait that is tried, and so there is one again each time.
        let now = clock.at(2_000_000);
        while queue.push(call("a", 4, 1, now), 1, 2, now) == Act::Begin {
            assert_eq!(queue.take(|_| false).len(), 1);
            queue.ended(1);
        }
        let act = queue.push(call("b", 4, 1, now), 1, 2, now);
        assert_eq!(act, Act::Begin);
        assert_eq!(names(&queue.take(|_| false)), ["a", "b"]);
        queue.ended(2);
        let act = queue.push(call("c", 4, 1, now), 1, 2, now);
        assert_eq!(act, Act::Ask(now + RULES.max_delay));
    }

    #[test]
    fn a_full_batch_waits_for_nobody() {
        let (mut queue, clock) = (Queue::new(RULES), clock());
        let act = queue.push(call("a", 4, 5, clock.at(0)), 1, 3, clock.at(0));
        assert_eq!(act, Act::Ask(clock.at(2000)));
        let act = queue.push(call("b", 4, 3, clock.at(1)), 1, 3, clock.at(1));
        assert_eq!(act, Act::Begin);
        assert_eq!(names(&queue.take(|_| false)), ["a", "b"]);
        queue.ended(2);
        let act = queue.push(call("large", 4, 9, clock.at(2)), 1, 3, clock.at(2));
        assert_eq!(act, Act::Begin);
        assert_eq!(names(&queue.take(|_| false)), ["large"]);
    }

    #[test]
    fn lanes_share_what_waits() {
        let (mut queue, clock) = (Queue::new(RULES), clock());
        for n in 0..6 {
            let act = queue.push(call("x", 4, 1, clock.at(n)), 2, 0, clock.at(n));
            assert_eq!(act == Act::Begin, n < 2);
        }
        assert_eq!(queue.take(|_| false).len(), 3);
        assert_eq!(queue.take(|_| false).len(), 2);
        queue.ended(3);
        assert_eq!(queue.decide(2, 0, clock.at(9)), Act::Begin);
        assert_eq!(queue.take(|_| false).len(), 1);
    }

    #[test]
    fn a_graph_that_gains_nothing_runs_each_call_alone() {
        let (mut queue, clock) = (Queue::new(RULES), clock());
        queue.learn(1, 10, Duration::from_millis(1));
        queue.learn(4, 40, Duration::from_millis(5));
        let act = queue.push(call("a", 4, 1, clock.at(0)), 1, 3, clock.at(0));
        assert_eq!(act, Act::Begin, "nobody is waited for");
        queue.push(call("b", 4, 1, clock.at(0)), 1, 3, clock.at(0));
        assert_eq!(names(&queue.take(|_| false)), ["a"]);
    }
}
