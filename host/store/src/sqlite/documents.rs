//! Documents in SQLite: every commit is one transaction, which also logs its changes for watches.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::SqliteStore;
use super::change_log::{from_rev, log, next_rev, to_rev, trim, trim_periodically};
use super::errors::unavailable;
use super::watcher::Watcher;
use crate::limits::{check_key, check_ops, check_prefix};
use crate::{
    Changes, Doc, DocStore, Expect, Lease, Listing, MAX_RANGE, Op, Order, Range, Rev, StoreError,
};

#[async_trait]
impl DocStore for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError> {
        check_key(key)?;
        let row = sqlx::query("SELECT key, rev, value FROM docs WHERE key = ?1")
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(unavailable)?;
        row.as_ref().map(doc).transpose()
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        check_prefix(prefix)?;
        // One statement reads one snapshot, so the revision is that of the documents.
        let mut rows = sqlx::query(
            "SELECT revision.rev AS store_rev, docs.key, docs.rev, docs.value \
             FROM revision LEFT JOIN docs ON docs.key >= ?1 AND docs.key < ?2 ORDER BY docs.key",
        )
        .bind(prefix)
        .bind(prefix_end(prefix))
        .fetch(&self.readers);
        let mut listing = Listing {
            docs: Vec::new(),
            rev: 0,
        };
        while let Some(row) = rows.try_next().await.map_err(unavailable)? {
            listing.rev = to_rev(row.try_get("store_rev").map_err(unavailable)?);
            let key: Option<String> = row.try_get("key").map_err(unavailable)?;
            if key.is_some() {
                listing.docs.push(doc(&row)?);
            }
        }
        Ok(listing)
    }

    async fn range(&self, range: Range<'_>) -> Result<Vec<Doc>, StoreError> {
        let text = match range.order {
            Order::Ascending => {
                "SELECT key, rev, value FROM docs WHERE key > ?1 AND key < ?2 ORDER BY key LIMIT ?3"
            }
            Order::Descending => {
                "SELECT key, rev, value FROM docs WHERE key > ?1 AND key < ?2 \
                 ORDER BY key DESC LIMIT ?3"
            }
        };
        let limit = i64::try_from(range.limit.min(MAX_RANGE)).unwrap_or(i64::MAX);
        let rows = sqlx::query(text)
            .bind(range.after)
            .bind(range.before)
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
        rows.iter().map(doc).collect()
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Rev, StoreError> {
        check_ops(&ops)?;
        let mut transaction = self.begin().await?;
        for op in &ops {
            if let Err(error) = check_expectation(&mut transaction, op).await {
                return Err(transaction.give_up(error).await);
            }
        }
        if ops.iter().all(|op| matches!(op, Op::Check { .. })) {
            let rev: i64 = sqlx::query_scalar("SELECT rev FROM revision")
                .fetch_one(&mut *transaction)
                .await
                .map_err(unavailable)?;
            transaction.roll_back().await;
            return Ok(to_rev(rev));
        }
        let rev = next_rev(&mut transaction).await?;
        for (seq, op) in ops.into_iter().enumerate() {
            match op {
                Op::Put { key, value, .. } => {
                    write(&mut transaction, rev, seq, &key, &value).await?;
                }
                Op::Delete { key, .. } => remove(&mut transaction, rev, seq, &key).await?,
                Op::Check { .. } => {}
            }
        }
        trim_periodically(&mut transaction, rev).await?;
        self.end(transaction, rev).await?;
        Ok(rev)
    }

    fn watch(&self, prefix: &str, after: Rev) -> Changes {
        if let Err(error) = check_prefix(prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let watcher = Watcher::new(self.readers.clone(), self.newest.subscribe(), prefix, after);
        stream::try_unfold(watcher, |mut watcher| async move {
            let changes = watcher.next().await?;
            Ok(Some((stream::iter(changes.into_iter().map(Ok)), watcher)))
        })
        .try_flatten()
        .boxed()
    }

    async fn compact(&self, up_to: Rev) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        trim(&mut transaction, up_to).await?;
        self.end(transaction, 0).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        self.take_lease(name, holder, ttl).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        self.renew_lease(lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.release_lease(lease).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT rev FROM revision")
            .fetch_one(&self.readers)
            .await
            .map_err(unavailable)?;
        if let Some(failures) = self.probe.suspicion() {
            self.probe_writes().await?;
            self.probe.settle(failures);
        }
        Ok(())
    }

    async fn close(&self) {
        self.readers.close().await;
        // Last, because closing the last connection folds the log of SQLite into its file.
        self.writer.close().await;
    }
}

pub(super) async fn check_expectation(
    connection: &mut SqliteConnection,
    op: &Op,
) -> Result<(), StoreError> {
    let expect = op.expect();
    if expect == Expect::Any {
        return Ok(());
    }
    let rev: Option<i64> = sqlx::query_scalar("SELECT rev FROM docs WHERE key = ?1")
        .bind(op.key())
        .fetch_optional(connection)
        .await
        .map_err(unavailable)?;
    let current = rev.map(to_rev);
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Rev(rev) => current == Some(rev),
    };
    if holds {
        return Ok(());
    }
    Err(StoreError::Conflict {
        key: op.key().to_owned(),
        current,
    })
}

pub(super) async fn write(
    connection: &mut SqliteConnection,
    rev: Rev,
    seq: usize,
    key: &str,
    value: &[u8],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO docs (key, rev, value) VALUES (?1, ?2, ?3) \
         ON CONFLICT (key) DO UPDATE SET rev = excluded.rev, value = excluded.value",
    )
    .bind(key)
    .bind(from_rev(rev)?)
    .bind(value)
    .execute(&mut *connection)
    .await
    .map_err(unavailable)?;
    log(connection, rev, seq, key, Some(value)).await
}

pub(super) async fn remove(
    connection: &mut SqliteConnection,
    rev: Rev,
    seq: usize,
    key: &str,
) -> Result<(), StoreError> {
    let removed = sqlx::query("DELETE FROM docs WHERE key = ?1")
        .bind(key)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    if removed.rows_affected() == 0 {
        return Ok(());
    }
    log(connection, rev, seq, key, None).await
}

fn doc(row: &SqliteRow) -> Result<Doc, StoreError> {
    Ok(Doc {
        key: row.try_get("key").map_err(unavailable)?,
        rev: to_rev(row.try_get("rev").map_err(unavailable)?),
        value: Bytes::from(row.try_get::<Vec<u8>, _>("value").map_err(unavailable)?),
    })
}

/// The first text after all that start with `prefix`: keys are printable ASCII, which DEL follows.
pub(super) fn prefix_end(prefix: &str) -> String {
    format!("{prefix}\u{7f}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    async fn open(folder: &Path) -> Arc<dyn DocStore> {
        Arc::new(SqliteStore::open(&folder.join("state.db")).await.unwrap())
    }

    crate::document_store_conformance!(open);
}
