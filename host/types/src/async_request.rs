//! Async requests: their ids, states, errors and settings.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest body of `async_predict`, in bytes.
pub const MAX_SUBMISSION_BYTES: usize = 256 << 10;
/// Allowed values of `priority`; lower numbers run first.
pub const PRIORITY: RangeInclusive<i64> = 0..=2;
/// Allowed values of `max_time_in_queue_seconds`, up to three days.
pub const TIME_IN_QUEUE_SECONDS: RangeInclusive<i64> = 10..=259_200;
/// Allowed values of `inference_retry_config.max_attempts`.
pub const MAX_ATTEMPTS: RangeInclusive<i64> = 1..=10;
/// Allowed values of `inference_retry_config.initial_delay_ms`.
pub const INITIAL_DELAY_MS: RangeInclusive<i64> = 0..=10_000;
/// Allowed values of `inference_retry_config.max_delay_ms`.
pub const MAX_DELAY_MS: RangeInclusive<i64> = 0..=60_000;
/// Longest stored text of one error, in bytes; the rest is cut off.
pub const MAX_ERROR_BYTES: usize = 1024;

/// Id of an async request: 32 hex digits, the request id of the call that submitted it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsyncRequestId(String);

/// Text that is not the id of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not the id of an async request: wanted 32 hex digits")]
pub struct InvalidAsyncRequestId {
    found: String,
}

impl AsyncRequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AsyncRequestId {
    type Err = InvalidAsyncRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidAsyncRequestId> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 32 && text.bytes().all(digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidAsyncRequestId {
            found: text.chars().take(64).collect(),
        })
    }
}

impl fmt::Display for AsyncRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Defines an enum whose values have names in the API and in the store.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$value_doc])* #[serde(rename = $text)] $value,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            /// Name of the value in the API and in the store.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }

            /// The value with this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == name)
            }
        }
    };
}

named! {
    /// Status of an async request.
    AsyncStatus {
        /// The request waits for its first or its next attempt.
        Queued = "QUEUED",
        /// The model processes it.
        InProgress = "IN_PROGRESS",
        /// The model has answered it.
        Succeeded = "SUCCEEDED",
        /// All attempts failed, or the error allows no further one.
        Failed = "FAILED",
        /// It waited longer than `max_time_in_queue_seconds`.
        Expired = "EXPIRED",
        /// The client canceled it.
        Canceled = "CANCELED",
        /// The model has answered it, but the webhook was not delivered.
        WebhookFailed = "WEBHOOK_FAILED",
    }
}

named! {
    /// State of a request's webhook.
    WebhookStatus {
        /// The webhook is sent when the request is done.
        Pending = "PENDING",
        /// The receiver accepted it.
        Succeeded = "SUCCEEDED",
        /// It was not delivered.
        Failed = "FAILED",
        /// It is not sent, because the request was canceled.
        Canceled = "CANCELED",
        /// The request has no webhook.
        NoWebhookProvided = "NO_WEBHOOK_PROVIDED",
    }
}

named! {
    /// Kind of an error of an async request.
    AsyncErrorCode {
        /// No replica of the model started.
        ModelNotReady = "MODEL_NOT_READY",
        /// The deployment was deleted or deactivated.
        ModelDoesNotExist = "MODEL_DOES_NOT_EXIST",
        /// The model refused the input with a client error.
        ModelInvalidInput = "MODEL_INVALID_INPUT",
        /// The model failed.
        ModelPredictError = "MODEL_PREDICT_ERROR",
        /// The model is not available now.
        ModelUnavailable = "MODEL_UNAVAILABLE",
        /// The model did not respond in time.
        ModelPredictTimeout = "MODEL_PREDICT_TIMEOUT",
        /// The server failed.
        InternalServerError = "INTERNAL_SERVER_ERROR",
        /// The model cannot be called with `POST /predict`.
        AsyncRequestNotSupported = "ASYNC_REQUEST_NOT_SUPPORTED",
    }
}

impl AsyncErrorCode {
    /// Whether another attempt can succeed.
    pub fn is_retried(self) -> bool {
        match self {
            Self::ModelNotReady
            | Self::ModelPredictError
            | Self::ModelUnavailable
            | Self::ModelPredictTimeout
            | Self::InternalServerError => true,
            Self::ModelDoesNotExist | Self::ModelInvalidInput | Self::AsyncRequestNotSupported => {
                false
            }
        }
    }

