//! Who gets which replica: the pool's decisions as pure functions of its state and a time that is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The bounds that decisions keep to.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Replicas kept warm without traffic.
    pub min_replica: usize,
    /// Most replicas at once.
    pub max_replica: usize,
    /// How long a replica stays warm after its last request.
    pub scale_down_delay: Duration,
    /// Requests that may wait for a replica; one more is refused.
    pub max_queued_requests: usize,
    /// A replica is replaced after this many requests; `None` keeps it.
    pub max_requests_per_replica: Option<u64>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            min_replica: 0,
            max_replica: 10,
            scale_down_delay: Duration::from_secs(900),
            max_queued_requests: 1000,
            max_requests_per_replica: None,
        }
    }
}

/// What a request gets.
pub(crate) enum Next<R> {
    /// A warm replica, the one used last.
    Reuse(R),
    /// Room to start one.
    Start,
    /// A place in the queue, which the caller fills.
    Wait,
    /// No place left.
    Full,
    /// The pool takes no more requests.
    Closed,
}

/// What becomes of a replica, or of its place, that came free.
pub(crate) enum Freed<W> {
    /// The first in the queue has it.
    To(W),
    /// It is idle, or gone.
    Kept,
}

/// Replicas `R` and waiting requests `W` of one pool.
pub(crate) struct Ledger<R, W> {
    idle: VecDeque<(R, Instant)>,
    busy: usize,
    waiting: VecDeque<W>,
    closed: bool,
}

impl<R, W> Default for Ledger<R, W> {
    fn default() -> Self {
        Self {
            idle: VecDeque::new(),
            busy: 0,
            waiting: VecDeque::new(),
            closed: false,
        }
    }
}

/// How many there are of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Warm and free.
    pub idle: usize,
    /// Serving or starting.
    pub busy: usize,
    /// Requests that wait.
    pub waiting: usize,
}

impl<R, W> Ledger<R, W> {
    /// Decides for a request that just came.
    pub fn next(&mut self, settings: &PoolSettings) -> Next<R> {
        if self.closed {
            return Next::Closed;
        }
        if let Some((replica, _)) = self.idle.pop_back() {
            self.busy += 1;
            return Next::Reuse(replica);
        }
        if self.busy < settings.max_replica {
            self.busy += 1;
            return Next::Start;
        }
        if self.waiting.len() < settings.max_queued_requests {
            return Next::Wait;
        }
        Next::Full
    }

    /// Room to start one more that nobody asked for yet, up to `wanted` in all.
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

    /// Forgets waiting requests whose client is gone.
    pub fn forget_waiting(&mut self, gone: impl Fn(&W) -> bool) {
        self.waiting.retain(|request| !gone(request));
    }

    /// A busy replica came free: who has it next? With [`Freed::To`] it stays counted as busy.
    pub fn freed(&mut self) -> Freed<W> {
        match self.waiting.pop_front() {
            Some(request) if !self.closed => Freed::To(request),
            _ => {
                self.busy -= 1;
                Freed::Kept
            }
        }
    }

    /// Keeps a replica that [`Self::freed`] left to us; gives it back to be dropped when the pool is closed.
    pub fn keep(&mut self, replica: R, now: Instant) -> Option<R> {
        if self.closed {
            return Some(replica);
        }
        self.idle.push_back((replica, now));
        None
    }

    /// Takes out one replica that has been idle for longer than it may, sparing the minimum.
    pub fn expired(&mut self, now: Instant, settings: &PoolSettings) -> Option<R> {
        if self.idle.len() + self.busy <= settings.min_replica {
            return None;
        }
        let (_, since) = self.idle.front()?;
        if now.duration_since(*since) < settings.scale_down_delay {
            return None;
        }
        self.idle.pop_front().map(|(replica, _)| replica)
    }

    /// When to look for expired replicas next; `None` while there is none to expire.
    pub fn next_expiry(&self, settings: &PoolSettings) -> Option<Instant> {
        if self.idle.len() + self.busy <= settings.min_replica {
            return None;
        }
        let (_, since) = self.idle.front()?;
        Some(*since + settings.scale_down_delay)
    }

    /// Since when the longest idle replica has been idle.
    pub fn oldest_idle(&self) -> Option<Instant> {
        self.idle.front().map(|(_, since)| *since)
    }

    /// Takes out the longest idle replica.
    pub fn take_oldest(&mut self) -> Option<R> {
        self.idle.pop_front().map(|(replica, _)| replica)
    }

