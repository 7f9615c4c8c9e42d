//! Finds blobs that decay on disk: hashes those that deployments use, shortly after the start and then daily, slowly.
//!
//! A replica's start checks what it needs anyway. This finds damage before a start does, and makes the checks of later
//! starts quick.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use samovar_store::blobs::{BlobError, Blobs};
use samovar_types::digest::Digest;

use crate::registry::{Registry, RegistryError};

/// From one round to the next.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Scrubs for as long as the node runs.
pub async fn run(registry: Registry, blobs: Blobs) {
    let mut which = Which::Unknown;
    loop {
        match round(&registry, &blobs, which).await {
            Ok(Found { damaged: 0, .. }) => {}
            Ok(found) => tracing::error!(
                damaged = found.damaged,
                checked = found.checked,
                "blobs are damaged on disk; push their models again"
            ),
            Err(error) => tracing::warn!(%error, "cannot look for damaged blobs"),
        }
        which = Which::All;
        tokio::time::sleep(PERIOD).await;
    }
}

/// The blobs that a round hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that this process has not hashed yet.
    Unknown,
    /// All that deployments use.
    All,
}

/// What a round found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    checked: usize,
    damaged: usize,
}

async fn round(registry: &Registry, blobs: &Blobs, which: Which) -> Result<Found, RegistryError> {
    let mut used: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    for view in registry.models().await? {
        for deployment in view.deployments.values() {
            for digest in deployment.bundle.blobs().into_keys() {
                used.entry(digest)
                    .or_default()
                    .insert(view.model.name.clone());
            }
        }
    }
    let mut found = Found::default();
    for (digest, models) in used {
        if which == Which::Unknown && blobs.is_known(digest) {
            continue;
        }
        found.checked += 1;
        match blobs.scrub(digest).await {
            Ok(()) => {}
            Err(error @ (BlobError::Damaged { .. } | BlobError::NotFound { .. })) => {
                found.damaged += 1;
                tracing::error!(%digest, ?models, %error, "a blob that models use is damaged");
            }
            Err(error) => tracing::warn!(%digest, ?models, %error, "cannot check a blob"),
        }
    }
    Ok(found)
}
