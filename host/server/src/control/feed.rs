//! Follows the changes of the store, whoever makes them: serves what they say, and tells subscribers what happened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use samovar_store::{Change, DocStore, Rev, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::control::access::Access;
use crate::control::applier::Applier;
use crate::domain::events::{Event, EventId, Meaning, Mirror, Unreadable, What};
use crate::domain::keys::Key;
use crate::domain::model::ModelView;
use crate::registry::{Registry, RegistryError};

/// Subscribers of one node.
pub const MAX_SUBSCRIBERS: usize = 100;
/// Events that a node keeps for subscribers who are a little behind. Who is further behind reads them from the store.
pub const KEPT_EVENTS: usize = 1024;
/// How long a node waits before it asks a store again that failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The changes of a store as they reach a node.
pub struct Feed {
    store: Arc<dyn DocStore>,
    events: broadcast::Sender<Arc<Event>>,
    told: watch::Sender<Option<Rev>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Somebody who is told of events.
pub struct Subscription {
    /// What happens from now on.
    pub events: broadcast::Receiver<Arc<Event>>,
    /// Up to where everything has happened already.
    pub now: Rev,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// The changes of a store. Subscriptions end with `stop`.
    pub fn new(store: Arc<dyn DocStore>, stop: CancellationToken) -> Self {
        Self {
            store,
            events: broadcast::Sender::new(KEPT_EVENTS),
            told: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)),
            stop,
        }
    }

    /// Tells somebody of events from now on; nothing when too many are told already.
    pub async fn subscribe(&self) -> Option<Subscription> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let mut told = self.told.subscribe();
        // Until a node has seen its store once, it cannot say where "now" is.
        let _ = told.wait_for(Option::is_some).await;
        // In this order: what is told between is behind `now`, and so not told twice.
        let events = self.events.subscribe();
        Some(Subscription {
            events,
            now: self.now(),
            _place: place,
        })
    }

    /// Up to where everything has been told.
    pub fn now(&self) -> Rev {
        self.told.borrow().unwrap_or_default()
    }

    /// Whether the store was read once: everything that was in it is known here.
    pub fn is_synced(&self) -> bool {
        self.told.borrow().is_some()
    }

    /// As if the store had been read up to there.
    #[cfg(test)]
    pub fn synced(&self, rev: Rev) {
        self.told.send_replace(Some(rev));
    }

    /// Ends with the node.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Tells of something that is only observed.
    pub fn tell(&self, event: Event) {
        // Nobody may listen.
        let _ = self.events.send(Arc::new(event));
    }

    /// Follows the store for as long as the node runs.
    pub async fn follow(&self, registry: Registry, access: Arc<Access>, applier: Applier) {
        let follower = Follower {
            feed: self,
            registry,
            access,
            applier,
            mirror: Mirror::default(),
            at: None,
        };
        follower.run().await;
    }

    /// The events of the store's history after one of them, as far as `up_to` and maybe further.
    ///
    /// Ends with [`StoreError::Compacted`] when the store no longer knows them all.
    pub fn replay(
        &self,
        after: EventId,
        up_to: Rev,
    ) -> BoxStream<'static, Result<Arc<Event>, StoreError>> {
        let changes = self.store.watch("", after.rev().saturating_sub(1));
        let begin = (changes, Mirror::default(), Commit::default(), None);
        let commits = stream::try_unfold(begin, move |state| async move {
            let (mut changes, mut mirror, mut commit, mut at) = state;
            if at >= Some(up_to) {
                return Ok(None);
            }
            let ended = || StoreError::Unavailable("the watch ended".into());
            let mut events = Vec::new();
            if let Some((changed, rev)) = commit.take(changes.next().await.ok_or_else(ended)??) {
                // Reported when it happened.
                let told = meanings(&mut mirror, &changed, |_, _| {});
                let told = told.flat_map(|meaning| meaning.events);
                events.extend(told.filter(|event| event.id > Some(after)));
                at = Some(rev);
            }
            let events = stream::iter(events.into_iter().map(|event| Ok(Arc::new(event))));
            Ok(Some((events, (changes, mirror, commit, at))))
        });
        commits.try_flatten().boxed()
    }
}

/// A document that was changed: by the `place`th change of the commit at that revision.
struct Changed {
    rev: Rev,
    place: u32,
    key: String,
    value: Option<bytes::Bytes>,
}

/// The changes of commits of which more may come.
#[derive(Default)]
struct Commit {
    changed: Vec<Changed>,
}

