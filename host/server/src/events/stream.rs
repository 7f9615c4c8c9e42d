//! Tells one subscriber what happens: from where it left off, at its pace within bounds, until it reads no more.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use samovar_store::{Rev, StoreError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::domain::events::{Event, EventId, What};
use crate::events::bus::{EventBus, Subscription};

/// Events on their way to one subscriber.
pub const MAX_PENDING: usize = 64;
/// After so long without an event a subscriber is told how far it is, so that nobody between takes the connection for
/// dead, and so that it comes back there however much has happened that it did not want to know.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);
/// A subscriber that takes nothing for so long is dropped.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a subscriber is told.
pub struct Outlet {
    /// What it reads from.
    pub sender: mpsc::Sender<Told>,
    /// How long it may take to read.
    pub patience: Duration,
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// Everything after this will be told.
    Ready(EventId),
    /// Something happened.
    Event(Arc<Event>),
    /// Everything that it wants to know has been told up to here.
    Progress(EventId),
}

/// Where a subscriber begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With what happens from now on.
    Now,
    /// With what happened after this event.
    After(EventId),
}

/// The subscriber reads no more.
struct Lost;

/// Tells a subscriber what it wants to know, until it reads no more or the node stops.
pub async fn tell(
    bus: Arc<EventBus>,
    subscription: Subscription,
    begin: Begin,
    wants: impl Fn(&Event) -> bool + Send + Sync,
    out: Outlet,
) {
    let stop = bus.stop().clone();
    let subscriber = Subscriber {
        bus,
        subscription,
        last: EventId::end_of(0),
        wants,
        out,
        told: Instant::now(),
    };
    // Either way it ends here: there is nobody left to tell.
    stop.run_until_cancelled(subscriber.run(begin)).await;
}

struct Subscriber<W> {
    bus: Arc<EventBus>,
    subscription: Subscription,
    /// The last event that it was told of, or did not want to be.
    last: EventId,
    wants: W,
    out: Outlet,
    /// When it was told something.
    told: Instant,
}

impl<W: Fn(&Event) -> bool + Send + Sync> Subscriber<W> {
    async fn run(mut self, begin: Begin) -> Result<(), Lost> {
        let now = self.subscription.now;
        self.last = match begin {
            Begin::Now => EventId::end_of(now),
            Begin::After(id) => id,
        };
        self.send(Told::Ready(self.last)).await?;
        if matches!(begin, Begin::After(_)) {
            self.catch_up(now).await?;
        }
        loop {
            let event = tokio::select! {
                event = self.subscription.events.recv() => event,
                () = self.out.sender.closed() => return Err(Lost),
                () = tokio::time::sleep_until(self.told + PROGRESS_INTERVAL) => {
                    let progress = Told::Progress(self.last);
                    self.send(progress).await?;
                    continue;
                }
            };
            match event {
                Ok(event) => self.pass(event).await?,
                // It was told so slowly that some are no longer kept here: the store has them.
                Err(RecvError::Lagged(_)) => self.catch_up(self.bus.now()).await?,
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Tells what the store knows after the last event.
    async fn catch_up(&mut self, up_to: Rev) -> Result<(), Lost> {
        let mut events = self.bus.replay(self.last, up_to);
        let failed = loop {
            match events.next().await {
                Some(Ok(event)) => self.pass(event).await?,
                Some(Err(error)) => break error,
                None => return Ok(()),
            }
        };
        match failed {
            // Too long ago, or in another store's history.
            StoreError::Compacted { .. } | StoreError::Invalid(_) => {
                let missed = Event {
                    id: Some(EventId::end_of(up_to)),
                    model: None,
                    what: What::Missed,
                };
                self.last = EventId::end_of(up_to);
                self.send(Told::Event(Arc::new(missed))).await
            }
            error => {
                // It comes again with the last event that it was told of.
                tracing::warn!(%error, "a subscriber cannot be told what happened");
                Err(Lost)
            }
        }
    }

    async fn pass(&mut self, event: Arc<Event>) -> Result<(), Lost> {
        if let Some(id) = event.id {
            if id <= self.last {
                return Ok(());
            }
            self.last = id;
        }
        if event.what == What::Missed || (self.wants)(&event) {
            self.send(Told::Event(event)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, told: Told) -> Result<(), Lost> {
        let sending = self.out.sender.send(told);
        match tokio::time::timeout(self.out.patience, sending).await {
            Ok(Ok(())) => {
                self.told = Instant::now();
                Ok(())
            }
            _ => Err(Lost),
        }
    }
}
