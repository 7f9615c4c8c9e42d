//! Usage in SQLite: one row for each deployment and minute, summed by the database.

use std::sync::LazyLock;

use async_trait::async_trait;
use futures::TryStreamExt;
use samovar_types::id::{DeploymentId, Id};
use samovar_types::usage::{Counters, MINUTE_MS, MINUTE_SLACK_MS, Owner, UsageBucket, UsageRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::SqliteStore;
use super::errors::unavailable;
use crate::StoreError;
use crate::usage::{
    BATCH_MEMORY_S, MAX_BUCKETS, UsageLog, UsageQuery, check_answer, check_batch, check_query,
};

#[async_trait]
impl UsageLog for SqliteStore {
    async fn append(&self, batch_id: &str, rows: &[UsageRow]) -> Result<(), StoreError> {
        check_batch(batch_id, rows)?;
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM usage_batches WHERE appended_at < unixepoch() - ?1")
            .bind(BATCH_MEMORY_S)
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
        let new = sqlx::query(
            "INSERT INTO usage_batches (id, appended_at) VALUES (?1, unixepoch()) ON CONFLICT DO NOTHING",
        )
        .bind(batch_id)
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
        if new.rows_affected() == 0 {
            transaction.roll_back().await;
            return Ok(());
        }
        for row in rows {
            name(&mut transaction, &row.owner).await?;
            add(&mut transaction, row).await?;
        }
        self.end(transaction, 0).await
    }

    async fn query(&self, query: &UsageQuery) -> Result<Vec<UsageBucket>, StoreError> {
        check_query(query)?;
        let rows = sqlx::query(AssertSqlSafe(SUMS.as_str()))
            .bind(query.from)
            .bind(query.to)
            .bind(query.model.as_deref())
            .bind(query.deployment.as_ref().map(DeploymentId::as_str))
            .bind(query.resolution.minutes())
            // One more than allowed, to notice that there are more.
            .bind(i64::try_from(MAX_BUCKETS + 1).unwrap_or(i64::MAX))
            .fetch(&self.readers);
        let buckets: Vec<UsageBucket> = rows
            .map_err(unavailable)
            .and_then(|row| std::future::ready(bucket(&row)))
            .try_collect()
            .await?;
        check_answer(&buckets)?;
        Ok(buckets)
    }
}

/// Each minute is rounded up by itself, as in `samovar_types::usage::replica_minutes`.
static SUMS: LazyLock<String> = LazyLock::new(|| {
    let sums: String = Counters::NAMES
        .iter()
        .map(|name| format!(", sum({name}) AS {name}"))
        .collect();
    format!(
        "SELECT minute - ((minute % ?5) + ?5) % ?5 AS start, deployment_id, deployment_name, model_id, model_name, \
         sum(max(min(replica_ms, 1), (max(replica_ms - {MINUTE_SLACK_MS}, 0) + {MINUTE_MS} - 1) / {MINUTE_MS})) \
         AS replica_minutes{sums} \
         FROM usage_owners JOIN usage_minutes USING (deployment_id) \
         WHERE minute >= ?1 AND minute < ?2 \
         AND (?3 IS NULL OR model_id = ?3 OR model_name = ?3) AND (?4 IS NULL OR deployment_id = ?4) \
         GROUP BY start, deployment_id ORDER BY start, deployment_id LIMIT ?6"
    )
});

/// Keeps the newest names, so that deleted models and deployments are shown under their last names.
async fn name(connection: &mut SqliteConnection, owner: &Owner) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO usage_owners (deployment_id, deployment_name, model_id, model_name) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (deployment_id) DO UPDATE SET deployment_name = excluded.deployment_name, \
         model_id = excluded.model_id, model_name = excluded.model_name \
         WHERE deployment_name <> excluded.deployment_name OR model_name <> excluded.model_name",
    )
    .bind(owner.deployment_id.as_str())
    .bind(&owner.deployment_name)
    .bind(owner.model_id.as_str())
    .bind(&owner.model_name)
    .execute(connection)
    .await
    .map_err(unavailable)?;
    Ok(())
}

static ADD: LazyLock<String> = LazyLock::new(|| {
    let names = Counters::NAMES.join(", ");
    let values: String = (0..Counters::COUNT)
        .map(|place| format!(", ?{}", place + 3))
        .collect();
    let sums: Vec<String> = Counters::NAMES
        .iter()
        .map(|name| format!("{name} = {name} + excluded.{name}"))
        .collect();
    format!(
        "INSERT INTO usage_minutes (deployment_id, minute, {names}) VALUES (?1, ?2{values}) \
         ON CONFLICT (deployment_id, minute) DO UPDATE SET {}",
        sums.join(", ")
    )
});

async fn add(connection: &mut SqliteConnection, row: &UsageRow) -> Result<(), StoreError> {
    let mut query = sqlx::query(AssertSqlSafe(ADD.as_str()))
        .bind(row.owner.deployment_id.as_str())
        .bind(row.minute);
    for value in row.counters.values() {
        // `check_batch` bounds it far below.
        query = query.bind(i64::try_from(value).unwrap_or(i64::MAX));
    }
    query.execute(connection).await.map_err(unavailable)?;
    Ok(())
}

fn id<Kind>(row: &SqliteRow, name: &str) -> Result<Id<Kind>, StoreError> {
    let text: String = row.try_get(name).map_err(unavailable)?;
    let id = text.parse();
    id.map_err(|error| StoreError::Unavailable(format!("{name}: {error}")))
}

fn bucket(row: &SqliteRow) -> Result<UsageBucket, StoreError> {
    let text = |name| row.try_get::<String, _>(name).map_err(unavailable);
    let count = |name| -> Result<u64, StoreError> {
        let count: i64 = row.try_get(name).map_err(unavailable)?;
        Ok(count.try_into().unwrap_or_default())
    };
    let mut values = [0; Counters::COUNT];
    for (value, name) in values.iter_mut().zip(Counters::NAMES) {
        *value = count(name)?;
    }
    Ok(UsageBucket {
        start: row.try_get("start").map_err(unavailable)?,
        owner: Owner {
            model_id: id(row, "model_id")?,
            model_name: text("model_name")?,
            deployment_id: id(row, "deployment_id")?,
            deployment_name: text("deployment_name")?,
        },
        counters: Counters::from_values(values),
        replica_minutes: count("replica_minutes")?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::conformance::usage::row;

    async fn open(folder: &Path) -> Arc<dyn UsageLog> {
        Arc::new(SqliteStore::open(&folder.join("state.db")).await.unwrap())
    }

    crate::usage_log_conformance!(open);

    #[tokio::test]
    async fn the_ids_of_batches_are_forgotten_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db"))
            .await
            .unwrap();
        for batch in ["old", "young"] {
            store.append(batch, &[row(1, "aaaaaaaa", 1)]).await.unwrap();
        }
        let age = |batch: &'static str, seconds: i64| {
            sqlx::query("UPDATE usage_batches SET appended_at = unixepoch() - ?2 WHERE id = ?1")
                .bind(batch)
                .bind(seconds)
                .execute(&store.writer)
        };
        age("old", BATCH_MEMORY_S + 60).await.unwrap();
        age("young", BATCH_MEMORY_S - 60).await.unwrap();
        store.append("new", &[row(1, "aaaaaaaa", 1)]).await.unwrap();
        let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM usage_batches ORDER BY id")
            .fetch_all(&store.readers)
            .await
            .unwrap();
        assert_eq!(ids, ["new", "young"]);
    }
}
