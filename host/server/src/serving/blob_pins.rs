//! Blobs that this node needs although no stored deployment names them, or no longer: those that a client has just uploaded
//! or asked for, those of a bundle that is about to be stored, and those of code whose last requests still run. None of
//! them is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use samovar_types::bundle::Bundle;
use samovar_types::digest::Digest;
use tokio::sync::{Notify, mpsc};

/// How long a push may take from its first question about a blob.
const MAX_PUSH: Duration = Duration::from_secs(600);
/// Blobs of pushes on their way that are remembered.
const MAX_EXPECTED: usize = 100_000;

/// The pins of a node.
#[derive(Clone)]
pub struct BlobPins(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// A deletion has ended.
    deleted: Notify,
    /// Receives blobs that may have become garbage.
    released: mpsc::UnboundedSender<BTreeSet<Digest>>,
}

#[derive(Default)]
struct State {
    counts: BTreeMap<Digest, usize>,
    /// Blobs of pushes that are on their way, each since when.
    expected: BTreeMap<Digest, Instant>,
    /// Blobs that are being deleted: a pin waits until that has ended.
    deleting: BTreeSet<Digest>,
}

/// Keeps the blobs of a bundle until it is dropped.
pub struct BlobPin {
    pins: BlobPins,
    digests: BTreeSet<Digest>,
    on_release: OnRelease,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnRelease {
    /// Leaves what no deployment names to its uploader, who may try again.
    Keep,
    /// Has it collected.
    Collect,
}

/// The right to delete a blob. While it is held, the blob cannot be pinned.
pub struct Deletion {
    pins: BlobPins,
    digest: Digest,
}

impl BlobPins {
    /// Without pins. `released` receives blobs whose last pin was dropped.
    pub fn new(released: mpsc::UnboundedSender<BTreeSet<Digest>>) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            deleted: Notify::new(),
            released,
        }))
    }

    /// Keeps blobs whose push is on its way, after deletions of them have ended: whether they are there is to be looked
    /// at afterwards.
    pub async fn expect(&self, digests: &BTreeSet<Digest>) {
        let now = Instant::now();
        self.after_deletions(digests, |state| {
            if state.expected.len() >= MAX_EXPECTED {
                state
                    .expected
                    .retain(|_, since| now.duration_since(*since) < MAX_PUSH);
            }
            state
                .expected
                .extend(digests.iter().map(|digest| (*digest, now)));
        })
        .await;
    }

    /// Pins the blobs of a bundle that is about to be stored, after deletions of them have ended: whether they are there
    /// is to be looked at afterwards.
    pub async fn pin_upload(&self, bundle: &Bundle) -> BlobPin {
        let digests: BTreeSet<Digest> = bundle.blobs().into_keys().collect();
        self.after_deletions(&digests, |state| {
            for digest in &digests {
                state.expected.remove(digest);
            }
            state.add(&digests);
        })
        .await;
        self.pin_of(digests, OnRelease::Keep)
    }

    /// Changes the state at an instant at which none of these blobs is being deleted.
    async fn after_deletions(&self, digests: &BTreeSet<Digest>, change: impl FnOnce(&mut State)) {
        loop {
            let deleted = self.0.deleted.notified();
            tokio::pin!(deleted);
            // Before the look, so that no end of a deletion falls between.
            deleted.as_mut().enable();
            {
                let mut state = self.lock();
                if state.deleting.is_disjoint(digests) {
                    return change(&mut state);
                }
            }
            deleted.await;
        }
    }

    /// Pins the blobs of a bundle that something stored or another pin keeps at this moment; has them collected when they
    /// are needed no longer.
    pub fn pin_served(&self, bundle: &Bundle) -> BlobPin {
        let digests: BTreeSet<Digest> = bundle.blobs().into_keys().collect();
        self.lock().add(&digests);
        self.pin_of(digests, OnRelease::Collect)
    }

    /// Hands these blobs to the collector: a deployment or a pin has stopped needing them.
    pub fn release(&self, digests: BTreeSet<Digest>) {
        if !digests.is_empty() {
            // A node that stops collects nothing.
            let _ = self.0.released.send(digests);
        }
    }

    /// Begins to delete a blob; nothing while it is pinned or its push is on its way, or when it is being deleted already.
    pub fn begin_deletion(&self, digest: Digest) -> Option<Deletion> {
        let mut state = self.lock();
        let since = state.expected.get(&digest);
        let is_expected = since.is_some_and(|since| since.elapsed() < MAX_PUSH);
        let is_needed = is_expected || state.counts.contains_key(&digest);
        let free = !is_needed && state.deleting.insert(digest);
        free.then(|| Deletion {
            pins: self.clone(),
            digest,
        })
    }

    fn pin_of(&self, digests: BTreeSet<Digest>, on_release: OnRelease) -> BlobPin {
        BlobPin {
            pins: self.clone(),
            digests,
            on_release,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts and a set, each entry changed by itself.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, digests: &BTreeSet<Digest>) {
        for digest in digests {
            *self.counts.entry(*digest).or_default() += 1;
        }
    }

    /// Takes one pin away from each, and answers those that have none left.
    fn remove(&mut self, digests: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        let mut released = BTreeSet::new();
        for digest in digests {
            if let Some(count) = self.counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(digest);
                    released.insert(*digest);
                }
            }
        }
        released
    }
}

impl BlobPin {
    /// Has the blobs collected when this is dropped and nothing else needs them, instead of leaving them to their
    /// uploader.
    #[must_use]
    pub fn collect_on_release(mut self) -> Self {
        self.on_release = OnRelease::Collect;
        self
    }
}

impl Drop for BlobPin {
    fn drop(&mut self) {
        let released = self.pins.lock().remove(&self.digests);
        if self.on_release == OnRelease::Collect {
            self.pins.release(released);
        }
    }
}

impl Deletion {
    /// The blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Drop for Deletion {
    fn drop(&mut self) {
        self.pins.lock().deleting.remove(&self.digest);
        self.pins.0.deleted.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn bundle(component: &str) -> (Bundle, Digest) {
        let digest = Digest::of(component.as_bytes());
        let text = format!(r#"{{"name":"m","component":{{"digest":"{digest}","size":1}}}}"#);
        (serde_json::from_str(&text).unwrap(), digest)
    }

    #[tokio::test]
    async fn a_blob_is_pinned_or_deleted_never_both() {
        let (sender, mut released) = mpsc::unbounded_channel();
        let pins = BlobPins::new(sender);
        let (bundle, digest) = bundle("one");
        let upload = pins.pin_upload(&bundle).await;
        let served = pins.pin_served(&bundle);
        assert!(pins.begin_deletion(digest).is_none());
        drop(served);
        assert!(released.try_recv().is_err(), "the upload keeps it");
        assert!(pins.begin_deletion(digest).is_none());
        drop(upload);
        assert!(released.try_recv().is_err(), "its uploader may try again");

        let deletion = pins.begin_deletion(digest).unwrap();
        assert!(pins.begin_deletion(digest).is_none());
        let mut waiting = std::pin::pin!(pins.pin_upload(&bundle));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(deletion);
        let upload = waiting.await;
        assert!(pins.begin_deletion(digest).is_none());
        drop(upload);

        pins.expect(&[digest].into()).await;
        assert!(pins.begin_deletion(digest).is_none(), "its push may come");
        drop(pins.pin_upload(&bundle).await);
        assert!(pins.begin_deletion(digest).is_some(), "its push has come");

        drop(pins.pin_served(&bundle));
        assert_eq!(released.recv().await, Some([digest].into()));
    }
}
