//! Decides which request gets which replica: pure functions of the pool's state and a time argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pool::load::{Load, Traffic};

/// Settings of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Number of replicas to start ahead of requests.
    pub min_replica: usize,
    /// Maximum number of replicas.
    pub max_replica: usize,
    /// Maximum number of waiting requests; further ones are refused.
    pub max_queued_requests: usize,
    /// Number of requests after which a replica is replaced; `None` never replaces it.
    pub max_requests_per_replica: Option<u64>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            min_replica: 0,
            max_replica: 10,
            max_queued_requests: 1000,
            max_requests_per_replica: None,
        }
    }
}

/// What a request gets.
pub(crate) enum Next<R> {
    /// The most recently used warm replica.
    Reuse(R),
    /// Permission to start one.
    Start,
    /// A place in the queue, which the caller fills.
    Wait,
    /// Nothing, because the queue is full.
    Full,
    /// Nothing, because the pool is closed.
    Closed,
}

/// What happens to a released replica, or to its slot.
pub(crate) enum Freed<W> {
    /// It goes to the first waiting request.
    To(W),
    /// It is idle, or dropped.
    Kept,
}

/// Replicas `R` and waiting requests `W` of one pool.
pub(crate) struct Ledger<R, W> {
    idle: VecDeque<(R, Instant)>,
    busy: usize,
    waiting: VecDeque<W>,
    closed: bool,
    load: Load,
}

impl<R, W> Default for Ledger<R, W> {
    fn default() -> Self {
        Self {
            idle: VecDeque::new(),
            busy: 0,
            waiting: VecDeque::new(),
            closed: false,
            load: Load::default(),
        }
    }
}

/// Numbers of replicas and requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Idle replicas.
    pub idle: usize,
    /// Replicas that serve or start.
    pub busy: usize,
    /// Waiting requests.
    pub waiting: usize,
}

impl<R, W> Ledger<R, W> {
    /// Decides for a new request. Unless it is refused, it counts as load until [`Self::freed`] or [`Self::gave_up`].
    pub fn next(&mut self, traffic: Traffic, settings: &PoolSettings, now: Instant) -> Next<R> {
        let next = self.decide(settings);
        if !matches!(next, Next::Full | Next::Closed) {
            self.load.arrived(traffic, now);
        }
        next
    }

    fn decide(&mut self, settings: &PoolSettings) -> Next<R> {
        if self.closed {
            return Next::Closed;
        }
        // Who came before goes before, also when there is room all of a sudden.
        if self.waiting.is_empty() {
            if let Some((replica, _)) = self.idle.pop_back() {
                self.busy += 1;
                return Next::Reuse(replica);
            }
            if self.busy < settings.max_replica {
                self.busy += 1;
                return Next::Start;
            }
        }
        if self.waiting.len() < settings.max_queued_requests {
            return Next::Wait;
        }
        Next::Full
    }

    /// Permission to start another replica ahead of requests, up to `wanted` in total.
    pub fn prewarm(&mut self, wanted: usize, settings: &PoolSettings) -> bool {
        let room = !self.closed && self.idle.len() + self.busy < wanted.min(settings.max_replica);
        if room {
            self.busy += 1;
        }
        room
    }

    /// Puts a request at the end of the queue.
    pub fn wait(&mut self, request: W) {
        self.waiting.push_back(request);
    }

    /// A request has left the queue; its entry is removed later.
    pub fn gave_up(&mut self, traffic: Traffic, now: Instant) {
        self.load.left(traffic, now);
    }

    /// Total time that sync requests have spent in the pool so far.
    pub fn load(&mut self, now: Instant) -> Duration {
        self.load.total(now)
    }

    /// The first waiting request, if it may start a replica, which then counts as busy. Call this whenever there may be more room than before.
    pub fn promote(&mut self, settings: &PoolSettings) -> Option<W> {
        if self.closed || self.idle.len() + self.busy >= settings.max_replica {
            return None;
        }
        let request = self.waiting.pop_front()?;
        self.busy += 1;
        Some(request)
    }

    /// Removes waiting requests whose client is gone.
    pub fn forget_waiting(&mut self, gone: impl Fn(&W) -> bool) {
        self.waiting.retain(|request| !gone(request));
    }

    /// Decides about a released busy replica, after a request or after its start. With [`Freed::To`] it still counts as busy.
    pub fn freed(
        &mut self,
        from: Option<Traffic>,
        settings: &PoolSettings,
        now: Instant,
    ) -> Freed<W> {
        if let Some(traffic) = from {
            self.load.left(traffic, now);
        }
        // There may be more than there may be now, when the maximum was lowered.
        let stays = !self.closed && self.busy <= settings.max_replica;
        if stays && let Some(request) = self.waiting.pop_front() {
            return Freed::To(request);
        }
        self.busy -= 1;
        Freed::Kept
    }

