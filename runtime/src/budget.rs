//! Fair permits: for runs one per core, for loads and compiles a few. Pure decisions with the time as an argument.
//!
//! Runs of a deployment begin in the order of asking. Of several deployments that wait, the one goes next that holds fewest
//! permits, and of equals the one that was served longest ago. Nobody passes it while it waits for more permits than are
//! free, because narrow runs would keep a wide one waiting forever.
//!
//! A run that takes long cannot lock others out: its permits are lent to deployments that hold none. The cores are
//! oversubscribed then, which the system's scheduler shares out.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run that has gone on for so long lends its permits.
pub(crate) const LONG: Duration = Duration::from_secs(1);
/// Permits that may be lent, per core.
const LENT_PER_CORE: usize = 2;
/// Deployments of which it is remembered when they were served.
const REMEMBERED: usize = 1024;

/// An owner of permits: a deployment or a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(usize);

impl Owner {
    /// Creates an owner that differs from all other living ones.
    pub(crate) fn of<T>(of_deployment: &Arc<T>) -> Self {
        Self(Arc::as_ptr(of_deployment).addr())
    }

    /// The owner with this name. Two names with the same hash share their turns.
    pub fn named(name: &str) -> Self {
        let hashed = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
        // Of the low bits where an address has fewer.
        Self(hashed as usize)
    }

    /// No owner.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(0);

    #[cfg(test)]
    pub(crate) fn numbered(number: usize) -> Self {
        Self(number)
    }
}

/// A run that waits, for [`Budget::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    owner: Owner,
    id: u64,
}

impl Ticket {
    /// Whether it is for the run of this number.
    pub fn is_of(self, run: u64) -> bool {
        self.id == run
    }
}

/// A run that may begin, with its permits.
#[derive(Debug)]
pub(crate) struct Begun<J> {
    /// For [`Budget::give_back`].
    pub run: u64,
    pub permits: usize,
    pub job: J,
}

/// Permits, who holds some, and who waits for some.
pub(crate) struct Budget<J> {
    cores: usize,
    held: usize,
    running: Vec<Running>,
    /// Deployments with runs that wait; none is empty.
    queues: Vec<Queue<J>>,
    /// Empty queues, so that a new one needs no memory.
    spare: Vec<VecDeque<Waiting<J>>>,
    /// When each deployment was served last, by `clock`.
    served: HashMap<Owner, u64>,
    clock: u64,
}

#[derive(Debug)]
struct Running {
    id: u64,
    owner: Owner,
    permits: usize,
    since: Instant,
    long: bool,
}

struct Queue<J> {
    owner: Owner,
    waiting: VecDeque<Waiting<J>>,
}

struct Waiting<J> {
    id: u64,
    permits: usize,
    job: J,
}

impl<J> Budget<J> {
    pub fn new(cores: usize) -> Self {
        Self {
            cores,
            held: 0,
            running: Vec::new(),
            queues: Vec::new(),
            spare: Vec::new(),
            served: HashMap::new(),
            clock: 0,
        }
    }

    /// Puts a run at the end of its deployment's queue. It wants `permits`, at most as many as there are cores.
    pub fn ask(&mut self, owner: Owner, permits: usize, job: J) -> Ticket {
        self.clock += 1;
        let id = self.clock;
        let permits = permits.clamp(1, self.cores.max(1));
        let waiting = Waiting { id, permits, job };
        match self.queues.iter_mut().find(|queue| queue.owner == owner) {
            Some(queue) => queue.waiting.push_back(waiting),
            None => {
                let mut queue = self.spare.pop().unwrap_or_default();
                queue.push_back(waiting);
                self.queues.push(Queue {
                    owner,
                    waiting: queue,
                });
            }
        }
        Ticket { owner, id }
    }

    /// Takes out a run that nobody waits for any more, if it has not begun.
    pub fn forget(&mut self, ticket: Ticket) -> Option<J> {
        let at = self
            .queues
            .iter()
            .position(|queue| queue.owner == ticket.owner)?;
        let waiting = &mut self.queues[at].waiting;
        // They are in the order of their numbers.
        let found = waiting
            .binary_search_by_key(&ticket.id, |waiting| waiting.id)
            .ok()?;
        let gone = waiting.remove(found)?;
        self.tidy(at);
        Some(gone.job)
    }

