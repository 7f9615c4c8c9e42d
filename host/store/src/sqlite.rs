//! The store of one machine: SQLite, one writer beside several readers.

mod async_requests;
mod change_log;
mod documents;
mod errors;
mod leases;
mod transaction;
mod usage;
mod watcher;
mod write_probe;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::watch;

use crate::{Rev, StoreError};
use change_log::to_rev;
use errors::unavailable;
use transaction::WriteTransaction;
use write_probe::WriteProbe;

/// Connections that read.
const READERS: u32 = 4;
/// Longest wait for a connection or for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A store in one file.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    /// The newest revision that this process has written: a hint that there is something to read.
    newest: watch::Sender<Rev>,
    probe: Arc<WriteProbe>,
}

impl SqliteStore {
    /// Opens the file, creates it if needed, and migrates its tables.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        let failed = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("{}: {error}", file.display()))
        };
        let options = SqliteConnectOptions::from_str("sqlite:")
            .map_err(|error| failed(&error))?
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode, anything less than FULL may lose acknowledged commits in a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = |connections: u32| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(BUSY_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let writer = pool(1)
            .connect_with(options.clone())
            .await
            .map_err(|error| failed(&error))?;
        sqlx::migrate!("./migrations")
            .run(&writer)
            .await
            .map_err(|error| failed(&error))?;
        let readers = pool(READERS)
            .connect_with(options.pragma("query_only", "on"))
            .await
            .map_err(|error| failed(&error))?;
        let rev: i64 = sqlx::query_scalar("SELECT rev FROM revision")
            .fetch_one(&readers)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Self {
            writer,
            readers,
            newest: watch::Sender::new(to_rev(rev)),
            probe: Arc::new(WriteProbe::new(file)),
        })
    }

    /// Whether nothing was ever committed to it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        let rev: i64 = sqlx::query_scalar("SELECT rev FROM revision")
            .fetch_one(&self.readers)
            .await
            .map_err(unavailable)?;
        Ok(rev == 0)
    }

    /// Begins a write transaction, which is the only way to write to this store.
    async fn begin(&self) -> Result<WriteTransaction, StoreError> {
        WriteTransaction::begin(&self.writer, self.probe.clone()).await
    }

    /// Writes as much as a healthy disk has room for, and changes nothing.
    async fn probe_writes(&self) -> Result<(), StoreError> {
        self.probe.write_file().await?;
        let mut transaction = self.begin().await?;
        sqlx::query("UPDATE revision SET rev = rev")
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
        self.end(transaction, 0).await
    }

    /// Commits, and announces revision `rev` to watches.
    async fn end(&self, transaction: WriteTransaction, rev: Rev) -> Result<(), StoreError> {
        transaction.commit().await?;
        self.newest.send_if_modified(|newest| {
            let later = rev > *newest;
            *newest = rev.max(*newest);
            later
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn commits_are_durable_by_setting() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db"))
            .await
            .unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&store.writer)
            .await
            .unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&store.writer)
            .await
            .unwrap();
        assert_eq!((synchronous, journal.as_str()), (2, "wal"));
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.db");
        std::fs::write(&file, "x".repeat(8192)).unwrap();
        let error = SqliteStore::open(&file).await.err().unwrap().to_string();
        assert!(
            error.contains("state.db") && error.contains("not a database"),
            "{error}"
        );
    }
}
