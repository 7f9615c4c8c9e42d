//! Whether a candidate holds what it has to, stage by stage: a pure decision of what was counted.

use std::time::Duration;

use samovar_types::promotion_settings::AnalysisSettings;

use crate::control::latency::Latencies;
use crate::domain::promotion::STAGES;

/// Standard deviations that a candidate's errors may be above what the current deployment's rate would give.
const ERROR_NOISE: f64 = 3.0;
/// Standard deviations by which the rank of a latency may be off.
const LATENCY_NOISE: f64 = 2.0;
const P95: f64 = 0.95;

/// What one side did in one stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests that were answered, well or not.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// The time from their arrival to the heads of their answers, or until their clients hung up.
    pub latencies: Latencies,
}

impl Figures {
    /// The share of requests that failed.
    #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
    pub fn error_rate(&self) -> f64 {
        self.errors as f64 / self.requests.max(1) as f64
    }

    /// The latency that 95 of 100 requests keep below; nothing without requests.
    pub fn p95(&self) -> Option<Duration> {
        self.latencies.quantile(P95).map(|(low, _)| low)
    }
}

/// What both sides did in one stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageFigures {
    /// The deployment that is there.
    pub current: Figures,
    /// The one that is moving in.
    pub candidate: Figures,
}

/// Why the candidate must go, if it must, for the stages that there have been. The sentence names the stage, what was
/// found, what was wanted, and of how many requests.
///
/// Errors: more than the settings allow, and so many that the current deployment's own rate does not explain them: when
/// both sides fail alike, because something that both need is down, going back helps nobody. Latency: also that of a
/// rank that is low enough to be the p95 in spite of chance is beyond the ratio. A stage in which the candidate has not
/// answered `min_requests` has no verdict.
pub fn verdict(settings: &AnalysisSettings, stages: &[StageFigures]) -> Option<String> {
    let least = u64::from(settings.min_requests);
    (0..stages.len()).find_map(|stage| {
        let candidate = &stages[stage].candidate;
        // The last stage has no requests for the current deployment: what it did in the one before holds.
        let current = || stages[..=stage].iter().rev().map(|stage| &stage.current);
        let answered = current().find(|current| current.requests >= least);
        let timed = current().find(|current| current.latencies.count() >= least);
        let of_errors = (candidate.requests >= least)
            .then(|| errors(settings.max_error_rate?, candidate, answered))
            .flatten();
        let of_latency = || {
            let ratio = settings.max_p95_latency_ratio?;
            (candidate.latencies.count() >= least)
                .then(|| latency(ratio, candidate, timed?))
                .flatten()
        };
        let why = of_errors.or_else(of_latency)?;
        let (number, percent) = (stage + 1, (stage + 1) * 100 / STAGES as usize);
        Some(format!(
            "rolled back in stage {number} of {STAGES} ({percent} %): {why}"
        ))
    })
}

fn errors(max_rate: f64, candidate: &Figures, current: Option<&Figures>) -> Option<String> {
    let rate = candidate.error_rate();
    let explained = current.map_or(0.0, |current| explained_rate(candidate, current));
    if rate <= max_rate.max(explained) {
        return None;
    }
    let beside = match current {
        Some(current) => format!(
            "the current deployment failed {} of {}",
            current.errors, current.requests
        ),
        None => "the current deployment had too few to compare with".to_owned(),
    };
    Some(format!(
        "the candidate failed {} of {} requests, error rate {rate:.4}, wanted at most {max_rate} (max_error_rate); {beside}",
        candidate.errors, candidate.requests,
    ))
}

