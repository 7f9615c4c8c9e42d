//! The trait of the queue of async requests.
//!
//! An accepted request is on disk and is processed at least once. A worker holds a claim, which expires; a claim that
//! another worker has taken over can no longer change the request.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use samovar_types::async_request::{
    AsyncError, AsyncRequestId, AsyncStatus, InferenceRetryConfig, WebhookStatus,
};
use samovar_types::id::{DeploymentId, ModelId};

use crate::StoreError;

/// The most requests that one call claims.
pub(crate) const MAX_CLAIMS: usize = 64;

/// A request to be accepted.
#[derive(Debug, Clone)]
pub struct NewAsyncRequest {
    pub id: AsyncRequestId,
    pub model_id: ModelId,
    /// Fixed when the request is accepted: a later promotion does not move it.
    pub deployment_id: DeploymentId,
    pub created_at: Timestamp,
    pub submission: Submission,
}

/// What the caller asked for, checked against its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The JSON for the model, byte for byte as it was sent.
    pub model_input: Bytes,
    pub webhook: Option<Webhook>,
    /// The lower one goes first.
    pub priority: u8,
    pub max_time_in_queue: Duration,
    pub retry: InferenceRetryConfig,
}

/// Where the result is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub endpoint: String,
    /// Scheme, host and port. Webhooks to one receiver are sent in turn.
    pub receiver: String,
}

/// An accepted request, as its caller may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncRequest {
    pub id: AsyncRequestId,
    pub model_id: ModelId,
    pub deployment_id: DeploymentId,
    pub status: AsyncStatus,
    pub webhook_status: WebhookStatus,
    /// `None` without a webhook.
    pub webhook: Option<WebhookAttempts>,
    pub created_at: Timestamp,
    /// When it got its status.
    pub status_at: Timestamp,
    /// One for each failed attempt.
    pub errors: Vec<AsyncError>,
}

/// The deliveries of a webhook so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookAttempts {
    pub attempts: u32,
    /// Why the last one failed, if it did.
    pub last_error: Option<String>,
}

/// What the model answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncResult {
    /// Of HTTP.
    pub status: u16,
    pub content_type: Option<String>,
    pub body: Bytes,
}

/// How much the queue holds. A deployment may use no more of it than it leaves free, so that others always find room: half
/// of the queue alone, a third beside another deployment that uses all it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Queued and running requests.
    pub open: u64,
    /// Bytes of inputs and results together.
    pub bytes: u64,
}

/// The answer to a new request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It is on disk and will be processed.
    Accepted,
    /// Refused: the deployment has as many queued and running requests as the queue has room for more.
    TooManyOpen,
    /// Refused: the deployment's requests take as many bytes as the queue has room for more.
    TooManyBytes,
}

/// The answer to a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// The request will not be processed.
    Canceled,
    /// Refused: the request is no longer queued, but has this status.
    TooLate(AsyncStatus),
    Missing,
}

/// The open requests of one deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AsyncCounts {
    pub queued: u64,
    pub in_progress: u64,
}

/// The deployment that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub model_id: ModelId,
    pub deployment_id: DeploymentId,
}

/// The webhooks of one deployment to one receiver, which are sent in turn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoticeQueue {
    pub deployment_id: DeploymentId,
    /// As in [`Webhook::receiver`].
    pub receiver: String,
}

/// The right to process a request until the claim expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub id: AsyncRequestId,
    /// Grows with every claim of the request, so that an expired claim is told from the current one.
    pub token: u64,
}

/// A claimed request, to be answered by its model.
#[derive(Debug, Clone)]
pub struct Prediction {
    pub claim: Claim,
    pub place: Place,
    /// The JSON for the model.
    pub input: Bytes,
    /// One for each failed attempt.
    pub errors: Vec<AsyncError>,
    pub retry: InferenceRetryConfig,
    /// How many of its claims expired.
    pub losses: u32,
}

