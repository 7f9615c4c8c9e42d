//! Which request gets which replica: the pool's decisions, as functions of its state and a time that is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::load::{Load, Traffic};

/// The bounds of a pool. They can change while it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Replicas that are started ahead of requests.
    pub min_replica: usize,
    /// Maximum number of replicas.
    pub max_replica: usize,
    /// Requests that may wait for a replica; one more is rejected.
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

/// The decision for a request that arrives.
pub(crate) enum Admission<R> {
    /// Serve it on this idle replica, the most recently used one.
    Reuse(R),
    /// Start a replica for it.
    Start,
    /// Queue it: the caller calls [`PoolState::enqueue`].
    Wait,
    /// Reject it: the queue is full.
    Full,
    /// Reject it: the pool is closed.
    Closed,
}

/// The decision for a busy place that was released.
pub(crate) enum Released<W> {
    /// The first request in the queue takes the place over, which stays busy.
    ToWaiter(W),
    /// No request takes it over.
    Free,
}

/// Replicas `R` and waiting requests `W` of one pool.
pub(crate) struct PoolState<R, W> {
    /// Ordered by when they became idle, the longest idle first.
    idle: VecDeque<(R, Instant)>,
    /// Places whose replica serves or starts.
    busy: usize,
    waiting: VecDeque<W>,
    closed: bool,
    load: Load,
}

impl<R, W> Default for PoolState<R, W> {
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

/// Replicas and waiting requests of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Replicas without a request.
    pub idle: usize,
    /// Replicas that serve or start.
    pub busy: usize,
    /// Requests in the queue.
    pub waiting: usize,
}

impl<R, W> PoolState<R, W> {
    /// Decides on a request that arrives. Unless it is rejected, it counts as load until [`Self::release`] or
    /// [`Self::abandon`].
    pub fn admit(
        &mut self,
        traffic: Traffic,
        settings: &PoolSettings,
        now: Instant,
    ) -> Admission<R> {
        let admission = self.decide(settings);
        if !matches!(admission, Admission::Full | Admission::Closed) {
            self.load.arrive(traffic, now);
        }
        admission
    }

    fn decide(&mut self, settings: &PoolSettings) -> Admission<R> {
        if self.closed {
            return Admission::Closed;
        }
        // While requests wait, new ones queue behind them even if a place has just become free.
        if self.waiting.is_empty() {
            if let Some((replica, _)) = self.idle.pop_back() {
                self.busy += 1;
                return Admission::Reuse(replica);
            }
            if self.busy < settings.max_replica {
                self.busy += 1;
                return Admission::Start;
            }
        }
        if self.waiting.len() < settings.max_queued_requests {
            return Admission::Wait;
        }
        Admission::Full
    }

    /// Reserves a place to start a replica ahead of requests, unless there are `count` replicas already.
    pub fn reserve_start(&mut self, count: usize, settings: &PoolSettings) -> bool {
        let has_room =
            !self.closed && self.idle.len() + self.busy < count.min(settings.max_replica);
        if has_room {
            self.busy += 1;
        }
        has_room
    }

    /// Appends a request to the queue.
    pub fn enqueue(&mut self, request: W) {
        self.waiting.push_back(request);
    }

    /// Ends the load of a request whose client has gone. Its entry in the queue, if any, is removed later.
    pub fn abandon(&mut self, traffic: Traffic, now: Instant) {
        self.load.leave(traffic, now);
    }

    /// The time that all sync requests have spent in the pool so far, added up.
    pub fn load(&mut self, now: Instant) -> Duration {
        self.load.total(now)
    }

    /// Takes the first request out of the queue if there is room to start a replica for it; the place counts as busy. To be
    /// called whenever there may be more room than before.
    pub fn take_waiter(&mut self, settings: &PoolSettings) -> Option<W> {
        if self.closed || self.idle.len() + self.busy >= settings.max_replica {
            return None;
        }
        let request = self.waiting.pop_front()?;
        self.busy += 1;
        Some(request)
    }

    /// Removes queued requests whose clients have gone.
    pub fn remove_waiters(&mut self, is_gone: impl Fn(&W) -> bool) {
        self.waiting.retain(|request| !is_gone(request));
    }