/// The rate that the candidate may show by chance if it fails as often as the current deployment.
#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn explained_rate(candidate: &Figures, current: &Figures) -> f64 {
    let rate = current.error_rate();
    let samples = 1.0 / candidate.requests.max(1) as f64 + 1.0 / current.requests.max(1) as f64;
    rate + ERROR_NOISE * (rate * (1.0 - rate) * samples).sqrt()
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn latency(max_ratio: f64, candidate: &Figures, current: &Figures) -> Option<String> {
    let counts = (candidate.latencies.count(), current.latencies.count());
    let samples = 1.0 / counts.0.max(1) as f64 + 1.0 / counts.1.max(1) as f64;
    let rank = P95 - LATENCY_NOISE * (P95 * (1.0 - P95) * samples).sqrt();
    let (surely, _) = candidate.latencies.quantile(rank.max(0.5))?;
    let (_, wanted) = current.latencies.quantile(P95)?;
    if surely <= wanted.mul_f64(max_ratio) {
        return None;
    }
    let ms = |latency: Option<Duration>| latency.unwrap_or_default().as_secs_f64() * 1e3;
    let (found, compared) = (ms(candidate.p95()), ms(current.p95()));
    Some(format!(
        "the candidate's p95 latency is {found:.1} ms over {} requests, {:.1} times the {compared:.1} ms of the current deployment over {}, \
         wanted at most {max_ratio} times (max_p95_latency_ratio)",
        counts.0,
        found / compared.max(0.001),
        counts.1,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(rate: Option<f64>, ratio: Option<f64>, min_requests: u32) -> AnalysisSettings {
        AnalysisSettings {
            max_error_rate: rate,
            max_p95_latency_ratio: ratio,
            min_requests,
        }
    }

    fn figures(requests: u64, errors: u64, ms: u64) -> Figures {
        let latency = Duration::from_millis(ms);
        Figures {
            requests,
            errors,
            latencies: (0..requests).map(|_| latency).collect(),
        }
    }

    fn stage(current: Figures, candidate: Figures) -> StageFigures {
        StageFigures { current, candidate }
    }

    #[test]
    fn a_candidate_that_fails_is_told_with_everything_that_was_measured() {
        let settings = settings(Some(0.05), Some(2.0), 20);
        let good = stage(figures(180, 0, 10), figures(20, 0, 10));
        let bad = stage(figures(160, 1, 10), figures(40, 10, 10));
        assert_eq!(verdict(&settings, std::slice::from_ref(&good)), None);
        let told = verdict(&settings, &[good.clone(), bad]).unwrap();
        assert_eq!(
            told,
            "rolled back in stage 2 of 10 (20 %): the candidate failed 10 of 40 requests, error rate 0.2500, wanted at most 0.05 \
             (max_error_rate); the current deployment failed 1 of 160"
        );
        let slow = stage(figures(160, 0, 10), figures(40, 0, 35));
        let told = verdict(&settings, &[good, slow]).unwrap();
        for part in [
            "stage 2 of 10",
            "ms over 40 requests",
            "3.5 times",
            "over 160",
            "at most 2 times",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn nothing_is_said_before_there_are_enough_requests() {
        let settings = settings(Some(0.0), Some(1.0), 100);
        let early = stage(figures(900, 0, 1), figures(99, 99, 1000));
        assert_eq!(verdict(&settings, &[early]), None);
        let there = stage(figures(900, 0, 1), figures(100, 100, 1000));
        assert!(verdict(&settings, &[there]).is_some());
    }

    #[test]
    fn the_last_stage_is_compared_with_what_the_current_one_did_before() {
        let settings = settings(Some(0.1), Some(2.0), 10);
        let before = stage(figures(50, 0, 10), figures(50, 0, 10));
        let slow = stage(figures(0, 0, 0), figures(100, 0, 100));
        let told = verdict(&settings, &[before, slow]).unwrap();
        assert!(
            told.contains("stage 2 of 10") && told.contains("over 50"),
            "{told}"
        );
        // Alone, its latency has nothing to be compared with; its errors have the settings.
        let alone = stage(Figures::default(), figures(100, 0, 100));
        assert_eq!(verdict(&settings, &[alone]), None);
        let failing = stage(Figures::default(), figures(100, 11, 100));
        let told = verdict(&settings, &[failing]).unwrap();
        assert!(told.contains("too few to compare with"), "{told}");
    }

    #[test]
    fn an_outage_of_both_is_not_the_candidates_fault() {
        let settings = settings(Some(0.01), None, 50);
        let outage = stage(figures(450, 250, 10), figures(50, 32, 10));
        assert_eq!(verdict(&settings, &[outage]), None);
        let worse = stage(figures(450, 90, 10), figures(50, 32, 10));
        assert!(verdict(&settings, &[worse]).is_some());
    }

    proptest! {
        #[test]
        fn sides_that_do_the_same_are_never_rolled_back(
            us in prop::collection::vec(0u64..10_000_000, 1..300), errors in 0usize..300,
            rate in 0.0f64..=1.0, ratio in 1.0f64..=10.0, least in 1u32..100, stages in 1usize..=10
        ) {
            let side = Figures {
                requests: us.len() as u64,
                errors: errors.min(us.len()) as u64,
                latencies: us.iter().copied().map(Duration::from_micros).collect(),
            };
            let both = stage(side.clone(), side);
            let settings = settings(Some(rate), Some(ratio), least);
            prop_assert_eq!(verdict(&settings, &vec![both; stages]), None);
        }

        #[test]
        fn errors_within_the_allowed_rate_are_never_a_reason(
            requests in 1u64..10_000, errors in 0u64..10_000, current in 0u64..10_000, failed in 0u64..10_000
        ) {
            let candidate = Figures { requests, errors: errors.min(requests), ..Figures::default() };
            let current = Figures { requests: current, errors: failed.min(current), ..Figures::default() };
            let settings = settings(Some(candidate.error_rate()), None, 1);
            prop_assert_eq!(verdict(&settings, &[stage(current, candidate)]), None);
        }

        #[test]
        fn a_candidate_that_clearly_fails_goes_as_soon_as_there_are_enough(
            least in 1u32..2000, more in 0u64..2000, rate in 0.0f64..0.9, current in 0u64..20_000, before in 0usize..9
        ) {
            let requests = u64::from(least) + more;
            let good = stage(figures(10, 0, 1), figures(1, 0, 1));
            let mut stages = vec![good; before];
            // The current one fails seldom, the candidate nearly always.
            let current = Figures { requests: current, errors: current / 100, ..Figures::default() };
            let candidate = Figures { requests, errors: requests - requests / 20, ..Figures::default() };
            stages.push(stage(current, candidate));
            let settings = settings(Some(rate), None, least);
            prop_assert!(verdict(&settings, &stages).is_some());
        }

        #[test]
        fn a_candidate_that_is_clearly_slower_goes_as_soon_as_there_are_enough(
            least in 1u64..200, more in 0u64..200, current in 1u64..200, ratio in 1.0f64..=20.0, ms in 1u64..50
        ) {
            let current = figures(least + current, 0, ms);
            let slow = figures(least + more, 0, ms * 23);
            let settings = settings(None, Some(ratio), u32::try_from(least).unwrap());
            prop_assert!(verdict(&settings, &[stage(current, slow)]).is_some());
        }
    }

    #[test]
    fn sides_drawn_from_one_lot_are_not_rolled_back() {
        let settings = settings(Some(0.12), Some(2.0), 100);
        for seed in 1..=200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut draw = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            // 2 % of errors, and latencies of which some are a thousand times as long as others.
            let mut side = |requests: u64| Figures {
                requests,
                errors: (0..requests)
                    .map(|_| u64::from(draw().is_multiple_of(50)))
                    .sum(),
                latencies: (0..requests)
                    .map(|_| {
                        Duration::from_micros(
                            (500 + draw() % 1000) << draw().trailing_zeros().min(10),
                        )
                    })
                    .collect(),
            };
            let stages: Vec<_> = (1..10)
                .map(|tenths| stage(side(1000 - tenths * 100), side(tenths * 100)))
                .collect();
            assert_eq!(verdict(&settings, &stages), None, "seed {seed}");
        }
    }
}
