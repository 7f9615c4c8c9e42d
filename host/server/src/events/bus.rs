//! The event bus: live events of the node, and replay of events from the store's history.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use samovar_store::{DocStore, Rev, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::catalog::cache::{Cache, Documents};
use crate::catalog::commits::{Commits, deltas};
use crate::domain::events::{Event, EventId};

/// Subscribers of one node.
pub const MAX_SUBSCRIBERS: usize = 100;
/// Events that a node keeps for subscribers who are a little behind. Who is further behind reads them from the store.
pub const KEPT_EVENTS: usize = 1024;

/// The events of a node.
pub struct EventBus {
    store: Arc<dyn DocStore>,
    cache: Arc<Cache>,
    events: broadcast::Sender<Arc<Event>>,
    pub(crate) places: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The place of a subscriber, and its events.
pub struct Subscription {
    /// What happens from now on.
    pub events: broadcast::Receiver<Arc<Event>>,
    /// Up to where everything has happened already.
    pub now: Rev,
    _place: OwnedSemaphorePermit,
}

impl EventBus {
    /// Without events yet. Subscriptions end with `stop`.
    pub fn new(store: Arc<dyn DocStore>, cache: Arc<Cache>, stop: CancellationToken) -> Self {
        Self {
            store,
            cache,
            events: broadcast::Sender::new(KEPT_EVENTS),
            places: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)),
            stop,
        }
    }

    /// Subscribes to events from now on; nothing when there are too many subscribers.
    pub async fn subscribe(&self) -> Option<Subscription> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        // Until a node has read its store once, it cannot say where "now" is.
        self.cache.reach(0).await;
        // In this order: an event between the two is before `now`, so no subscriber gets it twice.
        let events = self.events.subscribe();
        Some(Subscription {
            events,
            now: self.now(),
            _place: place,
        })
    }

    /// The revision up to which events were published.
    pub fn now(&self) -> Rev {
        self.cache.observed()
    }

    /// Ends with the node.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// For the informer, which publishes what the store says.
    pub fn sender(&self) -> broadcast::Sender<Arc<Event>> {
        self.events.clone()
    }

    /// Publishes an event that only this node has seen.
    pub fn tell(&self, event: Event) {
        // There may be no subscriber.
        let _ = self.events.send(Arc::new(event));
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
        let begin = (changes, Documents::default(), Commits::default(), None);
        let commits = stream::try_unfold(begin, move |state| async move {
            let (mut changes, mut documents, mut commits, mut at) = state;
            if at >= Some(up_to) {
                return Ok(None);
            }
            let ended = || StoreError::Unavailable("the watch ended".into());
            let mut events = Vec::new();
            if let Some((changed, rev)) = commits.take(changes.next().await.ok_or_else(ended)??) {
                // What is unreadable was reported when it happened.
                let told = deltas(&mut documents, &changed, |_, _| {});
                let told = told.flat_map(|delta| delta.events);
                events.extend(told.filter(|event| event.id > Some(after)));
                at = Some(rev);
            }
            let events = stream::iter(events.into_iter().map(|event| Ok(Arc::new(event))));
            Ok(Some((events, (changes, documents, commits, at))))
        });
        commits.try_flatten().boxed()
    }
}
