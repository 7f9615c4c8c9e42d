//! Async requests in SQLite: each change is one statement under the one writer.

mod rows;
mod statements;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use samovar_types::async_request::{
    AsyncError, AsyncErrorCode, AsyncRequestId, AsyncStatus, WebhookStatus, shortened,
};
use samovar_types::id::DeploymentId;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};

use super::SqliteStore;
use super::errors::unavailable;
use crate::StoreError;
use crate::async_requests::{
    Acceptance, AsyncCounts, AsyncRequest, AsyncRequests, AsyncResult, Cancellation, Capacity,
    Claim, MAX_CLAIMS, NewAsyncRequest, Notice, NoticeQueue, Outcome, Place, Prediction,
};
use rows::{column, notice, notice_queue, number, place, prediction, request, result, text};
use statements::{
    ACCEPT, CANCEL, CLAIM, CLAIM_NOTICES, EXPIRE, FINISH, FINISH_NOTICE, GIVE_UP_NOTICES, REQUEUE,
    REQUEUE_NOTICE, now,
};

type Statement = Query<'static, Sqlite, SqliteArguments>;

impl SqliteStore {
    /// Runs one statement, and returns how many requests it changed.
    async fn update(&self, statement: Statement) -> Result<u64, StoreError> {
        let mut transaction = self.begin().await?;
        let done = statement
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
        if done.rows_affected() > 0 {
            self.end(transaction, 0).await?;
        } else {
            transaction.roll_back().await;
        }
        Ok(done.rows_affected())
    }

    /// Runs one statement with a `RETURNING` clause.
    async fn update_returning(&self, statement: Statement) -> Result<Vec<SqliteRow>, StoreError> {
        let mut transaction = self.begin().await?;
        let rows = statement
            .fetch_all(&mut *transaction)
            .await
            .map_err(unavailable)?;
        if rows.is_empty() {
            transaction.roll_back().await;
        } else {
            self.end(transaction, 0).await?;
        }
        Ok(rows)
    }

    /// Runs one statement that changes a request only under its claim.
    async fn update_claimed(&self, claim: &Claim, statement: Statement) -> Result<(), StoreError> {
        if self.update(statement).await? > 0 {
            return Ok(());
        }
        let current: Option<i64> =
            sqlx::query_scalar("SELECT token FROM async_requests WHERE id = ?1")
                .bind(claim.id.as_str())
                .fetch_optional(&self.readers)
                .await
                .map_err(unavailable)?;
        Err(StoreError::Conflict {
            key: format!("async_requests/{}", claim.id),
            current: current.map(number),
        })
    }
}

#[async_trait]
impl AsyncRequests for SqliteStore {
    async fn accept(
        &self,
        request: &NewAsyncRequest,
        capacity: Capacity,
    ) -> Result<Acceptance, StoreError> {
        let submission = &request.submission;
        let webhook = submission.webhook.as_ref();
        let created_at = request.created_at.as_millisecond();
        let accepted = self
            .update(
                sqlx::query(ACCEPT)
                    .bind(request.id.to_string())
                    .bind(request.model_id.to_string())
                    .bind(request.deployment_id.to_string())
                    .bind(submission.priority)
                    .bind(created_at)
                    .bind(created_at.saturating_add(millis(submission.max_time_in_queue)))
                    .bind(text(&submission.retry)?)
                    .bind(webhook.map(|webhook| webhook.endpoint.clone()))
                    .bind(submission.model_input.to_vec())
                    .bind(signed(capacity.open))
                    .bind(signed(capacity.bytes))
                    .bind(webhook.map(|webhook| webhook.receiver.clone())),
            )
            .await?;
        if accepted > 0 {
            return Ok(Acceptance::Accepted);
        }
        let has_room: bool = sqlx::query_scalar(
            "SELECT coalesce(own.open, 0) < ?2 - whole.open FROM async_totals AS whole \
             LEFT JOIN async_shares AS own ON own.deployment_id = ?1",
        )
        .bind(request.deployment_id.to_string())
        .bind(signed(capacity.open))
        .fetch_one(&self.readers)
        .await
        .map_err(unavailable)?;
        Ok(match has_room {
            true => Acceptance::TooManyBytes,
            false => Acceptance::TooManyOpen,
        })
    }

