//! A request that is answered later: where it stands, what may go wrong with it, and what may be asked of it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest body of `async_predict`.
pub const MAX_SUBMISSION_BYTES: usize = 256 << 10;
/// What `priority` may be; the lower one goes first.
pub const PRIORITY: RangeInclusive<i64> = 0..=2;
/// What `max_time_in_queue_seconds` may be: up to three days.
pub const TIME_IN_QUEUE_SECONDS: RangeInclusive<i64> = 10..=259_200;
/// What `inference_retry_config.max_attempts` may be.
pub const MAX_ATTEMPTS: RangeInclusive<i64> = 1..=10;
/// What `inference_retry_config.initial_delay_ms` may be.
pub const INITIAL_DELAY_MS: RangeInclusive<i64> = 0..=10_000;
/// What `inference_retry_config.max_delay_ms` may be.
pub const MAX_DELAY_MS: RangeInclusive<i64> = 0..=60_000;
/// Longest text of one error of a request; the rest is cut off.
pub const MAX_ERROR_BYTES: usize = 1024;

/// The id of a request: 32 hex digits, those of the call that handed it in.
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

/// Makes an enum whose values have names that the API and the store use.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$value_doc])* #[serde(rename = $text)] $value,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            /// Its name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }

            /// The value of a name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == name)
            }
        }
    };
}

named! {
    /// Where a request stands.
    AsyncStatus {
        /// It waits for its first or its next attempt.
        Queued = "QUEUED",
        /// The model works on it.
        InProgress = "IN_PROGRESS",
        /// The model answered it.
        Succeeded = "SUCCEEDED",
        /// It was given up.
        Failed = "FAILED",
        /// It waited for longer than it was to.
        Expired = "EXPIRED",
        /// Its sender took it back.
        Canceled = "CANCELED",
        /// The model answered it, but the webhook was not delivered.
        WebhookFailed = "WEBHOOK_FAILED",
    }
}

named! {
    /// Where the webhook of a request stands.
    WebhookStatus {
        /// It is sent when the request is done.
        Pending = "PENDING",
        /// It was taken.
        Succeeded = "SUCCEEDED",
        /// It was not taken.
        Failed = "FAILED",
        /// It is not sent, because the request was cancelled.
        Canceled = "CANCELED",
        /// None was asked for.
        NoWebhookProvided = "NO_WEBHOOK_PROVIDED",
    }
}

named! {
    /// What went wrong with a request.
    AsyncErrorCode {
        /// No replica of the model would start.
        ModelNotReady = "MODEL_NOT_READY",
        /// The deployment is gone or switched off.
        ModelDoesNotExist = "MODEL_DOES_NOT_EXIST",
        /// The model refused the input.
        ModelInvalidInput = "MODEL_INVALID_INPUT",
        /// The model failed.
        ModelPredictError = "MODEL_PREDICT_ERROR",
        /// The model takes no requests now.
        ModelUnavailable = "MODEL_UNAVAILABLE",
        /// The model did not answer in time.
        ModelPredictTimeout = "MODEL_PREDICT_TIMEOUT",
        /// The platform failed.
        InternalServerError = "INTERNAL_SERVER_ERROR",
        /// The model cannot be called this way.
        AsyncRequestNotSupported = "ASYNC_REQUEST_NOT_SUPPORTED",
    }
}

impl AsyncErrorCode {
    /// Whether another attempt may go better.
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

    /// What an answer of the model with this status means; `None` for success.
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
    /// What it is after its webhook was delivered or not. Only a success is overwritten: why a request failed is worth
    /// more than that nobody was told.
    #[must_use]
    pub fn after_webhook(self, webhook: WebhookStatus) -> Self {
        match (self, webhook) {
            (Self::Succeeded, WebhookStatus::Failed) => Self::WebhookFailed,
            _ => self,
        }
    }
}

/// What went wrong in one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsyncError {
    /// For programs.
    pub code: AsyncErrorCode,
    /// For people.
    pub message: String,
}

impl AsyncError {
    /// An error with as much of the text as is kept.
    pub fn new(code: AsyncErrorCode, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: shortened(message),
        }
    }
}

/// As much of a text as is kept of an error.
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
    /// Attempts at most, the first one among them.
    pub max_attempts: u32,
    /// The wait before the second attempt; each later wait is twice as long.
    pub initial_delay_ms: u32,
    /// The longest wait.
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
