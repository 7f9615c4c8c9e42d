//! Reads the log of changes for one watch, in whole commits.

use std::time::Duration;

use futures::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::SqlitePool;
use tokio::sync::watch;

use super::change_log::{from_rev, to_rev};
use super::documents::prefix_end;
use super::errors::unavailable;
use crate::documents::PROGRESS_INTERVAL;
use crate::limits::MAX_COMMIT_BYTES;
use crate::{Change, Doc, Rev, StoreError};

/// Other processes do not announce their changes, so a watch polls at least this often.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const _: () = assert!(POLL_INTERVAL.as_millis() < PROGRESS_INTERVAL.as_millis());

enum NextRead {
    /// There may be more to read.
    Now,
    /// Everything was read.
    AfterHintOrInterval,
}

/// The position of a watch.
pub(super) struct Watcher {
    readers: SqlitePool,
    newest: watch::Receiver<Rev>,
    prefix: String,
    delivered: Rev,
    next_read: NextRead,
}

impl Watcher {
    /// Watches the keys under a prefix; `newest` hints that there is more to read.
    pub fn new(
        readers: SqlitePool,
        newest: watch::Receiver<Rev>,
        prefix: &str,
        after: Rev,
    ) -> Self {
        Self {
            readers,
            newest,
            prefix: prefix.to_owned(),
            delivered: after,
            next_read: NextRead::Now,
        }
    }

    /// The changes of the next commits, never a part of one, and the progress.
    pub async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        if matches!(self.next_read, NextRead::AfterHintOrInterval) {
            let hint = self.newest.wait_for(|newest| *newest > self.delivered);
            // A hint and a timeout both lead to a read.
            if let Ok(Err(_)) = tokio::time::timeout(POLL_INTERVAL, hint).await {
                return Err(StoreError::Unavailable("the store was closed".into()));
            }
        }
        let mut rows = sqlx::query(
            "SELECT revision.rev AS store_rev, revision.horizon, changes.rev, changes.key, changes.value \
             FROM revision LEFT JOIN changes ON changes.rev > ?1 AND changes.key >= ?2 AND changes.key < ?3 \
             ORDER BY changes.rev, changes.seq",
        )
        .bind(from_rev(self.delivered)?)
        .bind(&self.prefix)
        .bind(prefix_end(&self.prefix))
        .fetch(&self.readers);
        let mut changes = Vec::new();
        let mut bytes = 0;
        let mut delivered = self.delivered;
        let mut newest = self.delivered;
        self.next_read = NextRead::AfterHintOrInterval;
        while let Some(row) = rows.try_next().await.map_err(unavailable)? {
            let store_rev = to_rev(row.try_get("store_rev").map_err(unavailable)?);
            let horizon = to_rev(row.try_get("horizon").map_err(unavailable)?);
            if self.delivered < horizon {
                return Err(StoreError::Compacted { horizon });
            }
            if self.delivered > store_rev {
                return Err(StoreError::Invalid(format!(
                    "a watch after revision {}, but the newest is {store_rev}: this is not the store that it was",
                    self.delivered
                )));
            }
            newest = store_rev;
            let Some(key) = row
                .try_get::<Option<String>, _>("key")
                .map_err(unavailable)?
            else {
                break;
            };
            let rev = to_rev(row.try_get("rev").map_err(unavailable)?);
            if rev > delivered && bytes > MAX_COMMIT_BYTES {
                self.next_read = NextRead::Now;
                break;
            }
            let value: Option<Vec<u8>> = row.try_get("value").map_err(unavailable)?;
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            delivered = rev;
            changes.push(match value {
                Some(value) => Change::Put(Doc {
                    key,
                    rev,
                    value: value.into(),
                }),
                None => Change::Delete { key, rev },
            });
        }
        self.delivered = match self.next_read {
            NextRead::Now => delivered,
            // Everything of the snapshot was read.
            NextRead::AfterHintOrInterval => newest,
        };
        changes.push(Change::Progress(self.delivered));
        Ok(changes)
    }
}