    /// Keeps a replica that [`Self::freed`] made idle. Returns it to be dropped if the pool is closed or has too many.
    pub fn keep(&mut self, replica: R, settings: &PoolSettings, now: Instant) -> Option<R> {
        if self.closed || self.idle.len() + self.busy >= settings.max_replica {
            return Some(replica);
        }
        self.idle.push_back((replica, now));
        None
    }

    /// Since when the longest idle replica is idle.
    pub fn oldest_idle(&self) -> Option<Instant> {
        self.idle.front().map(|(_, since)| *since)
    }

    /// Removes the longest idle replica.
    pub fn take_oldest(&mut self) -> Option<R> {
        self.idle.pop_front().map(|(replica, _)| replica)
    }

    /// Removes an idle replica to replace it; its slot counts as busy meanwhile.
    pub fn take_idle(&mut self, wanted: impl Fn(&R) -> bool) -> Option<R> {
        let at = self.idle.iter().position(|(replica, _)| wanted(replica))?;
        let (replica, _) = self.idle.remove(at)?;
        self.busy += 1;
        Some(replica)
    }

    /// Removes an idle replica.
    pub fn remove_idle(&mut self, wanted: impl Fn(&R) -> bool) -> Option<R> {
        let at = self.idle.iter().position(|(replica, _)| wanted(replica))?;
        self.idle.remove(at).map(|(replica, _)| replica)
    }

    /// Number of replicas that have been idle for this long.
    pub fn idle_for(&self, time: Duration, now: Instant) -> usize {
        // The longest idle ones are in front.
        self.idle
            .partition_point(|(_, since)| now.saturating_duration_since(*since) >= time)
    }

    /// The idle replicas.
    pub fn idle(&self) -> impl Iterator<Item = &R> {
        self.idle.iter().map(|(replica, _)| replica)
    }

    /// Closes the pool. Returns the idle replicas and the waiting requests.
    pub fn close(&mut self) -> (VecDeque<(R, Instant)>, VecDeque<W>) {
        self.closed = true;
        (
            std::mem::take(&mut self.idle),
            std::mem::take(&mut self.waiting),
        )
    }