    /// Takes out an idle replica that is to be replaced; its place is counted as busy meanwhile.
    pub fn take_idle(&mut self, wanted: impl Fn(&R) -> bool) -> Option<R> {
        let at = self.idle.iter().position(|(replica, _)| wanted(replica))?;
        let (replica, _) = self.idle.remove(at)?;
        self.busy += 1;
        Some(replica)
    }

    /// Takes no more requests; gives back what was idle and who waited.
    pub fn close(&mut self) -> (VecDeque<(R, Instant)>, VecDeque<W>) {
        self.closed = true;
        (
            std::mem::take(&mut self.idle),
            std::mem::take(&mut self.waiting),
        )
    }

    /// The numbers now.
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
            scale_down_delay: Duration::from_secs(10),
            ..PoolSettings::default()
        }
    }

    #[test]
    fn the_replica_used_last_is_used_first_and_the_oldest_goes_first() {
        let settings = settings(3, 0);
        let now = Instant::now();
        let mut ledger: Ledger<u32, ()> = Ledger::default();
        for _ in 0..3 {
            assert!(matches!(ledger.next(&settings), Next::Start));
        }
        for id in 0..3 {
            assert!(matches!(ledger.freed(), Freed::Kept));
            ledger.keep(id, now + Duration::from_secs(id.into()));
        }
        assert!(matches!(ledger.next(&settings), Next::Reuse(2)));
        assert_eq!(
            ledger.expired(now + Duration::from_secs(9), &settings),
            None
        );
        assert_eq!(
            ledger.expired(now + Duration::from_secs(10), &settings),
            Some(0)
        );
        assert_eq!(
            ledger.expired(now + Duration::from_secs(10), &settings),
            None
        );
    }

    #[test]
    fn the_minimum_stays_warm() {
        let settings = PoolSettings {
            min_replica: 1,
            ..settings(2, 0)
        };
        let now = Instant::now();
        let mut ledger: Ledger<u32, ()> = Ledger::default();
        assert!(ledger.prewarm(1, &settings));
        assert!(!ledger.prewarm(1, &settings));
        ledger.freed();
        ledger.keep(1, now);
        assert_eq!(
            ledger.expired(now + Duration::from_secs(1000), &settings),
            None
        );
        assert_eq!(ledger.next_expiry(&settings), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Request,
        Good,
        Bad,
        Replace,
        Later(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Request),
            Just(Step::Good),
            Just(Step::Bad),
            Just(Step::Replace),
            (0u8..30).prop_map(Step::Later)
        ]
    }

    proptest! {
        #[test]
        fn bounds_hold_and_nobody_waits_beside_a_free_replica(
            max in 1usize..5, queue in 0usize..5, steps in prop::collection::vec(step(), 0..200)
        ) {
            let settings = settings(max, queue);
            let mut ledger: Ledger<u32, u32> = Ledger::default();
            let mut now = Instant::now();
            let mut busy: Vec<u32> = Vec::new();
            let mut next_id = 0;
            let mut asked = 0;
            let mut served_in_order = Vec::new();
            for step in steps {
                match step {
                    Step::Request => match ledger.next(&settings) {
                        Next::Reuse(id) => busy.push(id),
                        Next::Start => { busy.push(next_id); next_id += 1; }
                        Next::Wait => { ledger.wait(asked); asked += 1; }
                        Next::Full => prop_assert_eq!(ledger.counts().waiting, queue),
                        Next::Closed => prop_assert!(false),
                    },
                    Step::Good => if let Some(id) = busy.pop() {
                        match ledger.freed() {
                            Freed::To(request) => { served_in_order.push(request); busy.push(id); }
                            Freed::Kept => prop_assert!(ledger.keep(id, now).is_none()),
                        }
                    },
                    Step::Bad => if busy.pop().is_some()
                        && let Freed::To(request) = ledger.freed() {
                            served_in_order.push(request);
                            busy.push(next_id);
                            next_id += 1;
                        },
                    Step::Replace => if let Some(id) = ledger.take_idle(|id| id % 2 == 0) {
                        prop_assert_eq!(id % 2, 0);
                        busy.push(id);
                    },
                    Step::Later(seconds) => {
                        now += Duration::from_secs(seconds.into());
                        while ledger.expired(now, &settings).is_some() {}
                    }
                }
                let counts = ledger.counts();
                prop_assert_eq!(counts.busy, busy.len());
                prop_assert!(counts.busy + counts.idle <= max);
                prop_assert!(counts.waiting <= queue);
                prop_assert!(counts.waiting == 0 || counts.idle == 0);
                prop_assert!(served_in_order.is_sorted());
            }
        }
    }
}
