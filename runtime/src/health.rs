//! When a deployment counts as ill: crashes or failed starts in a row, and pauses that grow while it does not recover.

use std::time::{Duration, Instant};

/// Starts of replicas that may fail in a row.
pub const MAX_FAILED_STARTS: u32 = 3;
/// Requests in a row that may crash the guest.
pub const MAX_CRASHES: u32 = 10;
/// The first pause, which doubles each time that the attempt after it fails.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What a client is told to wait while another's request is the attempt.
const WHILE_TRIED: Duration = Duration::from_secs(1);

/// Why a deployment is ill, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What happened.
    pub reason: String,
    /// How long to wait before asking again.
    pub retry_after: Duration,
}

/// What failed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Starts,
    Crashes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pause {
        until: Instant,
    },
    /// One attempt is under way.
    Tried {
        attempt: u64,
    },
}

#[derive(Debug)]
struct Illness {
    cause: Cause,
    reason: String,
    pause: Duration,
    phase: Phase,
}

/// Whether something may go ahead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Free,
    /// As the one attempt, of this number.
    Attempt(u64),
    Refused(Trouble),
}

/// How well a deployment is.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed_starts: u32,
    crashes: u32,
    attempts: u64,
    illness: Option<Illness>,
}

impl Health {
    /// Whether nothing speaks against it: what a good answer or start has nothing to change about.
    pub fn is_spotless(&self) -> bool {
        self.failed_starts == 0 && self.crashes == 0 && self.illness.is_none()
    }

    /// May a request go to a replica? Only crashes keep it from one that is ready.
    pub fn admit(&mut self, now: Instant) -> Admission {
        self.ask(Cause::Crashes, now)
    }

    /// May a replica be started?
    pub fn may_start(&mut self, now: Instant) -> Admission {
        self.ask(Cause::Starts, now)
    }

