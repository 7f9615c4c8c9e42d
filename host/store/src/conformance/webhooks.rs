//! Webhooks of async requests: due until delivered or given up, claimed by receiver.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use samovar_types::async_request::*;
use samovar_types::id::DeploymentId;

use super::OpenAsyncRequests as Open;
use super::async_requests::*;
use crate::async_requests::*;

pub async fn a_webhook_is_due_until_it_is_noted(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let mut ids = Vec::new();
    for number in 0..2 {
        let mut new = request(number);
        new.submission.webhook = Some(webhook(RECEIVER, &format!("/{number}")));
        ids.push(accept(&*store, &new).await);
    }
    assert!(claim_notices(&*store, RECEIVER, 9).await.is_empty());
    for one in claim(&*store, 9, LONG).await {
        store.finish(&one.claim, &success("told")).await.unwrap();
    }
    let pending = (AsyncStatus::Succeeded, WebhookStatus::Pending);
    assert_eq!(stands(&*store, &ids[0]).await, pending);
    let hour = SignedDuration::from_hours(1);
    let purged = store.purge(Timestamp::now() + hour, 9).await.unwrap();
    assert_eq!(purged, 0, "nobody was told yet");
    assert_eq!(claim_notices(&*store, RECEIVER, 9).await.len(), 2);
    assert!(claim_notices(&*store, RECEIVER, 9).await.is_empty());
    drop(store);

    let store = open(folder.to_owned()).await;
    assert_eq!(store.take_up().await.unwrap(), 2);
    let mut notices = claim_notices(&*store, RECEIVER, 9).await;
    notices.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    assert_eq!(notices[1].endpoint, "https://example.com/1");
    assert_eq!(notices[1].result, success("told").result);
    for (notice, webhook) in notices.iter().zip([Ok(()), Err("not there")]) {
        store.finish_notice(&notice.claim, webhook).await.unwrap();
        lost(store.finish_notice(&notice.claim, webhook).await);
    }
    let attempts =
        async |id: &AsyncRequestId| store.get(id).await.unwrap().unwrap().webhook.unwrap();
    assert_eq!(
        (
            attempts(&ids[0]).await.attempts,
            attempts(&ids[0]).await.last_error
        ),
        (1, None)
    );
    assert_eq!(
        attempts(&ids[1]).await.last_error.as_deref(),
        Some("not there")
    );
    let good = (AsyncStatus::Succeeded, WebhookStatus::Succeeded);
    let bad = (AsyncStatus::WebhookFailed, WebhookStatus::Failed);
    assert_eq!(stands(&*store, &ids[0]).await, good);
    assert_eq!(stands(&*store, &ids[1]).await, bad);
}

pub async fn webhooks_are_claimed_by_receiver_and_tell_why_they_failed(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let mut ids = Vec::new();
    let [a, b] = ["https://a.example", "https://b.example"];
    for (number, receiver) in [(1, a), (2, b), (3, a)] {
        let mut new = request(number);
        new.submission.webhook = Some(webhook(receiver, &format!("/{number}")));
        ids.push(accept(&*store, &new).await);
    }
    assert!(store.due_notices().await.unwrap().is_empty());
    for one in claim(&*store, 9, LONG).await {
        store.finish(&one.claim, &success("told")).await.unwrap();
    }
    let mut due = store.due_notices().await.unwrap();
    due.sort();
    let [a, b] = [a, b].map(notices_to);
    assert_eq!(due, [a.clone(), b.clone()]);
    let other = NoticeQueue {
        deployment_id: DeploymentId::FIRST,
        ..b
    };
    let of_other = store.claim_notices(&other, 9, LONG).await.unwrap();
    assert!(of_other.is_empty(), "another deployment has no webhooks");
    let claimed = claim_notices(&*store, "https://b.example", 9).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(store.due_notices().await.unwrap(), [a]);
    let long = "x".repeat(5000);
    store
        .requeue_notice(&claimed[0].claim, Duration::ZERO, &long)
        .await
        .unwrap();
    lost(store.finish_notice(&claimed[0].claim, Ok(())).await);
    let again = claim_notices(&*store, "https://b.example", 9).await;
    let webhook = again[0].request.webhook.clone().unwrap();
    assert_eq!(webhook.attempts, 1);
    assert!(webhook.last_error.unwrap().len() <= 1024);
    store.finish_notice(&again[0].claim, Ok(())).await.unwrap();
    let told = store.get(&ids[1]).await.unwrap().unwrap().webhook.unwrap();
    assert_eq!((told.attempts, told.last_error), (2, None));

    // Nothing is given up that is claimed, or not old enough.
    let held = claim_notices(&*store, "https://a.example", 1).await;
    let now = Timestamp::now();
    let give_up = async |before| {
        store
            .give_up_notices("https://a.example", before, "too old")
            .await
            .unwrap()
    };
    let hour = SignedDuration::from_hours(1);
    assert_eq!(give_up(now - hour).await, 0);
    assert_eq!(give_up(now + hour).await, 1);
    let given_up = ids
        .iter()
        .find(|id| **id == ids[0] && held[0].claim.id != **id)
        .unwrap_or(&ids[2]);
    let told = store.get(given_up).await.unwrap().unwrap();
    assert_eq!(told.status, AsyncStatus::WebhookFailed);
    assert_eq!(told.webhook.unwrap().last_error.as_deref(), Some("too old"));
    store.finish_notice(&held[0].claim, Ok(())).await.unwrap();
}
