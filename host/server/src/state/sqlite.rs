//! The store of one machine: SQLite, one writer beside several readers.

mod async_requests;
mod async_rows;
mod transaction;
mod usage;
mod watcher;
mod write_probe;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::Row;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use tokio::sync::watch;

use super::{
    Changes, Doc, DocStore, Expect, Lease, Listing, MAX_RANGE, Op, Order, Range, Rev, StoreError,
    check_key, check_lease, check_ops, check_prefix, lease_key,
};
use transaction::WriteTransaction;
use watcher::Watcher;
use write_probe::WriteProbe;

/// Revisions whose changes are kept for watches that come back.
const KEPT_REVISIONS: Rev = 4096;
/// The log is cut once in so many commits, so that most commits do not pay for it.
const COMPACT_EVERY: Rev = 256;
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
    /// Opens the file, made if it is not there, and brings its tables up to date.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        let failed = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("{}: {error}", file.display()))
        };
        let options = SqliteConnectOptions::from_str("sqlite:")
            .map_err(|error| failed(&error))?
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode, anything less than FULL may lose acknowledged commits with the power.
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
    /// When it cannot be read.
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        let rev: i64 = sqlx::query_scalar("SELECT rev FROM revision")
            .fetch_one(&self.readers)
            .await
            .map_err(unavailable)?;
        Ok(rev == 0)
    }

    /// Begins a transaction that writes: the only way to write to this store.
    async fn begin(&self) -> Result<WriteTransaction, StoreError> {
        WriteTransaction::begin(&self.writer, self.probe.clone()).await
    }

    /// Writes as much as a disk in order has room for, and changes nothing.
    async fn probe_writes(&self) -> Result<(), StoreError> {
        self.probe.write_file().await?;
        let mut transaction = self.begin().await?;
        sqlx::query("UPDATE revision SET rev = rev")
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
        self.end(transaction, 0).await
    }

    /// Commits, and hints to watches that revision `rev` can be read.
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
        if rev.is_multiple_of(COMPACT_EVERY) {
            cut_log(&mut transaction, rev.saturating_sub(KEPT_REVISIONS)).await?;
        }
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
        cut_log(&mut transaction, up_to).await?;
        self.end(transaction, 0).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        check_lease(name, ttl)?;
        let key = lease_key(name);
        let mut transaction = self.begin().await?;
        let free: bool = sqlx::query_scalar(
            "SELECT NOT EXISTS (SELECT 1 FROM leases \
             WHERE name = ?1 AND expires_at_ms > CAST(unixepoch('subsec') * 1000 AS INTEGER))",
        )
        .bind(name)
        .fetch_one(&mut *transaction)
        .await
        .map_err(unavailable)?;
        if !free {
            transaction.roll_back().await;
            return Ok(None);
        }
        let token = next_rev(&mut transaction).await?;
        write(&mut transaction, token, 0, &key, holder.as_bytes()).await?;
        sqlx::query(
            "INSERT INTO leases (name, token, expires_at_ms) \
             VALUES (?1, ?2, CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3) \
             ON CONFLICT (name) DO UPDATE SET token = excluded.token, expires_at_ms = excluded.expires_at_ms",
        )
        .bind(name)
        .bind(from_rev(token)?)
        .bind(millis(ttl))
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
        self.end(transaction, token).await?;
        Ok(Some(Lease {
            name: name.to_owned(),
            token,
        }))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        check_lease(&lease.name, ttl)?;
        let mut transaction = self.begin().await?;
        if let Err(error) = check_expectation(&mut transaction, &lease.fence()).await {
            return Err(transaction.give_up(error).await);
        }
        sqlx::query(
            "UPDATE leases SET expires_at_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3 \
             WHERE name = ?1 AND token = ?2",
        )
        .bind(&lease.name)
        .bind(from_rev(lease.token)?)
        .bind(millis(ttl))
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
        self.end(transaction, 0).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        check_key(&lease_key(&lease.name))?;
        let mut transaction = self.begin().await?;
        match check_expectation(&mut transaction, &lease.fence()).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => {
                transaction.roll_back().await;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let rev = next_rev(&mut transaction).await?;
        remove(&mut transaction, rev, 0, &lease_key(&lease.name)).await?;
        sqlx::query("DELETE FROM leases WHERE name = ?1")
            .bind(&lease.name)
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
        self.end(transaction, rev).await
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

async fn check_expectation(connection: &mut SqliteConnection, op: &Op) -> Result<(), StoreError> {
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

async fn next_rev(connection: &mut SqliteConnection) -> Result<Rev, StoreError> {
    let rev: i64 = sqlx::query_scalar("UPDATE revision SET rev = rev + 1 RETURNING rev")
        .fetch_one(connection)
        .await
        .map_err(unavailable)?;
    Ok(to_rev(rev))
}

async fn write(
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

async fn remove(
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

async fn log(
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

async fn cut_log(connection: &mut SqliteConnection, up_to: Rev) -> Result<(), StoreError> {
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

fn doc(row: &SqliteRow) -> Result<Doc, StoreError> {
    Ok(Doc {
        key: row.try_get("key").map_err(unavailable)?,
        rev: to_rev(row.try_get("rev").map_err(unavailable)?),
        value: Bytes::from(row.try_get::<Vec<u8>, _>("value").map_err(unavailable)?),
    })
}

/// The first text after all that start with `prefix`: keys are printable ASCII, which DEL follows.
fn prefix_end(prefix: &str) -> String {
    format!("{prefix}\u{7f}")
}

/// SQLite's integers are signed; the counter starts at 0 and only grows.
fn to_rev(rev: i64) -> Rev {
    rev.try_into().unwrap_or_default()
}

fn from_rev(rev: Rev) -> Result<i64, StoreError> {
    rev.try_into()
        .map_err(|_| StoreError::Invalid(format!("revision {rev} is beyond any store's")))
}

fn millis(ttl: Duration) -> i64 {
    // Never nothing, and never more than an hour: the time was checked.
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1)
}

fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(explain(error))
}

/// What SQLite calls a failure, without the details of its extended codes.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse().ok().map(|code: u32| code & 0xff)
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;

fn is_full(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_FULL)
}

/// Says what failed and what to do about it.
fn explain(error: sqlx::Error) -> String {
    match primary_code(&error) {
        Some(SQLITE_FULL) => {
            return "the disk is full: free some space where the data folder is".into();
        }
        Some(SQLITE_READONLY) => {
            return format!("the data folder is read-only ({error}): make it writable again");
        }
        Some(SQLITE_IOERR | SQLITE_CANTOPEN) => {
            return format!(
                "the disk of the data folder fails ({error}): see the system's log, and free or repair the disk"
            );
        }
        Some(SQLITE_CORRUPT) => {
            return format!("state.db is damaged ({error}): restore it from a backup");
        }
        Some(SQLITE_BUSY) => {
            return format!("another process has held state.db for {BUSY_TIMEOUT:?}");
        }
        _ => {}
    }
    match error {
        sqlx::Error::PoolTimedOut => format!(
            "no connection became free within {BUSY_TIMEOUT:?}: is the disk of the data folder slow?"
        ),
        sqlx::Error::PoolClosed => "the store was closed".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(folder: &Path) -> Arc<dyn DocStore> {
        Arc::new(SqliteStore::open(&folder.join("state.db")).await.unwrap())
    }

    crate::state::conformance::suite!(open);

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
    async fn the_log_of_changes_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db"))
            .await
            .unwrap();
        // As if that many commits had been made.
        sqlx::query("UPDATE revision SET rev = ?1")
            .bind(i64::try_from(KEPT_REVISIONS + COMPACT_EVERY - 2).unwrap())
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
            matches!(error, StoreError::Compacted { horizon } if horizon == COMPACT_EVERY),
            "{error}"
        );
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
