//! What may be asked of an async request: the body of `async_predict`, its ranges and defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use samovar_store::async_requests::{Submission, Webhook};
use samovar_types::api::async_requests::{InferenceRetryUpdate, SubmitAsyncRequest};
use samovar_types::async_request::{
    INITIAL_DELAY_MS, InferenceRetryConfig, MAX_ATTEMPTS, MAX_DELAY_MS, PRIORITY,
    TIME_IN_QUEUE_SECONDS,
};
use samovar_types::settings::InvalidSetting;

use super::webhook_address::{WebhookAddresses, receiver};

const DEFAULT_TIME_IN_QUEUE_SECONDS: i64 = 600;

/// Why a body was refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSubmission {
    /// It is no such document.
    #[error("the body of async_predict: {0}")]
    Json(#[from] serde_json::Error),
    /// A field of it is outside its range.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
}

/// Reads the body of `async_predict`.
///
/// # Errors
/// When it is no JSON, has an unknown key, a value outside its range, or a webhook that may not be sent.
pub fn parse_submission(
    body: &[u8],
    webhooks: &WebhookAddresses,
) -> Result<Submission, InvalidSubmission> {
    let given: SubmitAsyncRequest = serde_json::from_slice(body)?;
    if let Some(endpoint) = &given.webhook_endpoint {
        webhooks.check_endpoint(endpoint)?;
    }
    let seconds = given
        .max_time_in_queue_seconds
        .unwrap_or(DEFAULT_TIME_IN_QUEUE_SECONDS);
    let seconds = ranged("max_time_in_queue_seconds", seconds, TIME_IN_QUEUE_SECONDS)?;
    let priority = ranged("priority", given.priority.unwrap_or(0), PRIORITY)?;
    let model_input: Box<str> = given.model_input.into();
    Ok(Submission {
        model_input: Bytes::from(model_input.into_string()),
        webhook: given.webhook_endpoint.map(|endpoint| Webhook {
            receiver: receiver(&endpoint),
            endpoint,
        }),
        priority: u8::try_from(priority).unwrap_or(u8::MAX),
        max_time_in_queue: Duration::from_secs(seconds.into()),
        retry: retry(&given.inference_retry_config.unwrap_or_default())?,
    })
}

fn retry(given: &InferenceRetryUpdate) -> Result<InferenceRetryConfig, InvalidSetting> {
    let default = InferenceRetryConfig::default();
    let field = |name: &str, found: Option<i64>, range, default: u32| {
        let name = format!("inference_retry_config.{name}");
        ranged(&name, found.unwrap_or(default.into()), range)
    };
    Ok(InferenceRetryConfig {
        max_attempts: field(
            "max_attempts",
            given.max_attempts,
            MAX_ATTEMPTS,
            default.max_attempts,
        )?,
        initial_delay_ms: field(
            "initial_delay_ms",
            given.initial_delay_ms,
            INITIAL_DELAY_MS,
            default.initial_delay_ms,
        )?,
        max_delay_ms: field(
            "max_delay_ms",
            given.max_delay_ms,
            MAX_DELAY_MS,
            default.max_delay_ms,
        )?,
    })
}

fn ranged(field: &str, found: i64, range: RangeInclusive<i64>) -> Result<u32, InvalidSetting> {
    let wanted = format!("{} to {}", range.start(), range.end());
    match u32::try_from(found) {
        Ok(number) if range.contains(&found) => Ok(number),
        _ => Err(InvalidSetting::new(field, found, wanted)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &[u8]) -> Result<Submission, InvalidSubmission> {
        parse_submission(body, &WebhookAddresses::default())
    }

    fn refused(body: &str) -> String {
        parse(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_input_alone_is_enough_and_stays_as_it_was_sent() {
        let body = br#"{"model_input": {"b": 1.50, "a": 12345678901234567890123} }"#;
        let submission = parse(body).unwrap();
        assert_eq!(
            submission,
            Submission {
                model_input: Bytes::from_static(br#"{"b": 1.50, "a": 12345678901234567890123}"#),
                webhook: None,
                priority: 0,
                max_time_in_queue: Duration::from_secs(600),
                retry: InferenceRetryConfig::default(),
            }
        );
        let null = parse(br#"{"model_input": null}"#).unwrap();
        assert_eq!(&null.model_input[..], b"null");
    }

    #[test]
    fn everything_may_be_chosen_within_its_range() {
        let body = br#"{"model_input": 1, "webhook_endpoint": "https://example.com/hook?a=b", "priority": 2,
            "max_time_in_queue_seconds": 259200, "inference_retry_config": {"max_attempts": 10, "max_delay_ms": 0}}"#;
        let submission = parse(body).unwrap();
        assert_eq!(
            (submission.priority, submission.max_time_in_queue.as_secs()),
            (2, 259_200)
        );
        let webhook = Webhook {
            endpoint: "https://example.com/hook?a=b".into(),
            receiver: "https://example.com".into(),
        };
        assert_eq!(submission.webhook, Some(webhook));
        let retry = submission.retry;
        assert_eq!(
            (
                retry.max_attempts,
                retry.initial_delay_ms,
                retry.max_delay_ms
            ),
            (10, 1000, 0)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused("{}").contains("model_input"));
        assert!(refused("[").contains("async_predict"));
        assert!(refused(r#"{"model_input": 1, "prioritet": 1}"#).contains("prioritet"));
        assert!(
            refused(r#"{"model_input": 1, "inference_retry_config": {"attempts": 1}}"#)
                .contains("attempts")
        );
        for (field, value, wanted) in [
            ("priority", "3", "priority: found 3, wanted 0 to 2"),
            ("priority", "-1", "priority: found -1, wanted 0 to 2"),
            (
                "max_time_in_queue_seconds",
                "9",
                "max_time_in_queue_seconds: found 9, wanted 10 to 259200",
            ),
            (
                "inference_retry_config",
                r#"{"max_attempts": 0}"#,
                "inference_retry_config.max_attempts: found 0, wanted 1 to 10",
            ),
        ] {
            assert_eq!(
                refused(&format!(r#"{{"model_input": 1, "{field}": {value}}}"#)),
                wanted
            );
        }
    }

    proptest! {
        #[test]
        fn any_body_is_answered(body in "\\PC{0,200}") {
            let _ = parse(body.as_bytes());
        }
    }
}
