//! What a promotion does next: a pure decision of what is stored, how the candidate is, what was measured, and the time.

use jiff::{SignedDuration, Timestamp};
use samovar_types::promotion::PromotionStatus;

use crate::control::analysis::{self, StageFigures};
use crate::control::error_guard;
use crate::domain::promotion::Promotion;

/// A candidate that is not ready after this long is given up.
pub const RELEASE_TIMEOUT: SignedDuration = SignedDuration::from_mins(30);

/// How the candidate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Replicas that can take a request.
    pub replicas: usize,
    /// Replicas that it has to have before traffic moves.
    pub wanted: usize,
    /// Why it cannot serve, if so: it is deleted or switched off, its replicas do not start, it is unhealthy.
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

/// Why the candidate must go because of what it did with its requests, if it must.
pub fn failing(promotion: &Promotion, stages: &[StageFigures], now: Timestamp) -> Option<String> {
    promotion.stage(now)?;
    let settings = promotion.settings.analysis.as_ref();
    settings
        .and_then(|settings| analysis::verdict(settings, stages))
        .or_else(|| error_guard::verdict(settings, stages))
}

/// What a promotion does next. `stages` is what was measured in its stages so far.
///
/// Stages follow the clock, whatever was measured in them; and the candidate is judged while the promotion is paused too,
/// because it has its share of the traffic then. That it fails far more often than the current deployment ends a
/// promotion also without an analysis.
pub fn next(
    promotion: &Promotion,
    candidate: &Candidate,
    stages: &[StageFigures],
    now: Timestamp,
) -> Step {
    if !promotion.status.is_in_progress() {
        return Step::Wait;
    }
    // Before what is known of the candidate's state, which tells less.
    if let Some(reason) = failing(promotion, stages, now) {
        return Step::Fail(reason);
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
        // Without a replica it waits: it is being started, and how that ends decides.
        PromotionStatus::RampingUp if promotion.is_ramped(now) && candidate.replicas > 0 => {
            Step::Finish
        }
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use samovar_types::promotion_settings::{AnalysisSettings, PromotionSettings};

    use super::*;
    use crate::control::traffic::{Side, Split};
    use crate::random::random_id;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn canary(seconds: u32) -> Promotion {
        let settings = PromotionSettings {
            ramp_up_while_promoting: true,
            ramp_up_duration_seconds: seconds,
            ..Default::default()
        };
        Promotion::new(random_id(), Some(random_id()), settings, at(0))
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
        assert_eq!(next(&promotion, &ready(1), &[], at(1000)), Step::Wait);
        assert_eq!(next(&promotion, &ready(2), &[], at(1000)), Step::Release);
        let late = next(&promotion, &ready(1), &[], at(30 * 60_000));
        assert!(matches!(late, Step::Fail(reason) if reason.contains("1 of 2")));
        let mut ramped = promotion.clone();
        ramped.status = PromotionStatus::RampingUp;
        ramped.ramp_started_at = Some(at(0));
        assert_eq!(next(&ramped, &ready(0), &[], at(20_000)), Step::Wait);
        assert_eq!(next(&ramped, &ready(1), &[], at(20_000)), Step::Finish);
        let broken = Candidate {
            failed: Some("it crashed".into()),
            ..ready(2)
        };
        assert_eq!(
            next(&promotion, &broken, &[], at(1)),
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
                let step = next(&promotion, &ready(2), &[], at(ms));
                prop_assert_eq!(step == Step::Finish, ms >= i64::from(seconds) * 1000);
            }
        }
    }

    #[test]
    fn a_candidate_that_crashes_on_everything_goes_back_without_an_analysis() {
        for paused in [false, true] {
            let mut promotion = canary(100);
            promotion.status = PromotionStatus::RampingUp;
            promotion.ramp_started_at = Some(at(0));
            if paused {
                promotion.status = PromotionStatus::Paused;
                promotion.paused_at = Some(at(1000));
            }
            let mut stage = StageFigures::default();
            stage.current.requests = 180;
            stage.candidate.requests = 20;
            assert_eq!(
                next(&promotion, &ready(2), &[stage.clone()], at(2000)),
                Step::Wait
            );
            stage.candidate.errors = 20;
            let step = next(&promotion, &ready(2), &[stage], at(2000));
            assert!(
                matches!(&step, Step::Fail(reason) if reason.contains("20 of 20")),
                "{step:?}"
            );
        }
    }

    #[test]
    fn a_canary_that_is_simulated_goes_back_in_the_stage_in_which_the_candidate_begins_to_fail() {
        let settings = AnalysisSettings {
            max_error_rate: Some(0.05),
            max_p95_latency_ratio: None,
            min_requests: 50,
        };
        // 20 requests a second for 100 seconds; from some second on the candidate fails every other one.
        for breaks_at in (0..130).step_by(7) {
            let mut promotion = canary(100);
            promotion.settings.analysis = Some(settings);
            promotion.status = PromotionStatus::RampingUp;
            promotion.ramp_started_at = Some(at(0));
            let mut stages: Vec<StageFigures> = Vec::new();
            let mut split = Split::default();
            let (mut failed, mut ended) = (0, None);
            for request in 0..2500 {
                let ms = request * 50;
                let Some(stage) = promotion.stage(at(ms)) else {
                    break;
                };
                stages.resize(stage as usize + 1, StageFigures::default());
                let figures = &mut stages[stage as usize];
                match split.next(promotion.percent(at(ms))) {
                    Side::Current => figures.current.requests += 1,
                    Side::Candidate => {
                        figures.candidate.requests += 1;
                        if ms >= breaks_at * 1000 && figures.candidate.requests.is_multiple_of(2) {
                            figures.candidate.errors += 1;
                            failed += 1;
                        }
                    }
                }
                match next(&promotion, &ready(2), &stages, at(ms)) {
                    Step::Wait => {}
                    step => {
                        ended = Some((ms, step));
                        break;
                    }
                }
            }
            let (ms, step) = ended.unwrap();
            if breaks_at >= 100 {
                assert_eq!((ms, step), (100_000, Step::Finish));
                continue;
            }
            let Step::Fail(reason) = step else {
                panic!("{breaks_at} s: {step:?} after {ms} ms")
            };
            // Below a quarter of the traffic a stage has no 50 requests for the candidate: the analysis has no verdict yet,
            // but the comparison of both sides may have.
            let first = promotion.stage(at(breaks_at * 1000)).unwrap();
            let last = promotion.stage(at(breaks_at.max(20) * 1000)).unwrap() + 1;
            let stage = promotion.stage(at(ms)).unwrap();
            assert!(
                (first..=last).contains(&stage),
                "{breaks_at} s, {ms} ms: {reason}"
            );
            assert!(
                reason.contains(&format!("stage {} of 10", stage + 1)),
                "{reason}"
            );
            assert!(failed <= 60, "{failed} requests failed before it went back");
        }
    }
}
