//! Sends the webhooks of async requests that are done, receivers and deployments in turns. One that was cut off is sent again after the next
//! start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use samovar_store::async_requests::{Notice, NoticeQueue};
use tokio::task::{Id as TaskId, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::async_queue::AsyncQueue;
use super::webhook::{ATTEMPTS, Courier, DELAY, Delivery};
use super::webhook_turns::Turns;
use crate::domain::webhook_address::receiver;

/// How long a claim holds: longer than an attempt at a delivery.
const VISIBILITY: Duration = Duration::from_secs(60);
/// The store is asked this often for webhooks, besides being told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A webhook to a receiver that does not answer is given up when its request was done for so long.
pub const GIVE_UP_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Sends webhooks until told to stop.
pub async fn run(queue: &AsyncQueue, courier: &Arc<Courier>, stop: &CancellationToken) {
    let mut post = Post {
        queue,
        courier,
        turns: Turns::default(),
        running: JoinSet::new(),
        queues: HashMap::new(),
    };
    let mut look_at = tokio::time::interval(LOOK_EVERY);
    look_at.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = queue.notices_rung() => {}
            Some(ended) = post.running.join_next_with_id() => post.ended(ended),
            _ = look_at.tick() => post.give_up().await,
        }
        post.begin().await;
    }
}

/// What the loop knows between two turns.
struct Post<'a> {
    queue: &'a AsyncQueue,
    courier: &'a Arc<Courier>,
    turns: Turns,
    /// Answers whether the receiver did.
    running: JoinSet<bool>,
    queues: HashMap<TaskId, NoticeQueue>,
}

impl Post<'_> {
    /// Sends what is due and has its turn.
    async fn begin(&mut self) {
        let mut due = match self.queue.store().due_notices().await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "cannot read the webhooks that are due");
                return;
            }
        };
        loop {
            let now = Instant::now();
            let mut granted: HashMap<NoticeQueue, usize> = HashMap::new();
            while let Some(queue) = self.turns.next(&due, now) {
                *granted.entry(queue).or_default() += 1;
            }
            if granted.is_empty() {
                return;
            }
            for (queue, count) in granted {
                let claimed = self.claim(&queue, count).await;
                if claimed < count {
                    due.retain(|other| *other != queue);
                }
                for _ in claimed..count {
                    self.turns.called_off(&queue);
                }
            }
        }
    }

    /// Claims webhooks of a queue and sends them. Answers how many.
    async fn claim(&mut self, queue: &NoticeQueue, count: usize) -> usize {
        let store = self.queue.store();
        match store.claim_notices(queue, count, VISIBILITY).await {
            Ok(notices) => {
                let count = notices.len();
                for notice in notices {
                    self.spawn(queue, notice);
                }
                count
            }
            Err(error) => {
                tracing::warn!(%error, "cannot claim webhooks");
                0
            }
        }
    }

    fn spawn(&mut self, of: &NoticeQueue, notice: Notice) {
        let (queue, courier) = (self.queue.clone(), self.courier.clone());
        let task = async move { send(&queue, &courier, notice).await };
        let id = self.running.spawn(task).id();
        self.queues.insert(id, of.clone());
    }

    fn ended(&mut self, ended: Result<(TaskId, bool), JoinError>) {
        let (id, answered) = ended.unwrap_or_else(|panic| {
            // Its claim runs out, and then it is sent again.
            tracing::error!(%panic, "sending a webhook failed");
            (panic.id(), true)
        });
        if let Some(queue) = self.queues.remove(&id) {
            self.turns.ended(&queue, answered, Instant::now());
        }
    }

    /// Gives up what has waited too long for receivers that do not answer, so that results do not pile up.
    async fn give_up(&mut self) {
        let now = Instant::now();
        self.turns.forget_old(now);
        let reason = format!(
            "given up {} minutes after the request was done, because its receiver does not answer",
            GIVE_UP_AFTER.as_mins()
        );
        for receiver in self.turns.paused(now) {
            let before = Timestamp::now() - GIVE_UP_AFTER;
            let store = self.queue.store();
            match store.give_up_notices(&receiver, before, &reason).await {
                Ok(0) => {}
                Ok(webhooks) => tracing::warn!(receiver, webhooks, "webhooks given up"),
                Err(error) => tracing::warn!(%error, "cannot give webhooks up"),
            }
        }
    }
}

/// Makes one attempt and notes what came of it. Answers whether the receiver said anything.
async fn send(queue: &AsyncQueue, courier: &Courier, notice: Notice) -> bool {
    let delivery = courier.deliver(&notice, Timestamp::now()).await;
    let (store, claim) = (queue.store(), &notice.claim);
    let sent = notice
        .request
        .webhook
        .as_ref()
        .map_or(0, |one| one.attempts);
    let (noted, answered) = match &delivery {
        Delivery::Taken => (store.finish_notice(claim, Ok(())).await, true),
        Delivery::Refused(reason) => {
            tracing::warn!(request = %claim.id, reason, "webhook refused");
            (store.finish_notice(claim, Err(reason)).await, true)
        }
        Delivery::Unreachable(reason) if sent + 1 < ATTEMPTS => {
            tracing::debug!(request = %claim.id, reason, "webhook failed, will be sent again");
            (store.requeue_notice(claim, DELAY, reason).await, false)
        }
        Delivery::Unreachable(reason) => {
            tracing::warn!(request = %claim.id, reason, "webhook failed");
            (store.finish_notice(claim, Err(reason)).await, false)
        }
        Delivery::NotSent(reason) => {
            tracing::error!(request = %claim.id, reason, "webhook not sent");
            (store.finish_notice(claim, Err(reason)).await, true)
        }
    };
    if let Err(error) = noted {
        let host = receiver(&notice.endpoint);
        tracing::warn!(request = %claim.id, host, %error, "cannot note what became of a webhook");
    }
    answered
}
