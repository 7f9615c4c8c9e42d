//! The trait of the usage log: batches of counts in, each counted once; sums out.

use async_trait::async_trait;
use samovar_types::id::DeploymentId;
use samovar_types::usage::{Minute, Resolution, UsageBucket, UsageRow};

use crate::StoreError;

/// The most rows of one batch.
pub const MAX_BATCH_ROWS: usize = 16_384;
/// Longest id of a batch.
pub(crate) const MAX_BATCH_ID_BYTES: usize = 128;
/// Largest single count: every store and every reader of JSON represents it exactly.
pub(crate) const MAX_COUNT: u64 = 1 << 53;
/// Longest name of a model or deployment in a row, and of a model in a query.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// The most buckets of one result.
pub(crate) const MAX_BUCKETS: usize = 50_000;
/// Seconds, by the store's clock, for which the id of a batch is remembered.
pub(crate) const BATCH_MEMORY_S: i64 = 24 * 3600;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// Inclusive.
    pub from: Minute,
    /// Exclusive.
    pub to: Minute,
    /// Only the model of this id or name.
    pub model: Option<String>,
    /// Only this deployment.
    pub deployment: Option<DeploymentId>,
    pub resolution: Resolution,
}

/// A log of what deployments used. It keeps the usage of deleted models and deployments.
#[async_trait]
pub trait UsageLog: Send + Sync + 'static {
    /// Adds all rows or none to their minutes, once for each batch id, so that a batch whose acknowledgement was lost can be
    /// sent again within a day. The rows are on disk before it returns.
    async fn append(&self, batch_id: &str, rows: &[UsageRow]) -> Result<(), StoreError>;

    /// The sums of minutes, hours or days, ordered by time and deployment, as
    /// [`bucketed`](samovar_types::usage::bucketed) computes them. More than 50,000 are
    /// [`StoreError::Invalid`].
    async fn query(&self, query: &UsageQuery) -> Result<Vec<UsageBucket>, StoreError>;
}

/// Refuses a batch beyond the limits.
pub(crate) fn check_batch(batch_id: &str, rows: &[UsageRow]) -> Result<(), StoreError> {
    let plain = batch_id.bytes().all(|byte| byte.is_ascii_graphic());
    if batch_id.is_empty() || batch_id.len() > MAX_BATCH_ID_BYTES || !plain {
        let shown: String = batch_id.chars().take(80).collect();
        return Err(StoreError::Invalid(format!(
            "batch id {shown:?}: wanted 1 to {MAX_BATCH_ID_BYTES} printable ASCII characters"
        )));
    }
    if rows.is_empty() || rows.len() > MAX_BATCH_ROWS {
        return Err(StoreError::Invalid(format!(
            "a batch of {} rows, wanted 1 to {MAX_BATCH_ROWS}",
            rows.len()
        )));
    }
    for row in rows {
        let owner = &row.owner;
        if owner.model_name.len().max(owner.deployment_name.len()) > MAX_NAME_BYTES {
            return Err(StoreError::Invalid(format!(
                "usage of deployment {}: a name of more than {MAX_NAME_BYTES} bytes",
                owner.deployment_id
            )));
        }
        if let Some(count) = row
            .counters
            .values()
            .iter()
            .find(|count| **count > MAX_COUNT)
        {
            return Err(StoreError::Invalid(format!(
                "usage of deployment {}: a count of {count}, wanted at most {MAX_COUNT}",
                owner.deployment_id
            )));
        }
    }
    Ok(())
}

/// Refuses a query that is invalid.
pub(crate) fn check_query(query: &UsageQuery) -> Result<(), StoreError> {
    if query.from > query.to {
        return Err(StoreError::Invalid(format!(
            "usage from minute {} to {}: the start is after the end",
            query.from, query.to
        )));
    }
    if let Some(model) = query
        .model
        .as_ref()
        .filter(|model| model.len() > MAX_NAME_BYTES)
    {
        return Err(StoreError::Invalid(format!(
            "the name of a model of {} bytes, wanted at most {MAX_NAME_BYTES}",
            model.len()
        )));
    }
    Ok(())
}

/// Refuses a result that is too long.
pub(crate) fn check_answer(buckets: &[UsageBucket]) -> Result<(), StoreError> {
    if buckets.len() > MAX_BUCKETS {
        return Err(StoreError::Invalid(format!(
            "the answer has more than {MAX_BUCKETS} rows: ask for a shorter time, a coarser resolution or one deployment"
        )));
    }
    Ok(())
}
