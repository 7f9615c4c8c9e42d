//! The counter of commits, and the log of changes that watches read.

use sqlx::sqlite::SqliteConnection;

use super::errors::unavailable;
use crate::{Rev, StoreError};

/// Revisions whose changes are kept for watches that resume.
const KEPT_REVISIONS: Rev = 4096;
/// The log is trimmed once in so many commits, so that most commits do not pay for it.
const TRIM_EVERY: Rev = 256;

/// Counts a commit, and returns its revision.
pub async fn next_rev(connection: &mut SqliteConnection) -> Result<Rev, StoreError> {
    let rev: i64 = sqlx::query_scalar("UPDATE revision SET rev = rev + 1 RETURNING rev")
        .fetch_one(connection)
        .await
        .map_err(unavailable)?;
    Ok(to_rev(rev))
}

/// Logs that a document was written, or removed without a value.
pub async fn log(
    connection: &mut SqliteConnection,
    rev: Rev,
    seq: usize,
    key: &str,
    value: Option<&[u8]>,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO changes (rev, seq, key, value) VALUES (?1, ?2, ?3, ?4)")
        .bind(from_rev(rev)?)
        .bind(i64::try_from(seq).unwrap_or(i64::MAX))
        .bind(key)
        .bind(value)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}

/// Trims the log with every [`TRIM_EVERY`]th commit.
pub async fn trim_periodically(
    connection: &mut SqliteConnection,
    rev: Rev,
) -> Result<(), StoreError> {
    if rev.is_multiple_of(TRIM_EVERY) {
        trim(connection, rev.saturating_sub(KEPT_REVISIONS)).await?;
    }
    Ok(())
}

/// Drops the changes up to a revision.
pub async fn trim(connection: &mut SqliteConnection, up_to: Rev) -> Result<(), StoreError> {
    let up_to = from_rev(up_to)?;
    sqlx::query("UPDATE revision SET horizon = max(horizon, min(?1, rev))")
        .bind(up_to)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    sqlx::query("DELETE FROM changes WHERE rev <= ?1")
        .bind(up_to)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}

/// SQLite's integers are signed; the counter starts at 0 and only grows.
pub fn to_rev(rev: i64) -> Rev {
    rev.try_into().unwrap_or_default()
}

pub fn from_rev(rev: Rev) -> Result<i64, StoreError> {
    rev.try_into()
        .map_err(|_| StoreError::Invalid(format!("revision {rev} is beyond any store's")))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::super::SqliteStore;
    use super::*;
    use crate::{DocStore as _, Expect, Op};

    #[tokio::test]
    async fn the_log_of_changes_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db"))
            .await
            .unwrap();
        // As if that many commits had been made.
        sqlx::query("UPDATE revision SET rev = ?1")
            .bind(i64::try_from(KEPT_REVISIONS + TRIM_EVERY - 2).unwrap())
            .execute(&store.writer)
            .await
            .unwrap();
        sqlx::query("INSERT INTO changes (rev, seq, key) VALUES (1, 0, 'old')")
            .execute(&store.writer)
            .await
            .unwrap();
        for _ in 0..2 {
            store
                .commit(vec![Op::put("k", "v", Expect::Any)])
                .await
                .unwrap();
        }
        let changes: i64 = sqlx::query_scalar("SELECT count(*) FROM changes")
            .fetch_one(&store.writer)
            .await
            .unwrap();
        assert_eq!(changes, 2);
        let error = store.watch("", 1).next().await.unwrap().unwrap_err();
        assert!(
            matches!(error, StoreError::Compacted { horizon } if horizon == TRIM_EVERY),
            "{error}"
        );
    }
}