    async fn get(&self, id: &AsyncRequestId) -> Result<Option<AsyncRequest>, StoreError> {
        let row = sqlx::query(
            "SELECT id, model_id, deployment_id, status, webhook_status, webhook_attempts, webhook_error, created_at_ms, \
             status_at_ms, errors FROM async_requests WHERE id = ?1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(unavailable)?;
        row.as_ref().map(request).transpose()
    }

    async fn result(&self, id: &AsyncRequestId) -> Result<Option<AsyncResult>, StoreError> {
        let row = sqlx::query(
            "SELECT result_status, result_type, result_body FROM async_requests WHERE id = ?1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(unavailable)?;
        row.as_ref()
            .map_or(Ok(None), |row| result(row, &column(row, "result_status")?))
    }

    async fn counts(&self, deployment: DeploymentId) -> Result<AsyncCounts, StoreError> {
        let row = sqlx::query(
            "SELECT count(*) AS open, coalesce(sum(status = 'QUEUED'), 0) AS queued FROM async_requests \
             WHERE work = 'PREDICT' AND deployment_id = ?1",
        )
        .bind(deployment.to_string())
        .fetch_one(&self.readers)
        .await
        .map_err(unavailable)?;
        let queued = number(column(&row, "queued")?);
        let open = number(column(&row, "open")?);
        Ok(AsyncCounts {
            queued,
            in_progress: open.saturating_sub(queued),
        })
    }

    async fn cancel(&self, id: &AsyncRequestId) -> Result<Cancellation, StoreError> {
        let canceled = self
            .update(sqlx::query(CANCEL).bind(id.to_string()))
            .await?;
        if canceled > 0 {
            return Ok(Cancellation::Canceled);
        }
        let found = self.get(id).await?;
        Ok(found.map_or(Cancellation::Missing, |request| {
            Cancellation::TooLate(request.status)
        }))
    }

    async fn due(&self) -> Result<Vec<Place>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT DISTINCT deployment_id, model_id FROM async_requests \
             WHERE work = 'PREDICT' AND claimable_at_ms <= ",
            now!()
        ))
        .fetch_all(&self.readers)
        .await
        .map_err(unavailable)?;
        rows.iter().map(place).collect()
    }

    async fn claim(
        &self,
        deployment: DeploymentId,
        max: usize,
        visibility: Duration,
    ) -> Result<Vec<Prediction>, StoreError> {
        let rows = self
            .update_returning(
                sqlx::query(CLAIM)
                    .bind(deployment.to_string())
                    .bind(signed(max.min(MAX_CLAIMS)))
                    .bind(millis(visibility)),
            )
            .await?;
        // RETURNING has no order.
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            let order: (i64, i64) = (column(row, "priority")?, column(row, "seq")?);
            claimed.push((order, prediction(row)?));
        }
        claimed.sort_by_key(|(order, _)| *order);
        Ok(claimed.into_iter().map(|(_, one)| one).collect())
    }

    async fn due_notices(&self) -> Result<Vec<NoticeQueue>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT DISTINCT webhook_host, deployment_id FROM async_requests \
             WHERE work = 'WEBHOOK' AND webhook_host IS NOT NULL AND claimable_at_ms <= ",
            now!()
        ))
        .fetch_all(&self.readers)
        .await
        .map_err(unavailable)?;
        rows.iter().map(notice_queue).collect()
    }

    async fn claim_notices(
        &self,
        queue: &NoticeQueue,
        max: usize,
        visibility: Duration,
    ) -> Result<Vec<Notice>, StoreError> {
        let statement = sqlx::query(CLAIM_NOTICES)
            .bind(signed(max.min(MAX_CLAIMS)))
            .bind(millis(visibility))
            .bind(queue.receiver.clone())
            .bind(queue.deployment_id.to_string());
        let rows = self.update_returning(statement).await?;
        rows.iter().map(notice).collect()
    }

    async fn extend(&self, claim: &Claim, visibility: Duration) -> Result<(), StoreError> {
        let statement = sqlx::query(concat!(
            "UPDATE async_requests SET claimable_at_ms = ",
            now!(),
            " + ?3 WHERE id = ?1 AND token = ?2 AND work IS NOT NULL"
        ));
        let statement = bind_claim(statement, claim).bind(millis(visibility));
        self.update_claimed(claim, statement).await
    }

    async fn requeue(
        &self,
        claim: &Claim,
        delay: Duration,
        errors: &[AsyncError],
    ) -> Result<(), StoreError> {
        let statement = bind_claim(sqlx::query(REQUEUE), claim)
            .bind(millis(delay))
            .bind(text(&errors)?);
        self.update_claimed(claim, statement).await
    }

    async fn finish(&self, claim: &Claim, outcome: &Outcome) -> Result<(), StoreError> {
        let result = outcome.result.as_ref();
        let statement = bind_claim(sqlx::query(FINISH), claim)
            .bind(outcome.status.as_str())
            .bind(text(&outcome.errors)?)
            .bind(result.map(|result| result.status))
            .bind(result.and_then(|result| result.content_type.clone()))
            .bind(result.map(|result| result.body.to_vec()));
        self.update_claimed(claim, statement).await
    }

    async fn requeue_notice(
        &self,
        claim: &Claim,
        delay: Duration,
        error: &str,
    ) -> Result<(), StoreError> {
        let statement = bind_claim(sqlx::query(REQUEUE_NOTICE), claim)
            .bind(millis(delay))
            .bind(shortened(error));
        self.update_claimed(claim, statement).await
    }

    async fn finish_notice(
        &self,
        claim: &Claim,
        outcome: Result<(), &str>,
    ) -> Result<(), StoreError> {
        let webhook = match outcome {
            Ok(()) => WebhookStatus::Succeeded,
            Err(_) => WebhookStatus::Failed,
        };
        // Of all statuses, only this one changes with the webhook.
        let before = AsyncStatus::Succeeded;
        let statement = bind_claim(sqlx::query(FINISH_NOTICE), claim)
            .bind(webhook.as_str())
            .bind(before.as_str())
            .bind(before.after_webhook(webhook).as_str())
            .bind(outcome.err().map(shortened));
        self.update_claimed(claim, statement).await
    }

    async fn give_up_notices(
        &self,
        receiver: &str,
        before: Timestamp,
        error: &str,
    ) -> Result<u64, StoreError> {
        let succeeded = AsyncStatus::Succeeded;
        self.update(
            sqlx::query(GIVE_UP_NOTICES)
                .bind(receiver.to_owned())
                .bind(before.as_millisecond())
                .bind(error.to_owned())
                .bind(succeeded.as_str())
                .bind(succeeded.after_webhook(WebhookStatus::Failed).as_str()),
        )
        .await
    }

    async fn take_up(&self) -> Result<u64, StoreError> {
        self.update(sqlx::query(concat!(
            "UPDATE async_requests SET claimable_at_ms = 0, token = token + 1 WHERE claimable_at_ms > ",
            now!(),
            " AND (work = 'WEBHOOK' OR work = 'PREDICT' AND status = 'IN_PROGRESS')"
        )))
        .await
    }

    async fn expire_due(&self, now: Timestamp) -> Result<u64, StoreError> {
        let now = now.as_millisecond();
        // Usually there are none, and a read does not block the writer.
        let any: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM async_requests WHERE status = 'QUEUED' AND expires_at_ms <= ?1)",
        )
        .bind(now)
        .fetch_one(&self.readers)
        .await
        .map_err(unavailable)?;
        if !any {
            return Ok(0);
        }
        let error = AsyncError::new(
            AsyncErrorCode::ModelUnavailable,
            "no replica was free for it within its max_time_in_queue_seconds",
        );
        self.update(sqlx::query(EXPIRE).bind(now).bind(text(&error)?))
            .await
    }

    async fn purge(&self, before: Timestamp, max: usize) -> Result<u64, StoreError> {
        self.update(
            sqlx::query(
                "DELETE FROM async_requests WHERE seq IN \
                 (SELECT seq FROM async_requests WHERE work IS NULL AND status_at_ms < ?1 LIMIT ?2)",
            )
            .bind(before.as_millisecond())
            .bind(signed(max)),
        )
        .await
    }
}

fn bind_claim(statement: Statement, claim: &Claim) -> Statement {
    statement
        .bind(claim.id.to_string())
        .bind(signed(claim.token))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// SQLite's integers are signed; numbers beyond them mean no limit.
fn signed(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    async fn open(folder: &Path) -> Arc<dyn AsyncRequests> {
        Arc::new(SqliteStore::open(&folder.join("state.db")).await.unwrap())
    }

    crate::async_requests_conformance!(open);
}