    /// The run that begins now, with its permits.
    pub fn next(&mut self, now: Instant) -> Option<Begun<J>> {
        let at = self.turn()?;
        let owner = self.queues[at].owner;
        let permits = self.queues[at].waiting.front()?.permits;
        if self.held + permits > self.limit(owner) {
            return None;
        }
        let waiting = self.queues[at].waiting.pop_front()?;
        self.tidy(at);
        self.clock += 1;
        self.held += permits;
        self.remember(owner);
        self.running.push(Running {
            id: waiting.id,
            owner,
            permits,
            since: now,
            long: false,
        });
        Some(Begun {
            run: waiting.id,
            permits,
            job: waiting.job,
        })
    }

    /// Takes the permits of a run back.
    pub fn give_back(&mut self, run: u64) {
        if let Some(at) = self.running.iter().position(|one| one.id == run) {
            self.held -= self.running.swap_remove(at).permits;
        }
    }

    /// Notices which runs have begun to take long. Answers whether any has, so that others may begin.
    pub fn notice_long(&mut self, now: Instant) -> bool {
        let mut noticed = false;
        for run in &mut self.running {
            if !run.long && now.saturating_duration_since(run.since) >= LONG {
                run.long = true;
                noticed = true;
            }
        }
        noticed
    }

    /// Whether a run waits for permits.
    pub fn is_waited_for(&self) -> bool {
        !self.queues.is_empty()
    }

    /// The queue whose turn it is.
    fn turn(&self) -> Option<usize> {
        (0..self.queues.len()).min_by_key(|at| {
            let owner = self.queues[*at].owner;
            let served = self.served.get(&owner).copied().unwrap_or(0);
            (self.held_by(owner), served)
        })
    }

    /// Permits that may be held altogether after a run of this deployment has begun.
    fn limit(&self, owner: Owner) -> usize {
        if self.held_by(owner) > 0 {
            return self.cores;
        }
        let long = self.running.iter().filter(|run| run.long);
        let lent: usize = long.map(|run| run.permits).sum();
        self.cores + lent.min(self.cores * LENT_PER_CORE)
    }

    fn held_by(&self, owner: Owner) -> usize {
        let own = self.running.iter().filter(|run| run.owner == owner);
        own.map(|run| run.permits).sum()
    }

    /// Removes a queue that is empty.
    fn tidy(&mut self, at: usize) {
        if self.queues[at].waiting.is_empty() {
            self.spare.push(self.queues.swap_remove(at).waiting);
        }
    }

    fn remember(&mut self, owner: Owner) {
        if self.served.len() >= REMEMBERED && !self.served.contains_key(&owner) {
            let mut times: Vec<u64> = self.served.values().copied().collect();
            let (_, median, _) = times.select_nth_unstable(REMEMBERED / 2);
            let median = *median;
            self.served.retain(|_, served| *served > median);
        }
        self.served.insert(owner, self.clock);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Owner = Owner(1);
    const B: Owner = Owner(2);
    const C: Owner = Owner(3);

    /// A budget whose runs are told by their names.
    struct Named {
        budget: Budget<&'static str>,
        running: HashMap<&'static str, u64>,
        now: Instant,
    }

    impl Named {
        fn new(cores: usize) -> Self {
            Self {
                budget: Budget::new(cores),
                running: HashMap::new(),
                now: Instant::now(),
            }
        }

        fn begun(&mut self) -> Vec<&'static str> {
            let mut names = Vec::new();
            while let Some(begun) = self.budget.next(self.now) {
                self.running.insert(begun.job, begun.run);
                names.push(begun.job);
            }
            names
        }

        fn end(&mut self, name: &str) {
            self.budget.give_back(self.running.remove(name).unwrap());
        }
    }

