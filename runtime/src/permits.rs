//! Permits that deployments share fairly: for cores, loads of graphs, and compile jobs. Decisions only; the time is an argument.
//!
//! Runs of one deployment are granted permits in order. Of several waiting deployments, the one that holds the fewest permits is
//! next, and of equals the one that was served longest ago. While it waits for more permits than are free, no other passes it,
//! because narrow runs would keep a wide one waiting forever.
//!
//! A run that takes long cannot lock others out: its permits are lent to deployments that hold none. The cores are then
//! oversubscribed, and the kernel's scheduler shares them.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run that takes longer than this lends its permits.
pub(crate) const LONG_RUN: Duration = Duration::from_secs(1);
/// Most permits that are lent, per core.
const LENT_PER_CORE: usize = 2;
/// Deployments whose last grant is remembered.
const MAX_REMEMBERED: usize = 1024;

/// A deployment or model that permits are granted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(usize);

impl Owner {
    /// The owner identified by an `Arc` of its own, for as long as that is alive.
    pub(crate) fn of<T>(identity: &Arc<T>) -> Self {
        Self(Arc::as_ptr(identity).addr())
    }

    /// The owner with this name. Names with equal hashes share an owner.
    pub fn named(name: &str) -> Self {
        let hashed = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
        // The low bits where a usize has fewer.
        Self(hashed as usize)
    }

    #[cfg(test)]
    pub(crate) const NONE: Self = Self(0);

    #[cfg(test)]
    pub(crate) fn numbered(number: usize) -> Self {
        Self(number)
    }
}

/// A waiting run, for [`FairPermits::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    owner: Owner,
    id: u64,
}

impl Ticket {
    /// Whether this is the ticket of a run.
    pub fn is_of(self, run: u64) -> bool {
        self.id == run
    }
}

/// Permits granted to a run.
#[derive(Debug)]
pub(crate) struct Grant<J> {
    /// For [`FairPermits::release`].
    pub run: u64,
    pub permits: usize,
    pub job: J,
}

