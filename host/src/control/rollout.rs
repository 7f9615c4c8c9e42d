//! What a promotion does next: a pure decision of what is stored, how the candidate is, and the time.

use jiff::{SignedDuration, Timestamp};

use crate::domain::promotion::{Promotion, PromotionStatus};

/// A candidate that is not ready after this long is given up.
pub const RELEASE_TIMEOUT: SignedDuration = SignedDuration::from_mins(30);

/// How the candidate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Replicas that can take a request.
    pub replicas: usize,
    /// Replicas that it has to have before traffic moves.
    pub wanted: usize,
    /// Why it cannot serve, if so.
    pub failed: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Traffic begins to move, or goes over at once.
    Release,
    /// The candidate takes over.
    Finish,
    /// Traffic goes back.
    Fail(String),
}

/// What a promotion does next.
pub fn next(promotion: &Promotion, candidate: &Candidate, now: Timestamp) -> Step {
    if !promotion.status.is_in_progress() {
        return Step::Wait;
    }
    if let Some(reason) = &candidate.failed {
        return Step::Fail(reason.clone());
    }
    match promotion.status {
        PromotionStatus::Releasing if candidate.replicas >= candidate.wanted => Step::Release,
        PromotionStatus::Releasing
            if now.duration_since(promotion.created_at) >= RELEASE_TIMEOUT =>
        {
            Step::Fail(format!(
                "the candidate has {} of {} replicas after {} minutes",
                candidate.replicas,
                candidate.wanted,
                RELEASE_TIMEOUT.as_mins()
            ))
        }
        PromotionStatus::RampingUp if promotion.is_ramped(now) => Step::Finish,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::promotion::PromotionSettings;
    use crate::ids::Id;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn canary(seconds: u32) -> Promotion {
        let settings = PromotionSettings {
            ramp_up_while_promoting: true,
            ramp_up_duration_seconds: seconds,
            ..Default::default()
        };
        Promotion::new(Id::new(), Some(Id::new()), settings, at(0))
    }

    fn ready(replicas: usize) -> Candidate {
        Candidate {
            replicas,
            wanted: 2,
            failed: None,
        }
    }

    #[test]
    fn it_waits_for_the_replicas_of_the_current_one_and_gives_up_in_the_end() {
        let promotion = canary(20);
        assert_eq!(next(&promotion, &ready(1), at(1000)), Step::Wait);
        assert_eq!(next(&promotion, &ready(2), at(1000)), Step::Release);
        let late = next(&promotion, &ready(1), at(30 * 60_000));
        assert!(matches!(late, Step::Fail(reason) if reason.contains("1 of 2")));
        let broken = Candidate {
            failed: Some("it crashed".into()),
            ..ready(2)
        };
        assert_eq!(
            next(&promotion, &broken, at(1)),
            Step::Fail("it crashed".into())
        );
    }

    proptest! {
        #[test]
        fn a_canary_that_is_watched_at_any_instants_ends_once_its_time_is_over(
            seconds in 1u32..1000, mut times in prop::collection::vec(0i64..2_000_000, 1..100)
        ) {
            let mut promotion = canary(seconds);
            promotion.status = PromotionStatus::RampingUp;
            promotion.ramp_started_at = Some(at(0));
            times.sort_unstable();
            for ms in times {
                let step = next(&promotion, &ready(2), at(ms));
                prop_assert_eq!(step == Step::Finish, ms >= i64::from(seconds) * 1000);
            }
        }
    }
}