    #[test]
    fn a_wide_run_is_not_passed_by_narrow_ones() {
        let mut named = Named::new(2);
        for (permits, job) in [(1, "a"), (2, "wide"), (1, "b"), (1, "c")] {
            named.budget.ask(A, permits, job);
        }
        assert_eq!(named.begun(), ["a"]);
        named.budget.ask(A, 1, "d");
        assert_eq!(named.begun(), [""; 0]);
        named.end("a");
        assert_eq!(named.begun(), ["wide"]);
        named.end("wide");
        assert_eq!(named.begun(), ["b", "c"]);
    }

    #[test]
    fn nor_by_narrow_ones_of_another_deployment() {
        let mut named = Named::new(2);
        for job in ["n1", "n2", "n3", "n4"] {
            named.budget.ask(A, 1, job);
        }
        assert_eq!(named.begun(), ["n1", "n2"]);
        named.budget.ask(B, 2, "wide");
        named.end("n1");
        assert_eq!(named.begun(), [""; 0]);
        named.end("n2");
        assert_eq!(named.begun(), ["wide"]);
    }

    #[test]
    fn deployments_take_turns_and_one_that_comes_late_waits_for_one_run_at_most() {
        let mut named = Named::new(1);
        for job in ["a1", "a2", "a3"] {
            named.budget.ask(A, 1, job);
        }
        assert_eq!(named.begun(), ["a1"]);
        for job in ["b1", "b2"] {
            named.budget.ask(B, 1, job);
        }
        let mut order = Vec::new();
        for ended in ["a1", "b1", "a2", "b2"] {
            named.end(ended);
            order.extend(named.begun());
        }
        assert_eq!(order, ["b1", "a2", "b2", "a3"]);
    }

    #[test]
    fn a_deployment_with_fewer_permits_goes_first() {
        let mut named = Named::new(4);
        for job in ["a1", "a2", "a3", "a4", "a5"] {
            named.budget.ask(A, 1, job);
        }
        assert_eq!(named.begun().len(), 4);
        for job in ["b1", "b2", "b3"] {
            named.budget.ask(B, 1, job);
        }
        named.end("a1");
        assert_eq!(named.begun(), ["b1"]);
        named.end("a2");
        assert_eq!(named.begun(), ["b2"]);
        // Two each: the one that was served longest ago.
        named.end("a3");
        assert_eq!(named.begun(), ["a5"]);
    }

    #[test]
    fn endless_runs_lend_their_permits_to_those_who_have_none() {
        let mut named = Named::new(2);
        for job in ["endless 1", "endless 2", "more"] {
            named.budget.ask(A, 1, job);
        }
        assert_eq!(named.begun(), ["endless 1", "endless 2"]);
        named.budget.ask(B, 2, "b1");
        named.budget.ask(B, 2, "b2");
        assert!(!named.budget.notice_long(named.now));
        assert_eq!(named.begun(), [""; 0]);
        named.now += LONG;
        assert!(named.budget.notice_long(named.now) && !named.budget.notice_long(named.now));
        assert_eq!(named.begun(), ["b1"], "and no more of either");
        named.end("b1");
        assert_eq!(named.begun(), ["b2"]);
        named.end("b2");
        assert_eq!(named.begun(), [""; 0], "no deployment lends to itself");
        named.end("endless 1");
        assert_eq!(named.begun(), ["more"]);
    }

    #[test]
    fn what_is_lent_has_an_end() {
        let mut named = Named::new(1);
        let jobs = ["e1", "e2", "e3", "e4", "e5"];
        for (number, job) in jobs.into_iter().enumerate() {
            named.budget.ask(Owner(number), 1, job);
            named.begun();
            named.now += LONG;
            named.budget.notice_long(named.now);
        }
        assert_eq!(named.begun(), [""; 0]);
        assert_eq!(named.budget.held, 1 + LENT_PER_CORE);
    }

