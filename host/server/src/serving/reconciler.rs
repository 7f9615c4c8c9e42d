//! Serves what the cache shows, model by model. The informer wakes it; nothing else changes what is served.

use std::sync::Arc;
use std::time::Duration;

use samovar_store::Rev;
use samovar_types::id::ModelId;
use tokio::sync::watch;

use super::Serving;
use crate::catalog::cache::Cache;
use crate::catalog::informer::{Changes, Observer};
use crate::work_queue::WorkQueue;

/// Models that are applied at once.
const MAX_AT_ONCE: usize = 8;
/// When a model is tried again of which something cannot be served.
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// How long a caller waits until what it committed is served. It takes milliseconds, unless the store cannot be read.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// Brings models from the cache into service.
pub struct Reconciler {
    cache: Arc<Cache>,
    serving: Arc<Serving>,
    models: WorkQueue<ModelId>,
}

/// A change is stored, and this node does not serve it yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the change is stored at revision {rev}, but within {} s this node has read the store only up to revision {observed}: the \
     change takes effect once the node can read its store again",
    MAX_WAIT.as_secs()
)]
pub struct NotApplied {
    /// The commit.
    pub rev: Rev,
    /// How far the node has come.
    pub observed: Rev,
}

impl Reconciler {
    /// Serves what this cache shows, as long as [`Self::run`] runs.
    pub fn new(cache: Arc<Cache>, serving: Arc<Serving>) -> Self {
        Self {
            cache,
            serving,
            models: WorkQueue::default(),
        }
    }

    /// Waits until this node serves a model as it is since a commit.
    ///
    /// # Errors
    /// When the node cannot follow the store; the change is stored nevertheless.
    pub async fn applied(&self, model: ModelId, rev: Rev) -> Result<(), NotApplied> {
        let waiting = async {
            self.cache.reach(rev).await;
            self.models.finished(&model, rev).await;
        };
        let waited = tokio::time::timeout(MAX_WAIT, waiting).await;
        waited.map_err(|_| NotApplied {
            rev,
            observed: self.cache.observed(),
        })
    }

    /// Waits until this node acts on everything that was committed up to there and is of no model.
    ///
    /// # Errors
    /// When the node cannot follow the store; the change is stored nevertheless.
    pub async fn observed(&self, rev: Rev) -> Result<(), NotApplied> {
        let waited = tokio::time::timeout(MAX_WAIT, self.cache.reach(rev)).await;
        waited.map_err(|_| NotApplied {
            rev,
            observed: self.cache.observed(),
        })
    }

    /// Applies a model once more, of which something could not be served, and waits for that.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn try_again(&self, model: ModelId) -> Result<(), NotApplied> {
        let rev = self.cache.observed();
        self.models.redo(model, rev);
        self.applied(model, rev).await
    }

    /// Changes whenever a model has been applied.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.models.subscribe()
    }

    /// Waits until everything is served that the cache shows now.
    pub async fn caught_up(&self) {
        let rev = self.cache.observed();
        for view in self.cache.models() {
            self.models.finished(&view.model.id, rev).await;
        }
    }

    /// Serves what the cache shows, for as long as the node runs.
    pub async fn run(self: Arc<Self>) {
        let reconcile = |model| {
            let reconciler = self.clone();
            async move { reconciler.reconcile(model).await }
        };
        self.models.run(MAX_AT_ONCE, reconcile).await;
    }

    async fn reconcile(&self, model: ModelId) -> Option<Duration> {
        let Some(view) = self.cache.model(model) else {
            self.serving.remove(model);
            return None;
        };
        let broken = self.serving.apply(view).await;
        (broken > 0).then_some(RETRY_DELAY)
    }
}

impl Observer for Reconciler {
    fn observe(&self, changes: &Changes) {
        for model in &changes.models {
            self.models.add(*model, changes.after, changes.rev);
        }
    }
}