    fn ask(&mut self, cause: Cause, now: Instant) -> Admission {
        let Some(illness) = self.illness.as_mut().filter(|ill| ill.cause == cause) else {
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

    /// Whether a start would be refused now.
    pub fn starts_pause(&self, now: Instant) -> bool {
        let illness = self.illness.as_ref();
        illness.is_some_and(|ill| ill.cause == Cause::Starts && ill.open_in(now) > Duration::ZERO)
    }

    /// A replica has started.
    pub fn started(&mut self) {
        self.failed_starts = 0;
        self.recover(Cause::Starts);
    }

    /// A start has failed.
    pub fn start_failed(&mut self, reason: &str, now: Instant) {
        self.failed_starts = self.failed_starts.saturating_add(1);
        let told = format!(
            "{} starts of a replica in a row failed, the last one: {reason}",
            self.failed_starts
        );
        self.failed(
            Cause::Starts,
            self.failed_starts >= MAX_FAILED_STARTS,
            told,
            now,
        );
    }

    /// The guest has answered a request.
    pub fn answered(&mut self) {
        self.crashes = 0;
        self.recover(Cause::Crashes);
    }

    /// The guest has crashed on a request.
    pub fn crashed(&mut self, reason: &str, now: Instant) {
        self.crashes = self.crashes.saturating_add(1);
        let told = format!(
            "{} requests in a row crashed it, the last one: {reason}",
            self.crashes
        );
        self.failed(Cause::Crashes, self.crashes >= MAX_CRASHES, told, now);
    }

    /// An attempt ended without showing anything: the client left, or ran out of time.
    pub fn given_up(&mut self, attempt: u64, now: Instant) {
        if let Some(illness) = &mut self.illness
            && illness.phase == (Phase::Tried { attempt })
        {
            illness.phase = Phase::Pause { until: now };
        }
    }

    /// What is wrong, if anything.
    pub fn trouble(&self, now: Instant) -> Option<Trouble> {
        self.illness.as_ref().map(|illness| illness.trouble(now))
    }

    fn recover(&mut self, cause: Cause) {
        self.illness.take_if(|illness| illness.cause == cause);
    }

    fn failed(&mut self, cause: Cause, too_often: bool, reason: String, now: Instant) {
        match &mut self.illness {
            // The request that is the attempt fails also when its replica does not start.
            Some(illness) if illness.cause == cause || cause == Cause::Starts => {
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
            _ if too_often => {
                self.illness = Some(Illness {
                    cause,
                    reason,
                    pause: FIRST_PAUSE,
                    phase: Phase::Pause {
                        until: now + FIRST_PAUSE,
                    },
                });
            }
            _ => {}
        }
    }
}

impl Illness {
    /// How long until somebody may try.
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

    fn ill_of_crashes(now: Instant) -> Health {
        let mut health = Health::default();
        for _ in 0..MAX_CRASHES {
            assert_eq!(health.admit(now), Admission::Free);
            health.crashed("a trap", now);
        }
        health
    }

    #[test]
    fn a_good_answer_in_between_keeps_it_well() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..10 {
            for _ in 1..MAX_CRASHES {
                health.crashed("a trap", now);
            }
            assert_eq!(health.trouble(now), None);
            health.answered();
        }
        assert!(health.is_spotless());
        for _ in 0..10 {
            for _ in 1..MAX_FAILED_STARTS {
                health.start_failed("no weights", now);
            }
            health.started();
        }
        assert!(health.is_spotless());
    }

    #[test]
    fn pauses_double_and_one_request_is_tried_after_each() {
        let mut now = Instant::now();
        let mut health = ill_of_crashes(now);
        let reason = "10 requests in a row crashed it, the last one: a trap";
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = Duration::from_secs(seconds);
            let Admission::Refused(trouble) = health.admit(now) else {
                panic!("it pauses")
            };
            assert_eq!(trouble.retry_after, pause);
            if seconds == 1 {
                assert_eq!(trouble.reason, reason);
            }
            // Replicas may be started: none of them has failed.
            assert_eq!(health.may_start(now), Admission::Free);
            now += pause;
            assert!(matches!(health.admit(now), Admission::Attempt(_)));
            assert!(matches!(health.admit(now), Admission::Refused(_)));
            health.crashed("a trap", now);
        }
        now += LONGEST_PAUSE;
        assert!(matches!(health.admit(now), Admission::Attempt(_)));
        health.answered();
        assert!(health.is_spotless());
        assert_eq!(health.admit(now), Admission::Free);
    }

    #[test]
    fn an_attempt_that_shows_nothing_makes_room_for_the_next() {
        let now = Instant::now();
        let mut health = ill_of_crashes(now);
        let later = now + FIRST_PAUSE;
        let Admission::Attempt(first) = health.admit(later) else {
            panic!("it is tried")
        };
        health.given_up(first, later);
        let Admission::Attempt(second) = health.admit(later) else {
            panic!("it is tried again")
        };
        // A word from the past changes nothing.
        health.given_up(first, later);
        assert!(matches!(health.admit(later), Admission::Refused(_)));
        assert_ne!(first, second);
    }

    #[test]
    fn failed_starts_keep_no_request_from_a_replica_that_is_ready() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..MAX_FAILED_STARTS {
            assert_eq!(health.may_start(now), Admission::Free);
            health.start_failed("no weights", now);
        }
        assert_eq!(health.admit(now), Admission::Free);
        assert!(health.starts_pause(now));
        assert!(matches!(health.may_start(now), Admission::Refused(_)));
        health.answered();
        assert!(
            health.trouble(now).is_some(),
            "it is still short of replicas"
        );
        let later = now + FIRST_PAUSE;
        assert!(!health.starts_pause(later));
        assert!(matches!(health.may_start(later), Admission::Attempt(_)));
        assert!(health.starts_pause(later));
        health.started();
        assert_eq!(health.trouble(later), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Request(Fate),
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
            || prop_oneof![1 => Just(Fate::Good), 3 => Just(Fate::Bad), 1 => Just(Fate::Nothing)];
        prop_oneof![
            fate().prop_map(Step::Request),
            fate().prop_map(Step::Start),
            (0u32..70_000).prop_map(Step::Later)
        ]
    }

    proptest! {
        #[test]
        fn nobody_is_shut_out_for_longer_than_the_longest_pause(steps in prop::collection::vec(step(), 0..300)) {
            let mut health = Health::default();
            let mut now = Instant::now();
            for step in steps {
                match step {
                    Step::Later(ms) => now += Duration::from_millis(ms.into()),
                    Step::Request(fate) => {
                        let attempt = match health.admit(now) {
                            Admission::Refused(_) => continue,
                            Admission::Attempt(number) => number,
                            Admission::Free => 0,
                        };
                        match fate {
                            Fate::Good => health.answered(),
                            Fate::Bad => health.crashed("a trap", now),
                            Fate::Nothing => health.given_up(attempt, now),
                        }
                    }
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
                    prop_assert!(health.failed_starts >= MAX_FAILED_STARTS || health.crashes >= MAX_CRASHES);
                }
            }
            // Whatever was, a good start and a good answer after the pause make it well.
            now += LONGEST_PAUSE;
            prop_assert!(!matches!(health.may_start(now), Admission::Refused(_)));
            health.started();
            prop_assert!(!matches!(health.admit(now), Admission::Refused(_)));
            health.answered();
            prop_assert!(health.is_spotless());
        }
    }
}