    /// The error that a status of the model's response means; `None` for success.
    pub fn of_answer(status: u16) -> Option<Self> {
        match status {
            200..=299 => None,
            // Not there, another method wanted, not implemented: it has no `POST /predict`.
            404 | 405 | 501 => Some(Self::AsyncRequestNotSupported),
            408 | 504 => Some(Self::ModelPredictTimeout),
            429 | 503 => Some(Self::ModelUnavailable),
            400..=499 => Some(Self::ModelInvalidInput),
            _ => Some(Self::ModelPredictError),
        }
    }
}

impl AsyncStatus {
    /// The status after the webhook was delivered or not. An undelivered webhook changes only a success, because the reason of a failure
    /// is more important than the webhook.
    #[must_use]
    pub fn after_webhook(self, webhook: WebhookStatus) -> Self {
        match (self, webhook) {
            (Self::Succeeded, WebhookStatus::Failed) => Self::WebhookFailed,
            _ => self,
        }
    }
}

/// Error of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsyncError {
    /// Kind of the error, for programs.
    pub code: AsyncErrorCode,
    /// Message for people.
    pub message: String,
}

impl AsyncError {
    /// An error whose text is cut to [`MAX_ERROR_BYTES`].
    pub fn new(code: AsyncErrorCode, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: shortened(message),
        }
    }
}

/// Cuts a text to [`MAX_ERROR_BYTES`].
pub fn shortened(text: impl fmt::Display) -> String {
    let mut text = text.to_string();
    if text.len() > MAX_ERROR_BYTES {
        text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// How often and when an attempt is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferenceRetryConfig {
    /// Maximum number of attempts, including the first one.
    pub max_attempts: u32,
    /// Wait before the second attempt, in milliseconds; each later wait is twice as long.
    pub initial_delay_ms: u32,
    /// Longest wait between attempts, in milliseconds.
    pub max_delay_ms: u32,
}

impl Default for InferenceRetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_delay_ms: 1000,
            max_delay_ms: 5000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_the_api() {
        let names: Vec<_> = AsyncStatus::ALL.iter().map(|one| one.as_str()).collect();
        assert_eq!(
            names.join(" "),
            "QUEUED IN_PROGRESS SUCCEEDED FAILED EXPIRED CANCELED WEBHOOK_FAILED"
        );
        for status in AsyncStatus::ALL {
            assert_eq!(AsyncStatus::named(status.as_str()), Some(*status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(WebhookStatus::named("QUEUED"), None);
    }

    #[test]
    fn answers_say_what_they_mean() {
        use AsyncErrorCode as Code;
        for (status, code) in [
            (200, None),
            (202, None),
            (302, Some(Code::ModelPredictError)),
            (400, Some(Code::ModelInvalidInput)),
            (404, Some(Code::AsyncRequestNotSupported)),
            (422, Some(Code::ModelInvalidInput)),
            (429, Some(Code::ModelUnavailable)),
            (500, Some(Code::ModelPredictError)),
            (503, Some(Code::ModelUnavailable)),
        ] {
            assert_eq!(Code::of_answer(status), code, "{status}");
        }
    }

    #[test]
    fn a_lost_webhook_does_not_hide_a_failure() {
        use AsyncStatus::{Failed, Succeeded, WebhookFailed};
        let lost = |status: AsyncStatus| status.after_webhook(WebhookStatus::Failed);
        assert_eq!((lost(Succeeded), lost(Failed)), (WebhookFailed, Failed));
        assert_eq!(Succeeded.after_webhook(WebhookStatus::Succeeded), Succeeded);
    }

    proptest! {
        #[test]
        fn errors_are_cut_between_characters(text in "\\PC{0,600}é{0,600}") {
            let error = AsyncError::new(AsyncErrorCode::ModelPredictError, &text);
            prop_assert!(error.message.len() <= MAX_ERROR_BYTES);
            prop_assert_eq!(text.len() <= MAX_ERROR_BYTES, error.message == text);
        }

        #[test]
        fn ids_are_hex(text in "\\PC{0,40}|[0-9a-f]{30,34}") {
            let valid = text.len() == 32 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
            prop_assert_eq!(text.parse::<AsyncRequestId>().is_ok(), valid);
        }
    }
}
