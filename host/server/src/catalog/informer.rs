//! Follows the changes of the store, of whichever node: updates the cache, wakes the observers, and publishes events. Nothing
//! else changes what the node knows of the catalog, so every change takes this one path.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use samovar_store::{DocStore, Rev, StoreError};
use samovar_types::digest::Digest;
use samovar_types::id::ModelId;
use tokio::sync::broadcast;

use super::cache::{Cache, Documents, Unreadable};
use super::commits::{ChangedDoc, Commits, deltas};
use crate::domain::api_key::ApiKey;
use crate::domain::events::{Event, EventId, What};
use crate::registry::{Registry, RegistryError};

/// How long a node waits before it asks a store again that failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Acts on the catalog. Observers are called before the cache reports a revision as observed, so that a handler which waits
/// for the revision finds its work queued.
pub trait Observer: Send + Sync {
    /// The cache shows these changes from now on. Must not wait: it notes what there is to look at.
    fn observe(&self, changes: &Changes);
}

/// What is another in the cache than before.
#[derive(Debug, Default)]
pub struct Changes {
    /// The revision that the cache showed before.
    pub after: Rev,
    /// The revision that it shows now.
    pub rev: Rev,
    /// The models that changed, or are gone.
    pub models: BTreeSet<ModelId>,
    /// The API keys that changed, by their prefixes; those that are gone without a key.
    pub api_keys: Vec<(String, Option<ApiKey>)>,
    /// The secrets that changed.
    pub secrets: ChangedSecrets,
    /// The blobs that no deployment names any more.
    pub unnamed_blobs: BTreeSet<Digest>,
}

/// The secrets that changed.
#[derive(Debug, PartialEq, Eq)]
pub enum ChangedSecrets {
    /// Those of these names.
    Named(BTreeSet<String>),
    /// Maybe any.
    All,
}

impl Default for ChangedSecrets {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

/// Follows one store.
pub struct Informer {
    store: Arc<dyn DocStore>,
    registry: Registry,
    cache: Arc<Cache>,
    events: broadcast::Sender<Arc<Event>>,
    observers: Vec<Arc<dyn Observer>>,
    /// Up to where the cache shows the store.
    at: Option<Rev>,
}

impl Informer {
    /// Follows a store, once it runs: wakes these observers, then tells what happened.
    pub fn new(
        store: Arc<dyn DocStore>,
        registry: Registry,
        cache: Arc<Cache>,
        events: broadcast::Sender<Arc<Event>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            store,
            registry,
            cache,
            events,
            observers,
            at: None,
        }
    }

    /// As if everything had been read up to a revision.
    #[cfg(test)]
    pub fn at(self, at: Option<Rev>) -> Self {
        Self { at, ..self }
    }

    /// Follows the store for as long as the node runs.
    pub async fn run(mut self) {
        loop {
            match self.follow().await {
                Ok(()) => {}
                Err(RegistryError::Store(StoreError::Compacted { horizon })) => {
                    tracing::warn!(horizon, "fell behind the store; reading everything again");
                    self.at = None;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot follow the store; trying again");
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn follow(&mut self) -> Result<(), RegistryError> {
        let at = match self.at {
            Some(at) => at,
            None => self.read_everything().await?,
        };
        let mut changes = self.store.watch("", at);
        let mut commits = Commits::default();
        while let Some(change) = changes.next().await {
            if let Some((changed, rev)) = commits.take(change?) {
                self.take_over(&changed, rev);
            }
        }
        Ok(())
    }

    /// Reads what there is: for a beginning, or because some changes are no longer kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read_everything(&mut self) -> Result<Rev, RegistryError> {
        let found = self.registry.recover().await?;
        let api_keys = self.registry.api_keys().await?;
        let now = Documents::of(found.models, api_keys);
        let changes = self.cache.write(|documents| {
            let before = std::mem::replace(documents, now);
            differences(&before, documents)
        });
        let changes = Changes {
            after: self.cache.observed(),
            rev: found.rev,
            ..changes
        };
        self.at = Some(found.rev);
        self.wake(&changes);
        if !self.cache.set_observed(found.rev) {
            self.tell(Event {
                id: Some(EventId::end_of(found.rev)),
                model: None,
                what: What::Missed,
            });
        }
        Ok(found.rev)
    }

    /// Takes whole commits over.
    fn take_over(&mut self, changed: &[ChangedDoc], rev: Rev) {
        let mut changes = Changes {
            after: self.cache.observed(),
            rev,
            ..Changes::default()
        };
        let mut events = Vec::new();
        let mut secrets = BTreeSet::new();
        let unreadable = self.registry.unreadable();
        let report = |key: &str, error: Option<Unreadable>| match error {
            None => unreadable.forget(key),
            Some(error) => unreadable.report(key, error.reason()),
        };
        self.cache.write(|documents| {
            for delta in deltas(documents, changed, report) {
                changes.models.extend(delta.model);
                changes.api_keys.extend(delta.api_key);
                secrets.extend(delta.secret);
                events.extend(delta.events);
            }
            documents.publish(&changes.models);
            changes.unnamed_blobs = documents.take_unnamed();
        });
        changes.secrets = ChangedSecrets::Named(secrets);
        self.at = Some(rev);
        self.wake(&changes);
        // Before the events: a subscriber that comes between the two either gets them or begins after them.
        self.cache.set_observed(rev);
        for event in events {
            self.tell(event);
        }
    }

    fn tell(&self, event: Event) {
        // There may be no subscriber.
        let _ = self.events.send(Arc::new(event));
    }

    fn wake(&self, changes: &Changes) {
        for observer in &self.observers {
            observer.observe(changes);
        }
    }
}

/// What may be another after everything was read again.
fn differences(before: &Documents, now: &Documents) -> Changes {
    let gone = before.api_keys().keys();
    let gone = gone.filter(|prefix| !now.api_keys().contains_key(*prefix));
    let gone = gone.map(|prefix| (prefix.clone(), None));
    let there = now.api_keys().iter();
    let there = there.map(|(prefix, key)| (prefix.clone(), Some(key.clone())));
    Changes {
        models: before.models().chain(now.models()).collect(),
        api_keys: gone.chain(there).collect(),
        secrets: ChangedSecrets::All,
        unnamed_blobs: before.blobs_without(now),
        ..Changes::default()
    }
}
