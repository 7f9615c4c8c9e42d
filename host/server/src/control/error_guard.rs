//! Ends a canary whose candidate fails far more often than the current deployment, whatever its settings say: a pure
//! decision of what was counted.
//!
//! Errors are what [`crate::control::trial`] counts: traps, timeouts, failed starts, broken bodies, and answers of 500 or
//! more, also those that the guest chose itself. A guest's own 5xx counts because to its clients it is an outage like
//! any other, and because both sides are counted alike: where 5xx is a component's way to answer, both sides show it.

use samovar_types::promotion_settings::AnalysisSettings;

use crate::control::analysis::{Figures, StageFigures};
use crate::domain::promotion::STAGES;

/// Fewest answers of each side that are compared.
pub const MIN_REQUESTS: u64 = 10;
/// By how much the candidate's error rate must exceed the current deployment's, beyond what chance explains.
pub const MARGIN: f64 = 0.05;
/// Half the width of the intervals of both rates, in standard deviations. The figures are looked at many times during a
/// canary: at 4, sides that fail alike are told apart by mistake in fewer than one of a thousand canaries.
const CONFIDENCE: f64 = 4.0;

/// Why the candidate must go, if it must, for the stages that there have been.
///
/// Compared are each stage, with what the current deployment did in it or last before it, and all stages together, so
/// that a canary with little traffic has a verdict too. A side with fewer than [`MIN_REQUESTS`] answers has none. A rate
/// that the analysis settings allow (`max_error_rate`) is never a reason.
pub fn verdict(settings: Option<&AnalysisSettings>, stages: &[StageFigures]) -> Option<String> {
    let allowed = settings
        .and_then(|settings| settings.max_error_rate)
        .unwrap_or(0.0);
    let of_a_stage = (0..stages.len()).find_map(|stage| {
        let mut current = stages[..=stage].iter().rev().map(|stage| &stage.current);
        let current = current.find(|current| current.requests >= MIN_REQUESTS)?;
        let why = excess(allowed, &stages[stage].candidate, current)?;
        let (number, percent) = (stage + 1, (stage + 1) * 100 / STAGES as usize);
        Some(format!(
            "rolled back in stage {number} of {STAGES} ({percent} %): {why}"
        ))
    });
    of_a_stage.or_else(|| {
        let current = total(stages.iter().map(|stage| &stage.current));
        let candidate = total(stages.iter().map(|stage| &stage.candidate));
        let why = excess(allowed, &candidate, &current)?;
        let number = stages.len();
        Some(format!(
            "rolled back in stage {number} of {STAGES}: over all stages so far, {why}"
        ))
    })
}

fn total<'f>(figures: impl Iterator<Item = &'f Figures>) -> Figures {
    figures.fold(Figures::default(), |sum, one| Figures {
        requests: sum.requests + one.requests,
        errors: sum.errors + one.errors,
        ..sum
    })
}

/// What is wrong with the candidate's error rate, if it is surely too far above the current deployment's.
fn excess(allowed: f64, candidate: &Figures, current: &Figures) -> Option<String> {
    if candidate.requests < MIN_REQUESTS || current.requests < MIN_REQUESTS {
        return None;
    }
    let (at_least, _) = interval(candidate);
    let (_, at_most) = interval(current);
    if candidate.error_rate() <= allowed || at_least <= at_most + MARGIN {
        return None;
    }
    Some(format!(
        "the candidate failed {} of {} requests, the current deployment {} of {}: its error rate {:.4} is far above {:.4}",
        candidate.errors,
        candidate.requests,
        current.errors,
        current.requests,
        candidate.error_rate(),
        current.error_rate(),
    ))
}

