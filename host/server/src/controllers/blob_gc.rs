//! Deletes blobs that no deployment names and nothing on this node needs: when the last request to replaced or deleted code
//! has finished, and what interrupted pushes left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use samovar_store::blobs::{BlobError, Blobs};
use samovar_types::bundle::Bundle;
use samovar_types::digest::Digest;
use tokio::sync::mpsc;

use crate::catalog::cache::Cache;
use crate::catalog::informer::{Changes, Observer};
use crate::controllers::leadership::{Leadership, Role};
use crate::domain::keys;
use crate::registry::{Registry, RegistryError};
use crate::serving::Serving;
use crate::serving::blob_pins::{BlobPin, BlobPins, Deletion};

/// A blob that no deployment names is left alone for this long: its push may be on the way.
pub const UNNAMED: Duration = Duration::from_secs(24 * 3600);
/// How often old blobs are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// How long to wait until the cache shows what the store holds.
const MAX_LAG: Duration = Duration::from_secs(30);

/// Why blobs are not kept or not collected.
#[derive(Debug, thiserror::Error)]
pub enum BlobGcError {
    /// Some are not there.
    #[error(
        "{} blobs of the bundle are not on the server; upload them first",
        missing.len()
    )]
    Missing {
        /// Which.
        missing: Vec<Digest>,
    },
    /// The storage failed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// Who names blobs is not known.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Who names blobs is not known yet.
    #[error("this node has read the store up to revision {observed} only, and it is at {rev}")]
    Behind {
        /// Where the store is.
        rev: u64,
        /// How far the node has come.
        observed: u64,
    },
}

/// Deletes blobs that are needed no longer.
#[derive(Clone)]
pub struct BlobGc {
    registry: Registry,
    cache: Arc<Cache>,
    blobs: Blobs,
    pins: BlobPins,
    serving: Arc<Serving>,
    leadership: Arc<Leadership>,
}

impl BlobGc {
    /// Deletes blobs that the catalog does not name.
    pub fn new(
        registry: Registry,
        cache: Arc<Cache>,
        blobs: Blobs,
        pins: BlobPins,
        serving: Arc<Serving>,
        leadership: Arc<Leadership>,
    ) -> Self {
        Self {
            registry,
            cache,
            blobs,
            pins,
            serving,
            leadership,
        }
    }

    /// Runs for as long as the node does: looks at old blobs now and then, and at those that the last deployment or the
    /// last pin has stopped naming.
    pub async fn run(self, mut released: mpsc::UnboundedReceiver<BTreeSet<Digest>>) {
        self.leadership.acquired(Role::BlobGc).await;
        let mut sweeps = tokio::time::interval(SWEEP_EVERY);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let removed = tokio::select! {
                _ = sweeps.tick() => self.sweep(UNNAMED).await,
                Some(candidates) = released.recv() => self.remove(candidates).await,
            };
            match removed {
                Ok(0) => {}
                Ok(blobs) => tracing::info!(blobs, "removed blobs that no deployment names"),
                Err(error) => {
                    tracing::warn!(%error, "blobs that no deployment names stay until a later sweep");
                }
            }
        }
    }

    /// Keeps the blobs of a bundle that is about to be stored, until the pin is dropped.
    ///
    /// # Errors
    /// When some are not there.
    pub async fn pin(&self, bundle: &Bundle) -> Result<BlobPin, BlobGcError> {
        let pin = self.pins.pin_upload(bundle).await;
        let blobs = bundle.blobs();
        let missing = self.blobs.missing(&blobs).await?;
        if missing.is_empty() {
            return Ok(pin);
        }
        // The client uploads these, and then asks again.
        self.pins.expect(&blobs.into_keys().collect()).await;
        Err(BlobGcError::Missing { missing })
    }

    /// Keeps a blob that a client uploads, or asks for in order to push it.
    pub async fn expect(&self, digest: Digest) {
        self.pins.expect(&[digest].into()).await;
    }

    /// Deletes the blobs of these bundles that no deployment names and nothing pins.
    ///
    /// # Errors
    /// When the store or the storage fails; what is left then goes with a later start.
    pub async fn collect<'b>(
        &self,
        bundles: impl IntoIterator<Item = &'b Bundle>,
    ) -> Result<(), BlobGcError> {
        let bundles = bundles.into_iter();
        let candidates = bundles.flat_map(|one| one.blobs().into_keys());
        self.remove(candidates.collect()).await.map(drop)
    }

    /// Deletes blobs older than `age` that no deployment names: what pushes and reloads left that a crash cut off. Answers
    /// how many.
    ///
    /// # Errors
    /// When the store or the storage fails.
    pub async fn sweep(&self, age: Duration) -> Result<usize, BlobGcError> {
        let old = self.blobs.older_than(age).await?;
        self.remove(old).await
    }

    /// Deletes those of these blobs that no deployment names and nothing pins.
    async fn remove(&self, mut candidates: BTreeSet<Digest>) -> Result<usize, BlobGcError> {
        candidates.retain(|digest| !self.cache.names_blob(digest));
        if candidates.is_empty() || self.leadership.known_lease(Role::BlobGc).await.is_none() {
            // The node that holds it sees the same changes.
            return Ok(0);
        }
        let deletions = candidates.into_iter();
        let mut deletions: Vec<Deletion> = deletions
            .filter_map(|digest| self.pins.begin_deletion(digest))
            .collect();
        if deletions.is_empty() {
            return Ok(0);
        }
        // A push that pinned one of them until a moment ago may have stored a deployment that names it: the cache shows
        // that at this revision. A push that pins one from now on waits until it is deleted, and finds it missing.
        let rev = self.registry.newest_rev().await?;
        let reached = tokio::time::timeout(MAX_LAG, self.cache.reach(rev)).await;
        reached.map_err(|_| BlobGcError::Behind {
            rev,
            observed: self.cache.observed(),
        })?;
        // What cannot be read may name any of them.
        let unreadable = self.registry.unreadable().list();
        let names_blobs =
            |key: &str| key.starts_with(keys::MODELS) || key.starts_with(keys::DEPLOYMENTS);
        if let Some(one) = unreadable.iter().find(|one| names_blobs(&one.key)) {
            tracing::warn!(
                key = one.key,
                "no blob is removed while this document cannot be read"
            );
            return Ok(0);
        }
        deletions.retain(|one| !self.cache.names_blob(&one.digest()));
        let count = deletions.len();
        for deletion in deletions {
            self.serving.forget(deletion.digest()).await;
            self.blobs.delete(deletion.digest()).await?;
        }
        Ok(count)
    }
}

impl Observer for BlobGc {
    fn observe(&self, changes: &Changes) {
        self.pins.release(changes.unnamed_blobs.clone());
    }
}
