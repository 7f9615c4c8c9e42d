//! Circuit breaker for starts of replicas: pauses starts after several failures in a row, for growing times. Requests can always use a ready
//! replica, and crashes during requests do not count, because they affect only their senders.

use std::time::{Duration, Instant};

/// Number of failed starts in a row that open the breaker.
pub const MAX_FAILED_STARTS: u32 = 3;
/// The first pause. It doubles with each failed attempt.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// `Retry-After` for clients while another request's start is the attempt.
const WHILE_TRIED: Duration = Duration::from_secs(1);

/// Why starts are paused, and when the next one is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Reason of the failure.
    pub reason: String,
    /// How long to wait before trying again.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pause {
        until: Instant,
    },
    /// One attempt is running.
    Tried {
        attempt: u64,
    },
}

#[derive(Debug)]
struct Illness {
    reason: String,
    pause: Duration,
    phase: Phase,
}

/// Whether a start is allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Free,
    /// Yes, as the attempt with this number.
    Attempt(u64),
    Refused(Trouble),
}

/// State of the circuit breaker.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed_starts: u32,
    attempts: u64,
    illness: Option<Illness>,
}

impl Health {
    /// Whether there are no failures, so that a successful start changes nothing.
    pub fn is_spotless(&self) -> bool {
        self.failed_starts == 0 && self.illness.is_none()
    }

    /// Decides whether a replica may start.
    pub fn may_start(&mut self, now: Instant) -> Admission {
        let Some(illness) = &mut self.illness else {
            return Admission::Free;
        };
        if illness.open_in(now) > Duration::ZERO {
            return Admission::Refused(illness.trouble(now));
        }
        self.attempts += 1;
        illness.phase = Phase::Tried {
            attempt: self.attempts,
        };
        Admission::Attempt(self.attempts)
    }

    /// Whether a start would be refused.
    pub fn starts_pause(&self, now: Instant) -> bool {
        let illness = self.illness.as_ref();
        illness.is_some_and(|ill| ill.open_in(now) > Duration::ZERO)
    }

    /// Records a successful start.
    pub fn started(&mut self) {
        self.failed_starts = 0;
        self.illness = None;
    }

    /// Records a failed start.
    pub fn start_failed(&mut self, reason: &str, now: Instant) {
        self.failed_starts = self.failed_starts.saturating_add(1);
        let reason = format!(
            "{} starts of a replica in a row failed, the last one: {reason}",
            self.failed_starts
        );
        match &mut self.illness {
            Some(illness) => {
                // What fails in the pause was begun before it, and is no news.
                let rests = matches!(illness.phase, Phase::Pause { until } if until > now);
                if !rests {
                    illness.reason = reason;
                    illness.pause = (illness.pause * 2).min(LONGEST_PAUSE);
                    illness.phase = Phase::Pause {
                        until: now + illness.pause,
                    };
                }
            }
            None if self.failed_starts >= MAX_FAILED_STARTS => {
                self.illness = Some(Illness {
                    reason,
                    pause: FIRST_PAUSE,
                    phase: Phase::Pause {
                        until: now + FIRST_PAUSE,
                    },
                });
            }
            None => {}
        }
    }

    /// Records an attempt without a result, because the host stopped it.
    pub fn given_up(&mut self, attempt: u64, now: Instant) {
        if let Some(illness) = &mut self.illness
            && illness.phase == (Phase::Tried { attempt })
        {
            illness.phase = Phase::Pause { until: now };
        }
    }

    /// The current trouble, if any.
    pub fn trouble(&self, now: Instant) -> Option<Trouble> {
        self.illness.as_ref().map(|illness| illness.trouble(now))
    }
}

impl Illness {
    /// Time until the next attempt.
    fn open_in(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Pause { until } => until.saturating_duration_since(now),
            Phase::Tried { .. } => WHILE_TRIED,
        }
    }

    fn trouble(&self, now: Instant) -> Trouble {
        Trouble {
            reason: self.reason.clone(),
            retry_after: self.open_in(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ill(now: Instant) -> Health {
        let mut health = Health::default();
        for _ in 0..MAX_FAILED_STARTS {
            assert_eq!(health.may_start(now), Admission::Free);
            health.start_failed("no weights", now);
        }
        health
    }

    #[test]
    fn a_good_start_in_between_keeps_it_well() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..10 {
            for _ in 1..MAX_FAILED_STARTS {
                health.start_failed("no weights", now);
            }
            assert_eq!(health.trouble(now), None);
            health.started();
        }
        assert!(health.is_spotless());
    }

    #[test]
    fn pauses_double_and_one_start_is_tried_after_each() {
        let mut now = Instant::now();
        let mut health = ill(now);
        let reason = "3 starts of a replica in a row failed, the last one: no weights";
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = Duration::from_secs(seconds);
            let Admission::Refused(trouble) = health.may_start(now) else {
                panic!("it pauses")
            };
            assert_eq!(trouble.retry_after, pause);
            assert!(health.starts_pause(now));
            if seconds == 1 {
                assert_eq!(trouble.reason, reason);
            }
            now += pause;
            assert!(!health.starts_pause(now));
            assert!(matches!(health.may_start(now), Admission::Attempt(_)));
            assert!(matches!(health.may_start(now), Admission::Refused(_)));
            health.start_failed("no weights", now);
        }
        now += LONGEST_PAUSE;
        assert!(matches!(health.may_start(now), Admission::Attempt(_)));
        health.started();
        assert!(health.is_spotless());
        assert_eq!(health.may_start(now), Admission::Free);
    }

    #[test]
    fn an_attempt_that_shows_nothing_makes_room_for_the_next() {
        let now = Instant::now();
        let mut health = ill(now);
        let later = now + FIRST_PAUSE;
        let Admission::Attempt(first) = health.may_start(later) else {
            panic!("it is tried")
        };
        health.given_up(first, later);
        let Admission::Attempt(second) = health.may_start(later) else {
            panic!("it is tried again")
        };
        // A word from the past changes nothing.
        health.given_up(first, later);
        assert!(matches!(health.may_start(later), Admission::Refused(_)));
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
            let mut health = Health::default();
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Later(ms) => now += Duration::from_millis(ms.into()),
                    Step::Start(fate) => {
                        let attempt = match health.may_start(now) {
                            Admission::Refused(_) => continue,
                            Admission::Attempt(number) => number,
                            Admission::Free => 0,
                        };
                        match fate {
                            Fate::Good => health.started(),
                            Fate::Bad => health.start_failed("no weights", now),
                            Fate::Nothing => health.given_up(attempt, now),
                        }
                    }
                }
                if let Some(trouble) = health.trouble(now) {
                    prop_assert!(trouble.retry_after <= LONGEST_PAUSE);
                    prop_assert!(health.failed_starts >= MAX_FAILED_STARTS);
                }
            }
            // Whatever was, a good start after the pause makes it well.
            now += LONGEST_PAUSE;
            prop_assert!(!matches!(health.may_start(now), Admission::Refused(_)));
            health.started();
            prop_assert!(health.is_spotless());
        }
    }
}
