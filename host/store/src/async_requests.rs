//! The queue of requests that are answered later: what every store of it keeps to.
//!
//! What was accepted is on disk and is worked on at least once. Whoever works on a request holds a claim that runs out; a
//! claim that was lost to another worker can change nothing any more.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use samovar_types::async_request::{
    AsyncError, AsyncRequestId, AsyncStatus, InferenceRetryConfig, WebhookStatus,
};
use samovar_types::id::{DeploymentId, ModelId};

use crate::StoreError;

/// Requests claimed by one call.
pub(crate) const MAX_CLAIMS: usize = 64;

/// A request as it is handed in.
#[derive(Debug, Clone)]
pub struct NewAsyncRequest {
    pub id: AsyncRequestId,
    pub model_id: ModelId,
    /// Stays the same, whatever is promoted meanwhile.
    pub deployment_id: DeploymentId,
    pub created_at: Timestamp,
    pub submission: Submission,
}

/// What the caller asked for, within its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The JSON that the model gets, byte by byte as it was sent.
    pub model_input: Bytes,
    pub webhook: Option<Webhook>,
    /// The lower one goes first.
    pub priority: u8,
    pub max_time_in_queue: Duration,
    pub retry: InferenceRetryConfig,
}

/// Where the answer is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub endpoint: String,
    /// Scheme, host and port. Webhooks to one receiver wait for each other.
    pub receiver: String,
}

/// A request as its sender may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncRequest {
    pub id: AsyncRequestId,
    pub model_id: ModelId,
    pub deployment_id: DeploymentId,
    pub status: AsyncStatus,
    pub webhook_status: WebhookStatus,
    /// How its webhook was sent, if one was asked for.
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

/// How much a store of requests takes. No deployment takes more of it than it leaves free, so that there is room for others
/// whatever one hands in: half of it alone, a third beside another that takes what it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Requests that wait or run.
    pub open: u64,
    /// Bytes of inputs and results together.
    pub bytes: u64,
}

/// What became of a request that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It is on disk and will be worked on.
    Accepted,
    /// Nothing: of the deployment wait or run as many already as there is room for more.
    TooManyOpen,
    /// Nothing: of the deployment are kept as many bytes already as there is room for more.
    TooManyBytes,
}

/// What became of the wish to take a request back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// It will not be worked on.
    Canceled,
    /// Nothing: it does not wait any more, but stands there.
    TooLate(AsyncStatus),
    /// There is no such request.
    Missing,
}

/// Requests of one deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AsyncCounts {
    /// Those that wait.
    pub queued: u64,
    /// Those that run.
    pub in_progress: u64,
}

/// The deployment that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its model.
    pub model_id: ModelId,
    /// Itself.
    pub deployment_id: DeploymentId,
}

/// The webhooks of one deployment to one receiver, which wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoticeQueue {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// As in [`Webhook::receiver`].
    pub receiver: String,
}

/// The right to work on a request until it runs out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The request.
    pub id: AsyncRequestId,
    /// Grows with every claim of the request.
    pub token: u64,
}

/// A request to be answered by its model.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The right to do it.
    pub claim: Claim,
    /// The deployment.
    pub place: Place,
    /// The JSON that the model gets.
    pub input: Bytes,
    /// What went wrong so far, one for each failed attempt.
    pub errors: Vec<AsyncError>,
    /// How often it is tried.
    pub retry: InferenceRetryConfig,
    /// How often a claim of it ran out.
    pub losses: u32,
}

/// A request whose sender is to be told.
#[derive(Debug, Clone)]
pub struct Notice {
    /// The right to do it.
    pub claim: Claim,
    /// Where to.
    pub endpoint: String,
    /// The request.
    pub request: AsyncRequest,
    /// What the model answered.
    pub result: Option<AsyncResult>,
}

/// How the work on a request ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Where it stands now: succeeded or failed.
    pub status: AsyncStatus,
    /// Everything that went wrong.
    pub errors: Vec<AsyncError>,
    /// What the model answered, if it did.
    pub result: Option<AsyncResult>,
}

/// A store of requests that are answered later.
///
/// Every change is one atomic step, on disk when it is acknowledged. A change under a claim that was lost, or of a
/// request that is done, is a [`StoreError::Conflict`].
#[async_trait]
pub trait AsyncRequests: Send + Sync + 'static {
    /// Takes a request, unless there are too many.
    async fn accept(
        &self,
        request: &NewAsyncRequest,
        capacity: Capacity,
    ) -> Result<Acceptance, StoreError>;

    /// A request, until it is purged.
    async fn get(&self, id: &AsyncRequestId) -> Result<Option<AsyncRequest>, StoreError>;

    /// What the model answered, if it did.
    async fn result(&self, id: &AsyncRequestId) -> Result<Option<AsyncResult>, StoreError>;

    /// How many requests of a deployment wait and run.
    async fn counts(&self, deployment: DeploymentId) -> Result<AsyncCounts, StoreError>;

    /// Takes a request back that still waits. Its webhook is not sent.
    async fn cancel(&self, id: &AsyncRequestId) -> Result<Cancellation, StoreError>;

    /// The deployments with requests that can be claimed now.
    async fn due(&self) -> Result<Vec<Place>, StoreError>;

    /// Claims requests of a deployment by priority, then age: at most `max`, never more than 64.
    async fn claim(
        &self,
        deployment: DeploymentId,
        max: usize,
        visibility: Duration,
    ) -> Result<Vec<Prediction>, StoreError>;

    /// The queues with webhooks that can be claimed now.
    async fn due_notices(&self) -> Result<Vec<NoticeQueue>, StoreError>;

    /// Claims requests whose webhooks are to be sent from a queue, longest due first.
    async fn claim_notices(
        &self,
        queue: &NoticeQueue,
        max: usize,
        visibility: Duration,
    ) -> Result<Vec<Notice>, StoreError>;

    /// Holds a claim for so long from now.
    async fn extend(&self, claim: &Claim, visibility: Duration) -> Result<(), StoreError>;

    /// Gives a request back to the queue, not to be claimed for a while, with everything that went wrong so far.
    async fn requeue(
        &self,
        claim: &Claim,
        delay: Duration,
        errors: &[AsyncError],
    ) -> Result<(), StoreError>;

    /// Ends the work on a request. Its webhook, if it has one, is due now.
    async fn finish(&self, claim: &Claim, outcome: &Outcome) -> Result<(), StoreError>;

    /// Notes why an attempt at a webhook failed; it is due again after a while.
    async fn requeue_notice(
        &self,
        claim: &Claim,
        delay: Duration,
        error: &str,
    ) -> Result<(), StoreError>;

    /// Notes that a webhook was delivered with this attempt, or why it was not and will not be.
    async fn finish_notice(
        &self,
        claim: &Claim,
        outcome: Result<(), &str>,
    ) -> Result<(), StoreError>;

    /// Gives up the webhooks to a receiver that are due and whose requests were done before a time. Answers how many.
    async fn give_up_notices(
        &self,
        receiver: &str,
        before: Timestamp,
        error: &str,
    ) -> Result<u64, StoreError>;

    /// Ends every claim: the process that held them is dead. Answers how many there were.
    async fn take_up(&self) -> Result<u64, StoreError>;

    /// Ends requests that have waited for longer than they were to, and answers how many.
    async fn expire_due(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Forgets requests that were done before a time, at most so many at once, and answers how many.
    async fn purge(&self, before: Timestamp, max: usize) -> Result<u64, StoreError>;
}