/// A claimed request whose webhook is to be sent.
#[derive(Debug, Clone)]
pub struct Notice {
    pub claim: Claim,
    pub endpoint: String,
    pub request: AsyncRequest,
    pub result: Option<AsyncResult>,
}

/// The end of a request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Succeeded or failed.
    pub status: AsyncStatus,
    /// One for each failed attempt.
    pub errors: Vec<AsyncError>,
    /// `None` if no attempt got an answer of the model.
    pub result: Option<AsyncResult>,
}

/// A queue of async requests.
///
/// Every change is atomic, and on disk when it is acknowledged. A change under an expired claim, or of a finished request,
/// is a [`StoreError::Conflict`].
#[async_trait]
pub trait AsyncRequests: Send + Sync + 'static {
    /// Accepts a request, unless there are too many.
    async fn accept(
        &self,
        request: &NewAsyncRequest,
        capacity: Capacity,
    ) -> Result<Acceptance, StoreError>;

    /// A request, until it is purged.
    async fn get(&self, id: &AsyncRequestId) -> Result<Option<AsyncRequest>, StoreError>;

    /// The model's answer, once there is one.
    async fn result(&self, id: &AsyncRequestId) -> Result<Option<AsyncResult>, StoreError>;

    /// Counts the open requests of a deployment.
    async fn counts(&self, deployment: DeploymentId) -> Result<AsyncCounts, StoreError>;

    /// Cancels a queued request. Its webhook is not sent.
    async fn cancel(&self, id: &AsyncRequestId) -> Result<Cancellation, StoreError>;

    /// The deployments that have requests to be claimed now.
    async fn due(&self) -> Result<Vec<Place>, StoreError>;

    /// Claims requests of a deployment by priority, then age: at most `max`, never more than 64.
    async fn claim(
        &self,
        deployment: DeploymentId,
        max: usize,
        visibility: Duration,
    ) -> Result<Vec<Prediction>, StoreError>;

    /// The queues that have webhooks to be claimed now.
    async fn due_notices(&self) -> Result<Vec<NoticeQueue>, StoreError>;

    /// Claims requests of a queue whose webhooks are to be sent, longest due first.
    async fn claim_notices(
        &self,
        queue: &NoticeQueue,
        max: usize,
        visibility: Duration,
    ) -> Result<Vec<Notice>, StoreError>;

    /// Extends a claim to `visibility` from now.
    async fn extend(&self, claim: &Claim, visibility: Duration) -> Result<(), StoreError>;

    /// Puts a request back into the queue with its errors so far; it can be claimed after `delay`.
    async fn requeue(
        &self,
        claim: &Claim,
        delay: Duration,
        errors: &[AsyncError],
    ) -> Result<(), StoreError>;

    /// Finishes a request. Its webhook, if it has one, is due now.
    async fn finish(&self, claim: &Claim, outcome: &Outcome) -> Result<(), StoreError>;

    /// Records why a webhook failed; it is due again after `delay`.
    async fn requeue_notice(
        &self,
        claim: &Claim,
        delay: Duration,
        error: &str,
    ) -> Result<(), StoreError>;

    /// Records that a webhook was delivered, or why it failed for good.
    async fn finish_notice(
        &self,
        claim: &Claim,
        outcome: Result<(), &str>,
    ) -> Result<(), StoreError>;

    /// Gives up the due webhooks to a receiver whose requests were finished before a time, and returns how many.
    async fn give_up_notices(
        &self,
        receiver: &str,
        before: Timestamp,
        error: &str,
    ) -> Result<u64, StoreError>;

    /// Expires every claim, because the process that held them is dead, and returns how many there were.
    async fn take_up(&self) -> Result<u64, StoreError>;

    /// Expires requests that were queued for longer than they allow, and returns how many.
    async fn expire_due(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Deletes up to `max` requests that were finished before a time, and returns how many.
    async fn purge(&self, before: Timestamp, max: usize) -> Result<u64, StoreError>;
}
