//! What follows a failed attempt of an async request: when it is tried again, or that it has failed.

use std::time::Duration;

use samovar_types::async_request::{AsyncErrorCode, InferenceRetryConfig};

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Another one, after this wait.
    RetryAfter(Duration),
    /// Nothing: the request has failed.
    Fail,
}

/// The wait after the failure of an attempt; the first attempt is number 1.
pub fn retry_delay(attempt: u32, config: InferenceRetryConfig) -> Duration {
    let doublings = attempt.saturating_sub(1).min(32);
    let delay_ms = u64::from(config.initial_delay_ms) << doublings;
    Duration::from_millis(delay_ms.min(config.max_delay_ms.into()))
}

/// What follows when an attempt failed; the first attempt is number 1.
pub fn next_step(attempt: u32, code: AsyncErrorCode, config: InferenceRetryConfig) -> NextStep {
    if code.is_retried() && attempt < config.max_attempts {
        NextStep::RetryAfter(retry_delay(attempt, config))
    } else {
        NextStep::Fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_go_better_is_not_repeated() {
        let config = InferenceRetryConfig::default();
        let retried: Vec<_> = AsyncErrorCode::ALL
            .iter()
            .filter(|code| next_step(1, **code, config) != NextStep::Fail)
            .map(|code| code.as_str())
            .collect();
        assert_eq!(
            retried.join(" "),
            "MODEL_NOT_READY MODEL_PREDICT_ERROR MODEL_UNAVAILABLE MODEL_PREDICT_TIMEOUT INTERNAL_SERVER_ERROR"
        );
    }

    #[test]
    fn attempts_are_repeated_ever_later_and_then_given_up() {
        let steps: Vec<_> = (1..=5)
            .map(|attempt| {
                let config = InferenceRetryConfig {
                    max_attempts: 5,
                    initial_delay_ms: 1000,
                    max_delay_ms: 5000,
                };
                next_step(attempt, AsyncErrorCode::ModelPredictError, config)
            })
            .collect();
        let after = |seconds| NextStep::RetryAfter(Duration::from_secs(seconds));
        assert_eq!(
            steps,
            [after(1), after(2), after(4), after(5), NextStep::Fail]
        );
    }

    proptest! {
        #[test]
        fn waits_never_shrink_and_have_an_end(initial in 0..=10_000u32, max in 0..=60_000u32, attempt in 1..u32::MAX) {
            let config = InferenceRetryConfig { max_attempts: 10, initial_delay_ms: initial, max_delay_ms: max };
            let delay = retry_delay(attempt, config);
            prop_assert!(delay <= retry_delay(attempt + 1, config));
            prop_assert!(delay <= Duration::from_millis(max.into()));
        }
    }
}