/// The permits, the runs that hold some, and the jobs `J` that wait for some.
pub(crate) struct FairPermits<J> {
    total: usize,
    held: usize,
    running: Vec<Running>,
    /// One queue per waiting deployment; none is empty.
    queues: Vec<Queue<J>>,
    /// Empty queues, reused to avoid allocations.
    spare: Vec<VecDeque<Waiting<J>>>,
    /// The last grant of each deployment, by `clock`.
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

impl<J> FairPermits<J> {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            held: 0,
            running: Vec::new(),
            queues: Vec::new(),
            spare: Vec::new(),
            served: HashMap::new(),
            clock: 0,
        }
    }

    /// Queues a job that needs `permits`, at most all there are.
    pub fn acquire(&mut self, owner: Owner, permits: usize, job: J) -> Ticket {
        self.clock += 1;
        let id = self.clock;
        let permits = permits.clamp(1, self.total.max(1));
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

    /// Removes a job from the queue, unless it was granted its permits.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<J> {
        let at = self
            .queues
            .iter()
            .position(|queue| queue.owner == ticket.owner)?;
        let waiting = &mut self.queues[at].waiting;
        // The queue is ordered by id.
        let found = waiting
            .binary_search_by_key(&ticket.id, |waiting| waiting.id)
            .ok()?;
        let gone = waiting.remove(found)?;
        self.remove_if_empty(at);
        Some(gone.job)
    }

    /// Grants permits to the next job, if enough are free.
    pub fn grant_next(&mut self, now: Instant) -> Option<Grant<J>> {
        let at = self.next_queue()?;
        let owner = self.queues[at].owner;
        let permits = self.queues[at].waiting.front()?.permits;
        if self.held + permits > self.limit(owner) {
            return None;
        }
        let waiting = self.queues[at].waiting.pop_front()?;
        self.remove_if_empty(at);
        self.clock += 1;
        self.held += permits;
        self.record_grant(owner);
        self.running.push(Running {
            id: waiting.id,
            owner,
            permits,
            since: now,
            long: false,
        });
        Some(Grant {
            run: waiting.id,
            permits,
            job: waiting.job,
        })
    }

    /// Takes back the permits of a run.
    pub fn release(&mut self, run: u64) {
        if let Some(at) = self.running.iter().position(|one| one.id == run) {
            self.held -= self.running.swap_remove(at).permits;
        }
    }

    /// Marks runs that have become long. Returns whether there are new ones, so that more permits can be granted.
    pub fn mark_long_runs(&mut self, now: Instant) -> bool {
        let mut noticed = false;
        for run in &mut self.running {
            if !run.long && now.saturating_duration_since(run.since) >= LONG_RUN {
                run.long = true;
                noticed = true;
            }
        }
        noticed
    }

    /// Whether a job waits for permits.
    pub fn has_waiters(&self) -> bool {
        !self.queues.is_empty()
    }

    /// The index of the next queue to be served.
    fn next_queue(&self) -> Option<usize> {
        (0..self.queues.len()).min_by_key(|at| {
            let owner = self.queues[*at].owner;
            let served = self.served.get(&owner).copied().unwrap_or(0);
            (self.held_by(owner), served)
        })
    }

    /// Permits that may be held in total after a grant to this deployment.
    fn limit(&self, owner: Owner) -> usize {
        if self.held_by(owner) > 0 {
            return self.total;
        }
        let long = self.running.iter().filter(|run| run.long);
        let lent: usize = long.map(|run| run.permits).sum();
        self.total + lent.min(self.total * LENT_PER_CORE)
    }

    fn held_by(&self, owner: Owner) -> usize {
        let own = self.running.iter().filter(|run| run.owner == owner);
        own.map(|run| run.permits).sum()
    }

    /// Removes a queue if it is empty.
    fn remove_if_empty(&mut self, at: usize) {
        if self.queues[at].waiting.is_empty() {
            self.spare.push(self.queues.swap_remove(at).waiting);
        }
    }

    fn record_grant(&mut self, owner: Owner) {
        if self.served.len() >= MAX_REMEMBERED && !self.served.contains_key(&owner) {
            let mut times: Vec<u64> = self.served.values().copied().collect();
            let (_, median, _) = times.select_nth_unstable(MAX_REMEMBERED / 2);
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

    /// Permits whose runs are identified by names.
    struct Named {
        permits: FairPermits<&'static str>,
        running: HashMap<&'static str, u64>,
        now: Instant,
    }

    impl Named {
        fn new(cores: usize) -> Self {
            Self {
                permits: FairPermits::new(cores),
                running: HashMap::new(),
                now: Instant::now(),
            }
        }

        fn grant(&mut self) -> Vec<&'static str> {
            let mut names = Vec::new();
            while let Some(grant) = self.permits.grant_next(self.now) {
                self.running.insert(grant.job, grant.run);
                names.push(grant.job);
            }
            names
        }

        fn end(&mut self, name: &str) {
            self.permits.release(self.running.remove(name).unwrap());
        }
    }

    #[test]
    fn a_wide_run_is_not_passed_by_narrow_ones() {
        let mut named = Named::new(2);
        for (permits, job) in [(1, "a"), (2, "wide"), (1, "b"), (1, "c")] {
            named.permits.acquire(A, permits, job);
        }
        assert_eq!(named.grant(), ["a"]);
        named.permits.acquire(A, 1, "d");
        assert_eq!(named.grant(), [""; 0]);
        named.end("a");
        assert_eq!(named.grant(), ["wide"]);
        named.end("wide");
        assert_eq!(named.grant(), ["b", "c"]);
    }

    #[test]
    fn nor_by_narrow_ones_of_another_deployment() {
        let mut named = Named::new(2);
        for job in ["n1", "n2", "n3", "n4"] {
            named.permits.acquire(A, 1, job);
        }
        assert_eq!(named.grant(), ["n1", "n2"]);
        named.permits.acquire(B, 2, "wide");
        named.end("n1");
        assert_eq!(named.grant(), [""; 0]);
        named.end("n2");
        assert_eq!(named.grant(), ["wide"]);
    }

    #[test]
    fn deployments_take_turns_and_one_that_comes_late_waits_for_one_run_at_most() {
        let mut named = Named::new(1);
        for job in ["a1", "a2", "a3"] {
            named.permits.acquire(A, 1, job);
        }
        assert_eq!(named.grant(), ["a1"]);
        for job in ["b1", "b2"] {
            named.permits.acquire(B, 1, job);
        }
        let mut order = Vec::new();
        for ended in ["a1", "b1", "a2", "b2"] {
            named.end(ended);
            order.extend(named.grant());
        }
        assert_eq!(order, ["b1", "a2", "b2", "a3"]);
    }

    #[test]
    fn a_deployment_with_fewer_permits_is_next() {
        let mut named = Named::new(4);
        for job in ["a1", "a2", "a3", "a4", "a5"] {
            named.permits.acquire(A, 1, job);
        }
        assert_eq!(named.grant().len(), 4);
        for job in ["b1", "b2", "b3"] {
            named.permits.acquire(B, 1, job);
        }
        named.end("a1");
        assert_eq!(named.grant(), ["b1"]);
        named.end("a2");
        assert_eq!(named.grant(), ["b2"]);
        // Two each: the one that was served longest ago.
        named.end("a3");
        assert_eq!(named.grant(), ["a5"]);
    }

    #[test]
    fn endless_runs_lend_their_permits_to_deployments_without_any() {
        let mut named = Named::new(2);
        for job in ["endless 1", "endless 2", "more"] {
            named.permits.acquire(A, 1, job);
        }
        assert_eq!(named.grant(), ["endless 1", "endless 2"]);
        named.permits.acquire(B, 2, "b1");
        named.permits.acquire(B, 2, "b2");
        assert!(!named.permits.mark_long_runs(named.now));
        assert_eq!(named.grant(), [""; 0]);
        named.now += LONG_RUN;
        assert!(
            named.permits.mark_long_runs(named.now) && !named.permits.mark_long_runs(named.now)
        );
        assert_eq!(named.grant(), ["b1"], "and no more of either");
        named.end("b1");
        assert_eq!(named.grant(), ["b2"]);
        named.end("b2");
        assert_eq!(named.grant(), [""; 0], "no deployment lends to itself");
        named.end("endless 1");
        assert_eq!(named.grant(), ["more"]);
    }

    #[test]
    fn lent_permits_are_limited() {
        let mut named = Named::new(1);
        let jobs = ["e1", "e2", "e3", "e4", "e5"];
        for (number, job) in jobs.into_iter().enumerate() {
            named.permits.acquire(Owner(number), 1, job);
            named.grant();
            named.now += LONG_RUN;
            named.permits.mark_long_runs(named.now);
        }
        assert_eq!(named.grant(), [""; 0]);
        assert_eq!(named.permits.held, 1 + LENT_PER_CORE);
    }

    #[test]
    fn a_cancelled_run_does_not_block_others() {
        let mut named = Named::new(2);
        named.permits.acquire(A, 1, "a");
        assert_eq!(named.grant(), ["a"]);
        let wide = named.permits.acquire(B, 2, "wide");
        named.permits.acquire(C, 1, "c");
        assert_eq!(named.grant(), [""; 0]);
        assert_eq!(named.permits.cancel(wide), Some("wide"));
        assert_eq!(named.grant(), ["c"]);
        assert_eq!(named.permits.cancel(wide), None);
        assert!(!named.permits.has_waiters());
    }

    #[test]
    fn remembered_grants_are_limited() {
        let mut permits = FairPermits::new(1);
        for number in 0..5000 {
            permits.acquire(Owner(number), 1, ());
            let grant = permits.grant_next(Instant::now()).unwrap();
            permits.release(grant.run);
            assert!(permits.served.len() <= MAX_REMEMBERED);
        }
        assert!(permits.spare.len() <= 1);
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
        fn permits_are_never_lost_or_granted_twice_and_each_job_gets_its_turn(
            cores in 1usize..9,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut permits = FairPermits::new(cores);
            let mut now = Instant::now();
            let (mut running, mut tickets, mut last) = (Vec::new(), Vec::new(), HashMap::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Ask(owner, count) => {
                        tickets.push(permits.acquire(Owner(owner), count, (owner, number)));
                    }
                    Step::End(which) if !running.is_empty() => {
                        permits.release(running.swap_remove(which.index(running.len())));
                    }
                    Step::Forget(which) if !tickets.is_empty() => {
                        permits.cancel(tickets.swap_remove(which.index(tickets.len())));
                    }
                    Step::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        permits.mark_long_runs(now);
                    }
                    Step::End(_) | Step::Forget(_) => {}
                }
                while let Some(grant) = permits.grant_next(now) {
                    let (owner, number) = grant.job;
                    let before = last.insert(owner, number);
                    prop_assert!(before.is_none_or(|before| before < number), "in order");
                    running.push(grant.run);
                }
                let held: usize = permits.running.iter().map(|run| run.permits).sum();
                prop_assert_eq!(held, permits.held);
                prop_assert!(held <= cores * (1 + LENT_PER_CORE));
                let long = permits.running.iter().any(|run| run.long);
                prop_assert!(long || held <= cores);
                // No job waits while all permits are free.
                prop_assert!(!permits.has_waiters() || !running.is_empty());
                prop_assert!(permits.queues.iter().all(|queue| !queue.waiting.is_empty()));
            }
            while let Some(run) = running.pop() {
                permits.release(run);
                while let Some(grant) = permits.grant_next(now) {
                    running.push(grant.run);
                }
            }
            prop_assert!(!permits.has_waiters());
            prop_assert_eq!(permits.held, 0);
        }

        #[test]
        fn a_deployment_without_permits_waits_for_at_most_one_run_of_each_other(
            cores in 1usize..5, hogs in 1usize..4, wide in 1usize..5,
        ) {
            let mut permits = FairPermits::new(cores);
            let now = Instant::now();
            for _ in 0..20 {
                for hog in 0..hogs {
                    permits.acquire(Owner(hog), wide.min(cores), hog);
                }
            }
            let mut running = VecDeque::new();
            let begin = |permits: &mut FairPermits<usize>, running: &mut VecDeque<u64>| {
                let mut jobs = Vec::new();
                while let Some(grant) = permits.grant_next(now) {
                    running.push_back(grant.run);
                    jobs.push(grant.job);
                }
                jobs
            };
            let mut holding = begin(&mut permits, &mut running);
            permits.acquire(Owner(99), cores, 99);
            let mut before = Vec::new();
            while !before.contains(&99) {
                permits.release(running.pop_front().expect("it waits for something"));
                before.extend(begin(&mut permits, &mut running));
            }
            // None that held permits when it arrived was granted more before it.
            holding.retain(|hog| before.contains(hog));
            prop_assert_eq!(holding, Vec::<usize>::new());
            prop_assert!(before.len() <= hogs + 1);
        }
    }
}
