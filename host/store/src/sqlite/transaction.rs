//! Write transactions: a connection is reused only after its transaction ended cleanly.
//!
//! SQLite rolls a transaction back on its own after some errors, such as a full disk, so a later `ROLLBACK` fails and
//! sqlx's count of open transactions stays too high: each later `BEGIN` on that connection is refused. The state of a
//! connection is therefore known only after a `COMMIT` or `ROLLBACK` that succeeded. Any other connection is closed,
//! which ends its transaction, and the pool opens a new one. This also covers callers that are dropped in between.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::errors::{explain, is_full, unavailable};
use super::write_probe::WriteProbe;
use crate::StoreError;

/// A transaction that writes. Dropped without [`WriteTransaction::commit`], it changes nothing.
pub(super) struct WriteTransaction {
    connection: PoolConnection<Sqlite>,
    settled: bool,
    probe: Arc<WriteProbe>,
}

impl WriteTransaction {
    /// IMMEDIATE, because a transaction that reads first and then finds another writer could not continue.
    ///
    /// A transaction that does not end cleanly makes `probe` test whether the store takes writes.
    pub async fn begin(writer: &SqlitePool, probe: Arc<WriteProbe>) -> Result<Self, StoreError> {
        let acquired = writer.acquire().await;
        let connection = acquired.map_err(|error| {
            probe.suspect();
            unavailable(error)
        })?;
        // Made before the statement runs, so that no transaction stays open when the caller is dropped meanwhile.
        let mut transaction = Self {
            connection,
            settled: false,
            probe,
        };
        let begun = transaction.statement("BEGIN IMMEDIATE").await;
        begun.map_err(unavailable)?;
        Ok(transaction)
    }

    /// Makes the changes durable.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let committed = self.statement("COMMIT").await;
        committed.map_err(|error| {
            if is_full(&error) {
                // The disk has no room for the commit record, so the transaction did not happen.
                unavailable(error)
            } else {
                StoreError::Unknown(explain(error))
            }
        })?;
        self.settled = true;
        Ok(())
    }

    async fn statement(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        let done = sqlx::query(text).execute(&mut *self.connection).await;
        done.map(drop)
    }

    /// Rolls back and keeps the connection, for ends that are not a failure of the store.
    pub async fn roll_back(mut self) {
        match self.statement("ROLLBACK").await {
            Ok(()) => self.settled = true,
            Err(error) => tracing::debug!(%error, "rollback failed; the connection is replaced"),
        }
    }

    /// Rolls back because of `error`, and returns it. Only an error of the store closes the connection.
    pub async fn give_up(self, error: StoreError) -> StoreError {
        match error {
            StoreError::Conflict { .. } | StoreError::Invalid(_) => self.roll_back().await,
            _ => drop(self),
        }
        error
    }
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        if !self.settled {
            self.probe.suspect();
            self.connection.close_on_drop();
        }
    }
}

impl Deref for WriteTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for WriteTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::SqliteStore;
    use super::*;
    use crate::{DocStore as _, Expect, Op};

    async fn store(folder: &tempfile::TempDir) -> SqliteStore {
        let file = folder.path().join("state.db");
        SqliteStore::open(&file).await.unwrap()
    }

    async fn put(store: &SqliteStore, key: &str) -> Result<u64, StoreError> {
        store.commit(vec![Op::put(key, "v", Expect::Any)]).await
    }

    /// Makes the store's connection refuse to write until it is replaced.
    async fn spoil(store: &SqliteStore, pragma: &'static str) {
        sqlx::query(pragma).execute(&store.writer).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_on_which_a_write_failed_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        put(&store, "before").await.unwrap();
        spoil(&store, "PRAGMA query_only = on").await;
        let error = put(&store, "during").await.unwrap_err().to_string();
        assert!(error.contains("read-only"), "{error}");
        assert!(store.get("during").await.unwrap().is_none());
        put(&store, "after").await.unwrap();
    }

    #[tokio::test]
    async fn a_database_that_may_not_grow_takes_writes_again_once_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        spoil(&store, "PRAGMA max_page_count = 1").await;
        let large = || vec![Op::put("large", vec![7; 1 << 20], Expect::Any)];
        let error = store.commit(large()).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Unavailable(text) if text.contains("disk is full")),
            "{error}"
        );
        // The connection with that limit was replaced.
        store.commit(large()).await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_that_leaves_in_a_transaction_blocks_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        for round in 0..20 {
            let large = vec![7; 1 << 20];
            let writes = store.commit(vec![Op::put("large", large, Expect::Any)]);
            // Whether it finished by then or not, the next commit gets a usable connection.
            let _ = tokio::time::timeout(Duration::from_micros(round * 200), writes).await;
            put(&store, "after").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_store_that_refused_a_write_is_not_in_order_until_it_takes_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store.check().await.unwrap();
        // Where the probe's file would be.
        std::fs::create_dir(folder.path().join("state.probe")).unwrap();
        store.check().await.unwrap();
        spoil(&store, "PRAGMA query_only = on").await;
        put(&store, "during").await.unwrap_err();
        for _ in 0..2 {
            let error = store.check().await.unwrap_err().to_string();
            assert!(error.contains("takes no writes"), "{error}");
        }
        std::fs::remove_dir(folder.path().join("state.probe")).unwrap();
        store.check().await.unwrap();
        assert!(!folder.path().join("state.probe").exists());
        assert_eq!(store.probe.suspicion(), None);
        // The probe writes to the database, too.
        store.probe.suspect();
        spoil(&store, "PRAGMA query_only = on").await;
        let error = store.check().await.unwrap_err().to_string();
        assert!(error.contains("read-only"), "{error}");
        store.check().await.unwrap();
    }

    #[tokio::test]
    async fn a_conflict_keeps_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        spoil(&store, "CREATE TEMP TABLE same_connection (x)").await;
        put(&store, "k").await.unwrap();
        let twice = store.commit(vec![Op::put("k", "v", Expect::Absent)]).await;
        assert!(matches!(twice, Err(StoreError::Conflict { .. })));
        sqlx::query("SELECT * FROM same_connection")
            .fetch_optional(&store.writer)
            .await
            .unwrap();
    }
}