    /// Whether the pool is closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The current numbers.
    pub fn counts(&self) -> Counts {
        Counts {
            idle: self.idle.len(),
            busy: self.busy,
            waiting: self.waiting.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(max_replica: usize, max_queued_requests: usize) -> PoolSettings {
        PoolSettings {
            max_replica,
            max_queued_requests,
            ..PoolSettings::default()
        }
    }

    #[test]
    fn the_replica_used_last_is_used_first_and_the_oldest_goes_first() {
        let settings = settings(3, 0);
        let now = Instant::now();
        let mut ledger: Ledger<u32, ()> = Ledger::default();
        for _ in 0..3 {
            let next = ledger.next(Traffic::Sync, &settings, now);
            assert!(matches!(next, Next::Start));
        }
        for id in 0..3 {
            assert!(matches!(
                ledger.freed(Some(Traffic::Sync), &settings, now),
                Freed::Kept
            ));
            ledger.keep(id, &settings, now + Duration::from_secs(id.into()));
        }
        let next = ledger.next(Traffic::Sync, &settings, now);
        assert!(matches!(next, Next::Reuse(2)));
        assert_eq!(ledger.take_oldest(), Some(0));
        assert_eq!(ledger.remove_idle(|id| *id == 2), None);
        assert_eq!(ledger.remove_idle(|id| *id == 1), Some(1));
        assert_eq!(ledger.counts().idle, 0);
    }

    #[test]
    fn what_is_started_ahead_counts_as_there() {
        let settings = settings(2, 0);
        let mut ledger: Ledger<u32, ()> = Ledger::default();
        assert!(ledger.prewarm(1, &settings));
        assert!(!ledger.prewarm(1, &settings));
        ledger.freed(None, &settings, Instant::now());
        ledger.keep(1, &settings, Instant::now());
        assert!(!ledger.prewarm(1, &settings));
        assert!(ledger.prewarm(9, &settings));
        assert!(!ledger.prewarm(9, &settings));
    }

    #[test]
    fn a_lowered_maximum_holds_as_soon_as_requests_end() {
        let (three, one) = (settings(3, 9), settings(1, 9));
        let now = Instant::now();
        let mut ledger: Ledger<u32, u32> = Ledger::default();
        for _ in 0..3 {
            ledger.next(Traffic::Sync, &three, now);
        }
        ledger.next(Traffic::Sync, &one, now);
        ledger.wait(7);
        for left in [2, 1] {
            let freed = ledger.freed(Some(Traffic::Sync), &one, now);
            assert!(matches!(freed, Freed::Kept));
            assert_eq!(ledger.keep(0, &one, now), Some(0));
            assert_eq!(ledger.counts().busy, left);
        }
        let freed = ledger.freed(Some(Traffic::Sync), &one, now);
        assert!(matches!(freed, Freed::To(7)));
    }

    #[test]
    fn running_and_waiting_requests_are_the_load() {
        let settings = settings(1, 1);
        let zero = Instant::now();
        let at = |seconds: u64| zero + Duration::from_secs(seconds);
        let mut ledger: Ledger<u32, ()> = Ledger::default();
        ledger.next(Traffic::Sync, &settings, at(0));
        assert!(matches!(
            ledger.next(Traffic::Sync, &settings, at(0)),
            Next::Wait
        ));
        ledger.wait(());
        let refused = ledger.next(Traffic::Sync, &settings, at(0));
        assert!(matches!(refused, Next::Full));
        assert_eq!(ledger.load(at(10)).as_secs(), 20);
        ledger.gave_up(Traffic::Sync, at(10));
        assert_eq!(ledger.load(at(20)).as_secs(), 30);
        ledger.freed(Some(Traffic::Sync), &settings, at(20));
        assert_eq!(ledger.load(at(99)).as_secs(), 30);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Request,
        Good,
        Bad,
        Replace,
        Drop,
        Settings { max: usize, queue: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Request),
            2 => Just(Step::Good),
            1 => Just(Step::Bad),
            1 => Just(Step::Replace),
            1 => Just(Step::Drop),
            1 => (1usize..5, 0usize..5).prop_map(|(max, queue)| Step::Settings { max, queue }),
        ]
    }

    /// A pool as its users see it: who has a place, who waits, and in which order they came.
    #[derive(Default)]
    struct Model {
        ledger: Ledger<u32, u32>,
        busy: Vec<(u32, Option<Traffic>)>,
        made: u32,
        came: u32,
        served: Vec<u32>,
    }

    impl Model {
        fn start(&mut self, from: Option<Traffic>) {
            self.busy.push((self.made, from));
            self.made += 1;
        }

        fn change(&mut self, settings: &PoolSettings) {
            while {
                let counts = self.ledger.counts();
                counts.idle + counts.busy > settings.max_replica
            } && self.ledger.take_oldest().is_some()
            {}
            while let Some(request) = self.ledger.promote(settings) {
                self.served.push(request);
                self.start(Some(Traffic::Sync));
            }
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_and_nobody_is_passed_or_waits_beside_room(
            max in 1usize..5, queue in 0usize..5, steps in prop::collection::vec(step(), 0..300)
        ) {
            let mut settings = settings(max, queue);
            let mut model = Model::default();
            let now = Instant::now();
            let sync = Some(Traffic::Sync);
            for step in steps {
                match step {
                    Step::Request => {
                        let next = model.ledger.next(Traffic::Sync, &settings, now);
                        let request = model.came;
                        model.came += 1;
                        match next {
                            Next::Reuse(id) => {
                                model.served.push(request);
                                model.busy.push((id, sync));
                            }
                            Next::Start => {
                                model.served.push(request);
                                model.start(sync);
                                prop_assert!(model.busy.len() <= settings.max_replica);
                            }
                            Next::Wait => model.ledger.wait(request),
                            Next::Full => {
                                prop_assert!(model.ledger.counts().waiting >= settings.max_queued_requests);
                            }
                            Next::Closed => prop_assert!(false),
                        }
                    }
                    Step::Good => if let Some((id, from)) = model.busy.pop() {
                        match model.ledger.freed(from, &settings, now) {
                            Freed::To(request) => {
                                model.served.push(request);
                                model.busy.push((id, sync));
                            }
                            Freed::Kept => drop(model.ledger.keep(id, &settings, now)),
                        }
                    },
                    Step::Bad => if let Some((_, from)) = model.busy.pop()
                        && let Freed::To(request) = model.ledger.freed(from, &settings, now) {
                            model.served.push(request);
                            model.start(sync);
                        },
                    Step::Replace => if let Some(id) = model.ledger.take_idle(|id| id % 2 == 0) {
                        prop_assert_eq!(id % 2, 0);
                        model.busy.push((id, None));
                    },
                    Step::Drop => drop(model.ledger.take_oldest()),
                    Step::Settings { max, queue } => {
                        settings.max_replica = max;
                        settings.max_queued_requests = queue;
                        model.change(&settings);
                    }
                }
                let counts = model.ledger.counts();
                prop_assert_eq!(counts.busy, model.busy.len());
                prop_assert!(counts.idle == 0 || counts.busy + counts.idle <= settings.max_replica);
                prop_assert!(counts.waiting == 0 || counts.idle == 0);
                prop_assert!(counts.waiting == 0 || counts.busy >= settings.max_replica, "there is room");
                prop_assert!(model.served.is_sorted(), "one that came later was served before: {:?}", model.served);
            }
        }
    }
}
