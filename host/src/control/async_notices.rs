//! Sends the webhooks of async requests that are done; one that was cut off is sent again after the next start.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::async_queue::AsyncQueue;
use super::webhook::Courier;
use crate::state::async_requests::Notice;

/// Webhooks sent at once; each holds a model's answer in memory.
pub const MAX_DELIVERIES: usize = 16;
/// How long a claim holds: longer than all attempts at one delivery.
const VISIBILITY: Duration = Duration::from_secs(60);
/// The store is asked this often for webhooks, besides being told.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sends webhooks until told to stop.
pub async fn run(queue: &AsyncQueue, courier: &Arc<Courier>, stop: &CancellationToken) {
    let mut running = JoinSet::new();
    loop {
        let free = MAX_DELIVERIES - running.len();
        if free > 0 {
            match queue.store().claim_notices(free, VISIBILITY).await {
                Ok(notices) => {
                    for notice in notices {
                        let (queue, courier) = (queue.clone(), courier.clone());
                        running.spawn(async move { send(&queue, &courier, notice).await });
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot read the webhooks that are due"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = queue.notices_rung() => {}
            Some(_) = running.join_next() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn send(queue: &AsyncQueue, courier: &Courier, notice: Notice) {
    let status = courier.deliver(&notice, Timestamp::now()).await;
    if let Err(error) = queue.store().finish_notice(&notice.claim, status).await {
        tracing::warn!(request = %notice.claim.id, %error, "cannot note what became of its webhook");
    }
}