    #[test]
    fn a_run_that_nobody_waits_for_holds_nobody_up() {
        let mut named = Named::new(2);
        named.budget.ask(A, 1, "a");
        assert_eq!(named.begun(), ["a"]);
        let wide = named.budget.ask(B, 2, "wide");
        named.budget.ask(C, 1, "c");
        assert_eq!(named.begun(), [""; 0]);
        assert_eq!(named.budget.forget(wide), Some("wide"));
        assert_eq!(named.begun(), ["c"]);
        assert_eq!(named.budget.forget(wide), None);
        assert!(!named.budget.is_waited_for());
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut budget = Budget::new(1);
        for number in 0..5000 {
            budget.ask(Owner(number), 1, ());
            let begun = budget.next(Instant::now()).unwrap();
            budget.give_back(begun.run);
            assert!(budget.served.len() <= REMEMBERED);
        }
        assert!(budget.spare.len() <= 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(usize, usize),
        End(prop::sample::Index),
        Forget(prop::sample::Index),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..4, 1usize..9).prop_map(|(owner, permits)| Step::Ask(owner, permits)),
            3 => any::<prop::sample::Index>().prop_map(Step::End),
            1 => any::<prop::sample::Index>().prop_map(Step::Forget),
            1 => (0u64..1500).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn permits_are_never_lost_nor_given_twice_and_everyone_gets_a_turn(
            cores in 1usize..9,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut budget = Budget::new(cores);
            let mut now = Instant::now();
            let (mut running, mut tickets, mut last) = (Vec::new(), Vec::new(), HashMap::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Ask(owner, permits) => {
                        tickets.push(budget.ask(Owner(owner), permits, (owner, number)));
                    }
                    Step::End(which) if !running.is_empty() => {
                        budget.give_back(running.swap_remove(which.index(running.len())));
                    }
                    Step::Forget(which) if !tickets.is_empty() => {
                        budget.forget(tickets.swap_remove(which.index(tickets.len())));
                    }
                    Step::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        budget.notice_long(now);
                    }
                    Step::End(_) | Step::Forget(_) => {}
                }
                while let Some(begun) = budget.next(now) {
                    let (owner, number) = begun.job;
                    let before = last.insert(owner, number);
                    prop_assert!(before.is_none_or(|before| before < number), "in order");
                    running.push(begun.run);
                }
                let held: usize = budget.running.iter().map(|run| run.permits).sum();
                prop_assert_eq!(held, budget.held);
                prop_assert!(held <= cores * (1 + LENT_PER_CORE));
                let long = budget.running.iter().any(|run| run.long);
                prop_assert!(long || held <= cores);
                // Nobody waits beside an idle machine.
                prop_assert!(!budget.is_waited_for() || !running.is_empty());
                prop_assert!(budget.queues.iter().all(|queue| !queue.waiting.is_empty()));
            }
            while let Some(run) = running.pop() {
                budget.give_back(run);
                while let Some(begun) = budget.next(now) {
                    running.push(begun.run);
                }
            }
            prop_assert!(!budget.is_waited_for());
            prop_assert_eq!(budget.held, 0);
        }

        #[test]
        fn a_deployment_that_has_none_waits_for_one_run_of_each_other_at_most(
            cores in 1usize..5, hogs in 1usize..4, wide in 1usize..5,
        ) {
            let mut budget = Budget::new(cores);
            let now = Instant::now();
            for _ in 0..20 {
                for hog in 0..hogs {
                    budget.ask(Owner(hog), wide.min(cores), hog);
                }
            }
            let mut running = VecDeque::new();
            let begin = |budget: &mut Budget<usize>, running: &mut VecDeque<u64>| {
                let mut jobs = Vec::new();
                while let Some(begun) = budget.next(now) {
                    running.push_back(begun.run);
                    jobs.push(begun.job);
                }
                jobs
            };
            let mut holding = begin(&mut budget, &mut running);
            budget.ask(Owner(99), cores, 99);
            let mut before = Vec::new();
            while !before.contains(&99) {
                budget.give_back(running.pop_front().expect("it waits for something"));
                before.extend(begin(&mut budget, &mut running));
            }
            // One that held permits when it came has got no more before it.
            holding.retain(|hog| before.contains(hog));
            prop_assert_eq!(holding, Vec::<usize>::new());
            prop_assert!(before.len() <= hogs + 1);
        }
    }
}
