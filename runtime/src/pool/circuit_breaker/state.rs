//! The decisions of the circuit breaker: after some starts in a row have failed, starts pause, for longer each time that the one
//! start after a pause fails as well.
//!
//! Only starts count. A request is never kept from a ready replica, and a crash in a request costs only its sender.

use std::time::{Duration, Instant};

/// Failed starts in a row that open the circuit.
pub const MAX_FAILED_STARTS: u32 = 3;
/// The first pause. It doubles each time that the probe after it fails.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What clients are told to wait while a probe runs.
const RETRY_DURING_PROBE: Duration = Duration::from_secs(1);

/// Why no replica of a deployment starts, and when the next one may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// How many starts failed, and the last error.
    pub reason: String,
    /// Time until a start may be tried again; zero if it may be tried now.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Starts are allowed.
    #[default]
    Closed,
    /// Starts are refused until then; the first one after that is the probe.
    Open { until: Instant },
    /// One start, the probe, runs; others are refused.
    HalfOpen { probe: u64 },
}

/// Whether a start is allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StartPermission {
    Granted,
    /// As the probe with this number.
    Probe(u64),
    Refused(Unavailable),
}

/// The state of one deployment's circuit breaker.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    phase: Phase,
    /// Failed starts since the last one that succeeded.
    failed_starts: u32,
    /// Probes so far; the number of the last one.
    probes: u64,
    /// The current or last pause.
    pause: Duration,
    /// Why the circuit opened.
    reason: String,
}

impl Circuit {
    /// Whether the circuit is closed and the last start succeeded.
    pub fn is_pristine(&self) -> bool {
        self.failed_starts == 0 && self.phase == Phase::Closed
    }

    /// Decides on a start. When a pause is over, this start becomes the probe.
    pub fn request_start(&mut self, now: Instant) -> StartPermission {
        match self.unavailable(now) {
            None => StartPermission::Granted,
            Some(unavailable) if unavailable.retry_after > Duration::ZERO => {
                StartPermission::Refused(unavailable)
            }
            Some(_) => {
                self.probes += 1;
                self.phase = Phase::HalfOpen { probe: self.probes };
                StartPermission::Probe(self.probes)
            }
        }
    }

    /// Whether a start would be refused now.
    pub fn refuses_starts(&self, now: Instant) -> bool {
        self.retry_after(now) > Duration::ZERO
    }

    /// Closes the circuit: a replica has started.
    pub fn record_success(&mut self) {
        self.failed_starts = 0;
        self.phase = Phase::Closed;
    }

    /// PoolCounts a failed start, and opens the circuit after too many.
    pub fn record_failure(&mut self, reason: &str, now: Instant) {
        self.failed_starts = self.failed_starts.saturating_add(1);
        self.pause = match self.phase {
            Phase::Closed if self.failed_starts < MAX_FAILED_STARTS => return,
            Phase::Closed => FIRST_PAUSE,
            // The start began before the pause, and tells nothing new.
            Phase::Open { until } if until > now => return,
            Phase::Open { .. } | Phase::HalfOpen { .. } => (self.pause * 2).min(LONGEST_PAUSE),
        };
        self.reason = format!(
            "{} starts of a replica in a row failed, the last one: {reason}",
            self.failed_starts
        );
        self.phase = Phase::Open {
            until: now + self.pause,
        };
    }

    /// Ends a probe without a result, because the node stopped it. The next start becomes the probe.
    pub fn abandon_probe(&mut self, probe: u64, now: Instant) {
        if self.phase == (Phase::HalfOpen { probe }) {
            self.phase = Phase::Open { until: now };
        }
    }

    /// Why starts pause, unless the circuit is closed.
    pub fn unavailable(&self, now: Instant) -> Option<Unavailable> {
        (self.phase != Phase::Closed).then(|| Unavailable {
            reason: self.reason.clone(),
            retry_after: self.retry_after(now),
        })
    }

    fn retry_after(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Closed => Duration::ZERO,
            Phase::Open { until } => until.saturating_duration_since(now),
            Phase::HalfOpen { .. } => RETRY_DURING_PROBE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..MAX_FAILED_STARTS {
            assert_eq!(circuit.request_start(now), StartPermission::Granted);
            circuit.record_failure("no weights", now);
        }
        circuit
    }

