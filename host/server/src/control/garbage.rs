//! Which blobs are needed: a bundle's are kept from before its push until it is stored, and go when no deployment names them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use samovar_store::blobs::{BlobError, Blobs};
use samovar_types::bundle::Bundle;
use samovar_types::digest::Digest;

use crate::control::serving::Serving;
use crate::domain::keys;
use crate::registry::{Registry, RegistryError};

/// A blob that nobody names is left alone for this long: its push may be on the way.
pub const UNNAMED: Duration = Duration::from_secs(24 * 3600);

/// Why blobs are not kept or not collected.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
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
}

/// Keeps what is needed and takes away the rest.
#[derive(Clone)]
pub struct Garbage {
    registry: Registry,
    blobs: Blobs,
    serving: Arc<Serving>,
    kept: Arc<Mutex<BTreeMap<Digest, usize>>>,
    /// Looking whether a blob is there and taking it away must not happen at once.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// While this is held, the blobs of a bundle stay, though no deployment names them yet.
pub struct Kept {
    kept: Arc<Mutex<BTreeMap<Digest, usize>>>,
    digests: BTreeSet<Digest>,
}

impl Garbage {
    /// Takes away blobs that the registry does not name.
    pub fn new(registry: Registry, blobs: Blobs, serving: Arc<Serving>) -> Self {
        Self {
            registry,
            blobs,
            serving,
            kept: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Keeps the blobs of a bundle that is about to be stored.
    ///
    /// # Errors
    /// When some are not there.
    pub async fn keep(&self, bundle: &Bundle) -> Result<Kept, GarbageError> {
        let _turn = self.turn.lock().await;
        let blobs = bundle.blobs();
        let missing = self.blobs.missing(&blobs).await?;
        if !missing.is_empty() {
            return Err(GarbageError::Missing { missing });
        }
        let digests: BTreeSet<Digest> = blobs.into_keys().collect();
        let mut kept = lock(&self.kept);
        for digest in &digests {
            *kept.entry(*digest).or_default() += 1;
        }
        drop(kept);
        Ok(Kept {
            kept: self.kept.clone(),
            digests,
        })
    }

    /// Takes away the blobs of these bundles that no deployment names and no push keeps.
    ///
    /// # Errors
    /// When the store or the storage fails; what is left then goes with a later start.
    pub async fn collect<'b>(
        &self,
        bundles: impl IntoIterator<Item = &'b Bundle>,
    ) -> Result<(), GarbageError> {
        let bundles = bundles.into_iter();
        let candidates: BTreeSet<Digest> =
            bundles.flat_map(|one| one.blobs().into_keys()).collect();
        self.remove(candidates).await.map(drop)
    }

    /// Takes away what pushes and reloads left that a crash cut off: blobs older than `age` that nobody names. Says how
    /// many.
    ///
    /// # Errors
    /// When the store or the storage fails.
    pub async fn sweep(&self, age: Duration) -> Result<usize, GarbageError> {
        let old = self.blobs.older_than(age).await?;
        self.remove(old).await
    }

    async fn remove(&self, mut candidates: BTreeSet<Digest>) -> Result<usize, GarbageError> {
        let _turn = self.turn.lock().await;
        // Before the registry is read: what is let go of until then is named there.
        candidates.retain(|digest| !lock(&self.kept).contains_key(digest));
        if candidates.is_empty() {
            return Ok(0);
        }
        let models = self.registry.models().await?;
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
        let deployments = models.iter().flat_map(|view| view.deployments.values());
        for digest in deployments.flat_map(|one| one.bundle.blobs().into_keys()) {
            candidates.remove(&digest);
        }
        for digest in &candidates {
            self.serving.forget(*digest).await;
            self.blobs.delete(*digest).await?;
        }
        Ok(candidates.len())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut kept = lock(&self.kept);
        for digest in &self.digests {
            if let Some(count) = kept.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    kept.remove(digest);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts, each changed by itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
