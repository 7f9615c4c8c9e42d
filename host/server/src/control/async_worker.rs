//! Works through the queue of async requests: claims what deployments have room for, and keeps the queue in order.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use samovar_store::StoreError;
use samovar_store::async_requests::{Place, Prediction};
use tokio::task::{Id as TaskId, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::async_attempt::{VISIBILITY, attempt, free};
use super::async_notices;
use super::async_queue::AsyncQueue;
use super::async_turns::{Candidate, MAX_IN_FLIGHT, Turns};
use super::webhook::Courier;
use crate::serving::Serving;

/// How long a request and its result can be read after it is done.
pub const RETENTION: SignedDuration = SignedDuration::from_hours(1);
/// The store is asked this often which deployments have work, besides being told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A deployment without room is looked at this often.
const BUSY_POLL: Duration = Duration::from_millis(50);
/// Requests that wait too long are looked for this often.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// Old requests are looked for this often, and so many are forgotten by one commit.
const PURGE_EVERY: Duration = Duration::from_secs(60);
const PURGE_BATCH: usize = 100;
/// Repetitions that are woken for exactly; more are found by looking.
const MAX_TIMERS: usize = 1024;
/// How long running requests have to go back to the queue at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Works on async requests until told to stop; what runs then goes back to the queue.
///
/// Ends every claim first that is still held: only one process at a time serves from a store.
///
/// # Errors
/// When the store cannot be read at the start.
pub async fn start(
    queue: AsyncQueue,
    serving: Arc<Serving>,
    courier: Courier,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()>, StoreError> {
    let taken_up = queue.store().take_up().await?;
    if taken_up > 0 {
        tracing::info!(requests = taken_up, "async requests taken up again");
    }
    let courier = Arc::new(courier);
    Ok(async move {
        tokio::join!(
            Desk::new(&queue, &serving, &stop).run(),
            async_notices::run(&queue, &courier, &stop),
            keep_order(&queue, &stop),
        );
    })
}

/// What the loop knows between two turns.
struct Desk<'a> {
    queue: &'a AsyncQueue,
    serving: &'a Arc<Serving>,
    stop: &'a CancellationToken,
    /// Deployments that may have something to claim.
    ready: BTreeSet<Place>,
    /// Answers when the request is due again.
    running: JoinSet<Option<Duration>>,
    places: HashMap<TaskId, Place>,
    turns: Turns,
    timers: JoinSet<Place>,
    look_at: Instant,
}

impl<'a> Desk<'a> {
    fn new(queue: &'a AsyncQueue, serving: &'a Arc<Serving>, stop: &'a CancellationToken) -> Self {
        Self {
            queue,
            serving,
            stop,
            ready: BTreeSet::new(),
            running: JoinSet::new(),
            places: HashMap::new(),
            turns: Turns::default(),
            timers: JoinSet::new(),
            look_at: Instant::now(),
        }
    }

    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            self.look().await;
            self.begin().await;
            let pause = match self.ready.is_empty() || self.running.len() >= MAX_IN_FLIGHT {
                true => LOOK_EVERY,
                false => BUSY_POLL,
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.queue.rung() => {}
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(Ok(place)) = self.timers.join_next() => {
                    self.ready.insert(place);
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        let back = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, back).await.is_err() {
            tracing::warn!("stopping although async requests still run");
        }
    }

    async fn look(&mut self) {
        self.ready.append(&mut self.queue.take_ready());
        if Instant::now() < self.look_at {
            return;
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        let (ready, places) = (&self.ready, &self.places);
        self.turns
            .forget(|place| ready.contains(place) || places.values().any(|one| one == place));
        match self.queue.store().due().await {
            Ok(due) => self.ready.extend(due),
            Err(error) => tracing::warn!(%error, "cannot read the queue of async requests"),
        }
    }

    /// Begins as many requests as there is room for.
    async fn begin(&mut self) {
        let ready = self.ready.iter().map(|place| self.candidate(*place));
        let ready: Vec<Candidate> = ready.collect();
        let shares = self.turns.divide(self.running.len(), &ready);
        for (Candidate { place, .. }, share) in ready.into_iter().zip(shares) {
            if share == 0 {
                continue;
            }
            let claimed = self.queue.store();
            match claimed.claim(place.deployment_id, share, VISIBILITY).await {
                Ok(claimed) => {
                    if claimed.len() < share {
                        self.ready.remove(&place);
                    }
                    for prediction in claimed {
                        self.spawn(prediction);
                    }
                }
                Err(error) => {
                    self.ready.remove(&place);
                    tracing::warn!(%error, "cannot claim async requests");
                }
            }
        }
    }

    fn candidate(&self, place: Place) -> Candidate {
        let running = self
            .places
            .values()
            .filter(|begun| **begun == place)
            .count();
        let room = match self.serving.room(place.model_id, place.deployment_id) {
            Ok(room) => free(&room, running),
            // They end at once.
            Err(_) => MAX_IN_FLIGHT,
        };
        Candidate {
            place,
            running,
            room,
        }
    }

    fn spawn(&mut self, prediction: Prediction) {
        let (queue, serving) = (self.queue.clone(), self.serving.clone());
        let (stop, place) = (self.stop.clone(), prediction.place);
        let task = async move { attempt(&queue, &serving, prediction, &stop).await };
        let id = self.running.spawn(task).id();
        self.places.insert(id, place);
    }

    fn ended(&mut self, ended: Result<(TaskId, Option<Duration>), tokio::task::JoinError>) {
        let (id, again) = ended.unwrap_or_else(|panic| {
            // Its claim runs out, and then it is done once more.
            tracing::error!(%panic, "a worker of async requests failed");
            (panic.id(), None)
        });
        let Some(place) = self.places.remove(&id) else {
            return;
        };
        if let Some(delay) = again
            && self.timers.len() < MAX_TIMERS
        {
            self.timers.spawn(async move {
                tokio::time::sleep(delay).await;
                place
            });
        }
    }
}

/// Ends requests that waited too long, and forgets old ones.
async fn keep_order(queue: &AsyncQueue, stop: &CancellationToken) {
    let mut purge_at = Instant::now();
    loop {
        match queue.store().expire_due(Timestamp::now()).await {
            Ok(0) => {}
            Ok(_) => queue.ring_notices(),
            Err(error) => tracing::warn!(%error, "cannot end async requests that waited too long"),
        }
        if Instant::now() >= purge_at {
            purge_at = Instant::now() + PURGE_EVERY;
            purge(queue, stop).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EXPIRE_EVERY) => {}
        }
    }
}

async fn purge(queue: &AsyncQueue, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let before = Timestamp::now() - RETENTION;
        match queue.store().purge(before, PURGE_BATCH).await {
            Ok(purged) if purged >= PURGE_BATCH as u64 => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot forget old async requests");
                return;
            }
        }
    }
}