/// The Wilson score interval of an error rate: where the true one lies, given what was counted.
#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn interval(figures: &Figures) -> (f64, f64) {
    let requests = figures.requests.max(1) as f64;
    let rate = figures.error_rate();
    let squared = CONFIDENCE * CONFIDENCE;
    let center = rate + squared / (2.0 * requests);
    let half = CONFIDENCE
        * (rate * (1.0 - rate) / requests + squared / (4.0 * requests * requests)).sqrt();
    let scale = 1.0 + squared / requests;
    ((center - half) / scale, (center + half) / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures(requests: u64, errors: u64) -> Figures {
        Figures {
            requests,
            errors,
            ..Figures::default()
        }
    }

    fn stage(current: Figures, candidate: Figures) -> StageFigures {
        StageFigures { current, candidate }
    }

    #[test]
    fn a_candidate_that_fails_every_request_goes_after_a_few() {
        let stages = [stage(figures(90, 0), figures(10, 10))];
        assert_eq!(
            verdict(None, &stages).unwrap(),
            "rolled back in stage 1 of 10 (10 %): the candidate failed 10 of 10 requests, the current deployment 0 of 90: its \
             error rate 1.0000 is far above 0.0000"
        );
        assert_eq!(verdict(None, &[stage(figures(90, 0), figures(9, 9))]), None);
        // Nothing to compare with.
        assert_eq!(
            verdict(None, &[stage(figures(0, 0), figures(1000, 1000))]),
            None
        );
    }

    #[test]
    fn few_requests_in_each_stage_are_judged_together() {
        let few: Vec<_> = (1..=6)
            .map(|tenths| stage(figures(10 - tenths, 0), figures(tenths, tenths)))
            .collect();
        let told = verdict(None, &few).unwrap();
        assert!(told.contains("over all stages so far"), "{told}");
        assert!(told.contains("21 of 21"), "{told}");
        assert_eq!(verdict(None, &few[..3]), None);
    }

    #[test]
    fn the_last_stage_is_compared_with_what_the_current_one_did_before() {
        let stages = [
            stage(figures(1000, 0), figures(1000, 0)),
            stage(figures(0, 0), figures(100, 50)),
        ];
        let told = verdict(None, &stages).unwrap();
        assert!(
            told.contains("stage 2 of 10") && told.contains("0 of 1000"),
            "{told}"
        );
    }

    #[test]
    fn an_allowed_error_rate_is_no_reason() {
        let settings = |max_error_rate| AnalysisSettings {
            max_error_rate,
            ..AnalysisSettings::default()
        };
        let stages = [stage(figures(900, 0), figures(100, 50))];
        assert_eq!(verdict(Some(&settings(Some(0.5))), &stages), None);
        assert!(verdict(Some(&settings(Some(0.49))), &stages).is_some());
        assert!(verdict(Some(&settings(None)), &stages).is_some());
    }

    proptest! {
        #[test]
        fn a_candidate_that_is_no_worse_never_goes(
            requests in 0u64..100_000, current in 0u64..100_000, rate in 0.0f64..=1.0
        ) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let side = |requests: u64| figures(requests, (requests as f64 * rate) as u64);
            prop_assert_eq!(verdict(None, &[stage(side(current), side(requests))]), None);
        }

        #[test]
        fn more_errors_never_save_a_candidate(
            requests in 10u64..5000, errors in 0u64..5000, more in 0u64..5000, current in 10u64..5000, failed in 0u64..5000
        ) {
            let current = figures(current, failed.min(current));
            let bad = figures(requests, errors.min(requests));
            let worse = figures(requests, (errors + more).min(requests));
            if verdict(None, &[stage(current.clone(), bad)]).is_some() {
                prop_assert!(verdict(None, &[stage(current, worse)]).is_some());
            }
        }

        #[test]
        fn an_interval_holds_the_rate_and_stays_in_range(requests in 1u64..1_000_000, errors in 0u64..1_000_000) {
            let figures = figures(requests, errors.min(requests));
            let (low, high) = interval(&figures);
            prop_assert!(low > -1e-9 && high < 1.0 + 1e-9);
            prop_assert!(low <= figures.error_rate() + 1e-9 && figures.error_rate() <= high + 1e-9);
        }
    }

    /// Sides that fail alike, looked at after every request of a whole canary.
    #[test]
    fn sides_drawn_from_one_lot_are_not_rolled_back() {
        for seed in 1..=300u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut draw = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let percent = draw() % 60;
            let mut stages: Vec<StageFigures> = Vec::new();
            for tenths in 1..=10 {
                stages.push(StageFigures::default());
                for request in 0..200u64 {
                    let one = stages.last_mut().expect("just pushed");
                    let side = match request % 10 < tenths {
                        true => &mut one.candidate,
                        false => &mut one.current,
                    };
                    side.requests += 1;
                    side.errors += u64::from(draw() % 100 < percent);
                    assert_eq!(verdict(None, &stages), None, "seed {seed}");
                }
            }
        }
    }
}