    /// Releases a busy place. `from` is the request that had it; `None` if a replica only started there.
    pub fn release(
        &mut self,
        from: Option<Traffic>,
        settings: &PoolSettings,
        now: Instant,
    ) -> Released<W> {
        if let Some(traffic) = from {
            self.load.leave(traffic, now);
        }
        // There can be more places than the maximum after it was lowered.
        let is_kept = !self.closed && self.busy <= settings.max_replica;
        if is_kept && let Some(request) = self.waiting.pop_front() {
            return Released::ToWaiter(request);
        }
        self.busy -= 1;
        Released::Free
    }

    /// Keeps a replica of a [`Released::Free`] place as idle. Returns it, to be dropped, when the pool is closed or full.
    pub fn put_idle(&mut self, replica: R, settings: &PoolSettings, now: Instant) -> Option<R> {
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
    pub fn remove_oldest_idle(&mut self) -> Option<R> {
        self.idle.pop_front().map(|(replica, _)| replica)
    }

    /// Takes an idle replica that is to be replaced. Its place counts as busy.
    pub fn take_idle(&mut self, matches: impl Fn(&R) -> bool) -> Option<R> {
        let replica = self.remove_idle(matches)?;
        self.busy += 1;
        Some(replica)
    }

    /// Removes an idle replica together with its place.
    pub fn remove_idle(&mut self, matches: impl Fn(&R) -> bool) -> Option<R> {
        let at = self.idle.iter().position(|(replica, _)| matches(replica))?;
        self.idle.remove(at).map(|(replica, _)| replica)
    }

    /// PoolCounts the replicas that have been idle for at least `time`.
    pub fn count_idle_for(&self, time: Duration, now: Instant) -> usize {
        self.idle
            .partition_point(|(_, since)| now.saturating_duration_since(*since) >= time)
    }

    /// The idle replicas.
    pub fn idle(&self) -> impl Iterator<Item = &R> {
        self.idle.iter().map(|(replica, _)| replica)
    }

    /// Rejects requests from now on. Returns the idle replicas and the waiting requests, to be dropped.
    pub fn close(&mut self) -> (VecDeque<(R, Instant)>, VecDeque<W>) {
        self.closed = true;
        (
            std::mem::take(&mut self.idle),
            std::mem::take(&mut self.waiting),
        )
    }

    /// Whether [`Self::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The current counts.
    pub fn counts(&self) -> PoolCounts {
        PoolCounts {
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
    fn the_most_recently_used_replica_is_reused_and_the_longest_idle_is_removed_first() {
        let settings = settings(3, 0);
        let now = Instant::now();
        let mut state: PoolState<u32, ()> = PoolState::default();
        for _ in 0..3 {
            let admission = state.admit(Traffic::Sync, &settings, now);
            assert!(matches!(admission, Admission::Start));
        }
        for id in 0..3 {
            assert!(matches!(
                state.release(Some(Traffic::Sync), &settings, now),
                Released::Free
            ));
            state.put_idle(id, &settings, now + Duration::from_secs(id.into()));
        }
        let admission = state.admit(Traffic::Sync, &settings, now);
        assert!(matches!(admission, Admission::Reuse(2)));
        assert_eq!(state.remove_oldest_idle(), Some(0));
        assert_eq!(state.remove_idle(|id| *id == 2), None);
        assert_eq!(state.remove_idle(|id| *id == 1), Some(1));
        assert_eq!(state.counts().idle, 0);
    }

    #[test]
    fn replicas_started_ahead_count() {
        let settings = settings(2, 0);
        let mut state: PoolState<u32, ()> = PoolState::default();
        assert!(state.reserve_start(1, &settings));
        assert!(!state.reserve_start(1, &settings));
        state.release(None, &settings, Instant::now());
        state.put_idle(1, &settings, Instant::now());
        assert!(!state.reserve_start(1, &settings));
        assert!(state.reserve_start(9, &settings));
        assert!(!state.reserve_start(9, &settings));
    }

    #[test]
    fn a_lowered_maximum_holds_as_soon_as_requests_end() {
        let (three, one) = (settings(3, 9), settings(1, 9));
        let now = Instant::now();
        let mut state: PoolState<u32, u32> = PoolState::default();
        for _ in 0..3 {
            state.admit(Traffic::Sync, &three, now);
        }
        state.admit(Traffic::Sync, &one, now);
        state.enqueue(7);
        for left in [2, 1] {
            let released = state.release(Some(Traffic::Sync), &one, now);
            assert!(matches!(released, Released::Free));
            assert_eq!(state.put_idle(0, &one, now), Some(0));
            assert_eq!(state.counts().busy, left);
        }
        let released = state.release(Some(Traffic::Sync), &one, now);
        assert!(matches!(released, Released::ToWaiter(7)));
    }

    #[test]
    fn running_and_waiting_requests_are_the_load() {
        let settings = settings(1, 1);
        let zero = Instant::now();
        let at = |seconds: u64| zero + Duration::from_secs(seconds);
        let mut state: PoolState<u32, ()> = PoolState::default();
        state.admit(Traffic::Sync, &settings, at(0));
        assert!(matches!(
            state.admit(Traffic::Sync, &settings, at(0)),
            Admission::Wait
        ));
        state.enqueue(());
        let refused = state.admit(Traffic::Sync, &settings, at(0));
        assert!(matches!(refused, Admission::Full));
        assert_eq!(state.load(at(10)).as_secs(), 20);
        state.abandon(Traffic::Sync, at(10));
        assert_eq!(state.load(at(20)).as_secs(), 30);
        state.release(Some(Traffic::Sync), &settings, at(20));
        assert_eq!(state.load(at(99)).as_secs(), 30);
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

    /// A pool as its users see it: the replicas in busy places, and the requests in the order in which they were served.
    #[derive(Default)]
    struct Model {
        state: PoolState<u32, u32>,
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
                let counts = self.state.counts();
                counts.idle + counts.busy > settings.max_replica
            } && self.state.remove_oldest_idle().is_some()
            {}
            while let Some(request) = self.state.take_waiter(settings) {
                self.served.push(request);
                self.start(Some(Traffic::Sync));
            }
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_and_requests_are_served_in_order_and_never_wait_beside_room(
            max in 1usize..5, queue in 0usize..5, steps in prop::collection::vec(step(), 0..300)
        ) {
            let mut settings = settings(max, queue);
            let mut model = Model::default();
            let now = Instant::now();
            let sync = Some(Traffic::Sync);
            for step in steps {
                match step {
                    Step::Request => {
                        let admission = model.state.admit(Traffic::Sync, &settings, now);
                        let request = model.came;
                        model.came += 1;
                        match admission {
                            Admission::Reuse(id) => {
                                model.served.push(request);
                                model.busy.push((id, sync));
                            }
                            Admission::Start => {
                                model.served.push(request);
                                model.start(sync);
                                prop_assert!(model.busy.len() <= settings.max_replica);
                            }
                            Admission::Wait => model.state.enqueue(request),
                            Admission::Full => {
                                prop_assert!(model.state.counts().waiting >= settings.max_queued_requests);
                            }
                            Admission::Closed => prop_assert!(false),
                        }
                    }
                    Step::Good => if let Some((id, from)) = model.busy.pop() {
                        match model.state.release(from, &settings, now) {
                            Released::ToWaiter(request) => {
                                model.served.push(request);
                                model.busy.push((id, sync));
                            }
                            Released::Free => drop(model.state.put_idle(id, &settings, now)),
                        }
                    },
                    Step::Bad => if let Some((_, from)) = model.busy.pop()
                        && let Released::ToWaiter(request) = model.state.release(from, &settings, now) {
                            model.served.push(request);
                            model.start(sync);
                        },
                    Step::Replace => if let Some(id) = model.state.take_idle(|id| id % 2 == 0) {
                        prop_assert_eq!(id % 2, 0);
                        model.busy.push((id, None));
                    },
                    Step::Drop => drop(model.state.remove_oldest_idle()),
                    Step::Settings { max, queue } => {
                        settings.max_replica = max;
                        settings.max_queued_requests = queue;
                        model.change(&settings);
                    }
                }
                let counts = model.state.counts();
                prop_assert_eq!(counts.busy, model.busy.len());
                prop_assert!(counts.idle == 0 || counts.busy + counts.idle <= settings.max_replica);
                prop_assert!(counts.waiting == 0 || counts.idle == 0);
                prop_assert!(counts.waiting == 0 || counts.busy >= settings.max_replica, "there is room");
                prop_assert!(model.served.is_sorted(), "a later request was served first: {:?}", model.served);
            }
        }
    }
}