impl Commit {
    /// Takes a change in; gives all of them out once the commits are whole, with how far that is.
    fn take(&mut self, change: Change) -> Option<(Vec<Changed>, Rev)> {
        let (key, rev, value) = match change {
            Change::Put(doc) => (doc.key, doc.rev, Some(doc.value)),
            Change::Delete { key, rev } => (key, rev, None),
            Change::Progress(rev) => return Some((std::mem::take(&mut self.changed), rev)),
        };
        let place = match self.changed.last() {
            Some(last) if last.rev == rev => last.place + 1,
            _ => 0,
        };
        self.changed.push(Changed {
            rev,
            place,
            key,
            value,
        });
        None
    }
}

/// What changes mean. One that cannot be read is reported and must not hide the others.
fn meanings<'m>(
    mirror: &'m mut Mirror,
    changed: &'m [Changed],
    report: impl Fn(&str, Option<Unreadable>) + 'm,
) -> impl Iterator<Item = Meaning> + 'm {
    changed.iter().filter_map(move |one| {
        match mirror.apply(one.rev, one.place, &one.key, one.value.as_deref()) {
            Ok(meaning) => {
                report(&one.key, None);
                Some(meaning)
            }
            Err(error) => {
                report(&one.key, Some(error));
                None
            }
        }
    })
}

struct Follower<'f> {
    feed: &'f Feed,
    registry: Registry,
    access: Arc<Access>,
    applier: Applier,
    mirror: Mirror,
    /// Up to where the mirror shows the store.
    at: Option<Rev>,
}

impl Follower<'_> {
    async fn run(mut self) {
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
        let mut changes = self.feed.store.watch("", at);
        let mut commit = Commit::default();
        while let Some(change) = changes.next().await {
            if let Some((changed, rev)) = commit.take(change?) {
                self.take_over(&changed, rev);
            }
        }
        Ok(())
    }

    /// Reads what there is, for a beginning or because some changes are no longer kept.
    async fn read_everything(&mut self) -> Result<Rev, RegistryError> {
        let found = self.registry.recover().await?;
        let api_keys = self.registry.api_keys().await?;
        let before = std::mem::replace(&mut self.mirror, Mirror::of(found.models, api_keys));
        for id in self.mirror.models() {
            if let Some(view) = self.mirror.view(id) {
                self.applier.serve(view);
            }
        }
        for id in before.models() {
            if self.mirror.view(id).is_none()
                && let Some(view) = before.view(id)
            {
                self.applier.remove(view);
            }
        }
        for key in self.mirror.api_keys().values() {
            self.access.insert(key.clone());
        }
        for prefix in before.api_keys().keys() {
            if !self.mirror.api_keys().contains_key(prefix) {
                self.access.remove(prefix);
            }
        }
        self.at = Some(found.rev);
        if self.feed.told.send_replace(Some(found.rev)).is_some() {
            self.feed.tell(Event {
                id: Some(EventId::end_of(found.rev)),
                model: None,
                what: What::Missed,
            });
        }
        Ok(found.rev)
    }

    /// Takes whole commits over.
    fn take_over(&mut self, changed: &[Changed], rev: Rev) {
        let deleted = changed.iter().filter(|one| one.value.is_none());
        let before: Vec<ModelView> = deleted
            .filter_map(|one| match Key::parse(&one.key) {
                Some(Key::Model(id)) => self.mirror.view(id),
                _ => None,
            })
            .collect();
        let mut models = BTreeSet::new();
        let mut events = Vec::new();
        let unreadable = self.registry.unreadable();
        let report = |key: &str, error: Option<Unreadable>| match error {
            None => unreadable.forget(key),
            Some(error) => unreadable.report(key, error.reason()),
        };
        for meaning in meanings(&mut self.mirror, changed, report) {
            models.extend(meaning.model);
            events.extend(meaning.events);
            match meaning.api_key {
                Some((_, Some(key))) => self.access.insert(key),
                Some((prefix, None)) => self.access.remove(&prefix),
                None => {}
            }
        }
        for id in models {
            if let Some(view) = self.mirror.view(id) {
                self.applier.serve(view);
            }
        }
        for view in before {
            if self.mirror.view(view.model.id).is_none() {
                self.applier.remove(view);
            }
        }
        self.at = Some(rev);
        // First, so that who subscribes meanwhile is told or knows that it has happened.
        self.feed.told.send_replace(Some(rev));
        for event in events {
            self.feed.tell(event);
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
