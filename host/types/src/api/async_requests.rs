//! Requests that are answered later.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::reported::Reported;
use crate::async_request::{AsyncError, AsyncErrorCode, AsyncStatus, WebhookStatus};
use crate::id::Id;

/// A request that is handed in. The model gets its input byte by byte as it is here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitAsyncRequest {
    /// What the model gets.
    pub model_input: Box<RawValue>,
    /// Where the answer is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_endpoint: Option<String>,
    /// 0, 1 or 2; the lower one goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// How long it may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time_in_queue_seconds: Option<i64>,
    /// How often it is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_retry_config: Option<InferenceRetryUpdate>,
}

impl SubmitAsyncRequest {
    /// A request without a webhook, whose priority and patience are those by default.
    pub fn new(model_input: Box<RawValue>) -> Self {
        Self {
            model_input,
            webhook_endpoint: None,
            priority: None,
            max_time_in_queue_seconds: None,
            inference_retry_config: None,
        }
    }
}

/// How often and when an attempt is repeated; what is left out is as by default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceRetryUpdate {
    /// Attempts at most, the first one among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i64>,
    /// The wait before the second attempt; each later wait is twice as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_delay_ms: Option<i64>,
    /// The longest wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay_ms: Option<i64>,
}

/// What handing a request in answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmitAsyncResponse {
    /// Id of the request.
    pub request_id: String,
}

/// How many requests of a deployment wait and run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AsyncQueueStatusResponse {
    /// Its model.
    pub model_id: Id,
    /// The deployment.
    pub deployment_id: Id,
    /// Requests that wait.
    pub num_queued_requests: u64,
    /// Requests that run.
    pub num_in_progress_requests: u64,
}

/// How a request stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AsyncRequestResponse {
    /// Id of the request.
    pub request_id: String,
    /// The model it is for.
    pub model_id: Id,
    /// The deployment it is for.
    pub deployment_id: Id,
    /// State of the request.
    pub status: Reported<AsyncStatus>,
    /// Where its webhook stands.
    pub webhook_status: Reported<WebhookStatus>,
    /// How its webhook was sent; null without one.
    pub webhook: Option<WebhookDelivery>,
    /// When it was handed in.
    pub created_at: Timestamp,
    /// Since when it stands there.
    pub status_at: Timestamp,
    /// What went wrong, one for each failed attempt.
    pub errors: Vec<AsyncErrorResponse>,
}

/// What went wrong with an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AsyncErrorResponse {
    /// For programs.
    pub code: Reported<AsyncErrorCode>,
    /// For people.
    pub message: String,
}

impl From<AsyncError> for AsyncErrorResponse {
    fn from(AsyncError { code, message }: AsyncError) -> Self {
        Self {
            code: code.into(),
            message,
        }
    }
}

/// How a webhook was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookDelivery {
    /// How often.
    pub attempts: u32,
    /// Why it was not taken the last time, if it was not.
    pub last_error: Option<String>,
}

/// What cancelling a request did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelAsyncResponse {
    /// Id of the request.
    pub request_id: String,
    /// Whether it was canceled; only one that is QUEUED can be.
    pub canceled: bool,
    /// The same in words.
    pub message: String,
}
