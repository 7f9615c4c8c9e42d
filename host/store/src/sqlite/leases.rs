//! Leases: rows with the time at which they expire, by SQLite's clock, and a document that says who holds each.

use std::time::Duration;

use super::SqliteStore;
use super::change_log::{from_rev, next_rev};
use super::documents::{check_expectation, remove, write};
use super::errors::unavailable;
use crate::documents::lease_key;
use crate::limits::{check_key, check_lease};
use crate::{Lease, StoreError};

impl SqliteStore {
    pub(super) async fn take_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        check_lease(name, ttl)?;
        let key = lease_key(name);
        let mut transaction = self.begin().await?;
        let is_free: bool = sqlx::query_scalar(
            "SELECT NOT EXISTS (SELECT 1 FROM leases \
             WHERE name = ?1 AND expires_at_ms > CAST(unixepoch('subsec') * 1000 AS INTEGER))",
        )
        .bind(name)
        .fetch_one(&mut *transaction)
        .await
        .map_err(unavailable)?;
        if !is_free {
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

    pub(super) async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
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

    pub(super) async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
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
}

fn millis(ttl: Duration) -> i64 {
    // At least one, and at most an hour's: the time was checked.
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1)
}