    #[test]
    fn a_success_in_between_keeps_the_circuit_closed() {
        let now = Instant::now();
        let mut circuit = Circuit::default();
        for _ in 0..10 {
            for _ in 1..MAX_FAILED_STARTS {
                circuit.record_failure("no weights", now);
            }
            assert_eq!(circuit.unavailable(now), None);
            circuit.record_success();
        }
        assert!(circuit.is_pristine());
    }

    #[test]
    fn pauses_double_and_one_start_probes_after_each() {
        let mut now = Instant::now();
        let mut circuit = opened(now);
        let reason = "3 starts of a replica in a row failed, the last one: no weights";
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = Duration::from_secs(seconds);
            let StartPermission::Refused(unavailable) = circuit.request_start(now) else {
                panic!("it pauses")
            };
            assert_eq!(unavailable.retry_after, pause);
            assert!(circuit.refuses_starts(now));
            if seconds == 1 {
                assert_eq!(unavailable.reason, reason);
            }
            now += pause;
            assert!(!circuit.refuses_starts(now));
            assert!(matches!(
                circuit.request_start(now),
                StartPermission::Probe(_)
            ));
            assert!(matches!(
                circuit.request_start(now),
                StartPermission::Refused(_)
            ));
            circuit.record_failure("no weights", now);
        }
        now += LONGEST_PAUSE;
        assert!(matches!(
            circuit.request_start(now),
            StartPermission::Probe(_)
        ));
        circuit.record_success();
        assert!(circuit.is_pristine());
        assert_eq!(circuit.request_start(now), StartPermission::Granted);
    }

    #[test]
    fn an_abandoned_probe_makes_room_for_the_next() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let later = now + FIRST_PAUSE;
        let StartPermission::Probe(first) = circuit.request_start(later) else {
            panic!("it is the probe")
        };
        circuit.abandon_probe(first, later);
        let StartPermission::Probe(second) = circuit.request_start(later) else {
            panic!("it is the next probe")
        };
        // A probe that ended before changes nothing.
        circuit.abandon_probe(first, later);
        assert!(matches!(
            circuit.request_start(later),
            StartPermission::Refused(_)
        ));
        assert_ne!(first, second);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Start(Fate),
        Later(u32),
    }

    #[derive(Clone, Debug)]
    enum Fate {
        Good,
        Bad,
        Nothing,
    }

    fn step() -> impl Strategy<Value = Step> {
        let fate =
            prop_oneof![1 => Just(Fate::Good), 3 => Just(Fate::Bad), 1 => Just(Fate::Nothing)];
        prop_oneof![
            fate.prop_map(Step::Start),
            (0u32..70_000).prop_map(Step::Later)
        ]
    }

    proptest! {
        #[test]
        fn starts_pause_no_longer_than_the_longest_pause(steps in prop::collection::vec(step(), 0..300)) {
            let mut circuit = Circuit::default();
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Later(ms) => now += Duration::from_millis(ms.into()),
                    Step::Start(fate) => {
                        let probe = match circuit.request_start(now) {
                            StartPermission::Refused(_) => continue,
                            StartPermission::Probe(number) => number,
                            StartPermission::Granted => 0,
                        };
                        match fate {
                            Fate::Good => circuit.record_success(),
                            Fate::Bad => circuit.record_failure("no weights", now),
                            Fate::Nothing => circuit.abandon_probe(probe, now),
                        }
                    }
                }
                if let Some(unavailable) = circuit.unavailable(now) {
                    prop_assert!(unavailable.retry_after <= LONGEST_PAUSE);
                    prop_assert!(circuit.failed_starts >= MAX_FAILED_STARTS);
                }
            }
            // Whatever happened before, a success after the longest pause closes the circuit.
            now += LONGEST_PAUSE;
            prop_assert!(!matches!(circuit.request_start(now), StartPermission::Refused(_)));
            circuit.record_success();
            prop_assert!(circuit.is_pristine());
        }
    }
}
