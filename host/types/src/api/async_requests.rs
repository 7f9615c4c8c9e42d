//! Async requests.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::reported::Reported;
use crate::async_request::{AsyncError, AsyncErrorCode, AsyncStatus, WebhookStatus};
use crate::id::{DeploymentId, ModelId};

/// A new async request. The model receives `model_input` with exactly these bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitAsyncRequest {
    /// Request body for the model.
    pub model_input: Box<RawValue>,
    /// URL that the result is posted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_endpoint: Option<String>,
    /// 0, 1 or 2; lower numbers run first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// How long the request may wait in the queue, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time_in_queue_seconds: Option<i64>,
    /// How often and when an attempt is repeated.
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

/// How often and when an attempt is repeated; fields that are left out have their defaults.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceRetryUpdate {
    /// Maximum number of attempts, including the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i64>,
    /// Wait before the second attempt, in milliseconds; each later wait is twice as long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_delay_ms: Option<i64>,
    /// Longest wait between attempts, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay_ms: Option<i64>,
}

/// A submitted async request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmitAsyncResponse {
    /// Id of the request.
    pub request_id: String,
}

/// Counts of a deployment's async requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AsyncQueueStatusResponse {
    /// Id of the model.
    pub model_id: ModelId,
    /// Id of the deployment.
    pub deployment_id: DeploymentId,
    /// Number of waiting requests.
    pub num_queued_requests: u64,
    /// Number of running requests.
    pub num_in_progress_requests: u64,
}

/// Status of an async request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AsyncRequestResponse {
    /// Id of the request.
    pub request_id: String,
    /// Id of the model.
    pub model_id: ModelId,
    /// Id of the deployment.
    pub deployment_id: DeploymentId,
    /// State of the request.
    pub status: Reported<AsyncStatus>,
    /// State of the request's webhook.
    pub webhook_status: Reported<WebhookStatus>,
    /// Delivery of the webhook; null if there is no webhook or no attempt yet.
    pub webhook: Option<WebhookDelivery>,
    /// When the request was submitted.
    pub created_at: Timestamp,
    /// When the status last changed.
    pub status_at: Timestamp,
    /// One error for each failed attempt.
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

/// Delivery of a webhook.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WebhookDelivery {
    /// Number of attempts.
    pub attempts: u32,
    /// Error of the last attempt, if it failed.
    pub last_error: Option<String>,
}

/// Result of canceling an async request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelAsyncResponse {
    /// Id of the request.
    pub request_id: String,
    /// Whether the request was canceled; only a QUEUED request can be.
    pub canceled: bool,
    /// Description of the result.
    pub message: String,
}
