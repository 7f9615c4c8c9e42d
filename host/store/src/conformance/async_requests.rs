//! The queue of async requests: acceptance, claims, retries, expiry and capacity.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, join_all};
use jiff::{SignedDuration, Timestamp};
use samovar_types::async_request::*;
use samovar_types::id::DeploymentId;

use super::OpenAsyncRequests as Open;
use crate::StoreError;
use crate::async_requests::*;

pub(super) const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);
const BOUNDLESS: Capacity = Capacity {
    open: u64::MAX,
    bytes: u64::MAX,
};

/// Whose webhooks the tests send.
pub(super) const RECEIVER: &str = "https://example.com";

pub(super) fn webhook(receiver: &str, path: &str) -> Webhook {
    Webhook {
        endpoint: format!("{receiver}{path}"),
        receiver: receiver.to_owned(),
    }
}

pub(super) fn place() -> Place {
    Place {
        model_id: "model000".parse().unwrap(),
        deployment_id: "deploy00".parse().unwrap(),
    }
}

/// The queue of the tests' deployment to a receiver.
pub(super) fn notices_to(receiver: &str) -> NoticeQueue {
    NoticeQueue {
        deployment_id: place().deployment_id,
        receiver: receiver.to_owned(),
    }
}

pub(super) fn request(number: u32) -> NewAsyncRequest {
    let place = place();
    NewAsyncRequest {
        id: format!("{number:032x}").parse().unwrap(),
        model_id: place.model_id,
        deployment_id: place.deployment_id,
        created_at: Timestamp::now(),
        submission: Submission {
            model_input: Bytes::from(format!("[{number}]")),
            webhook: None,
            priority: 0,
            max_time_in_queue: Duration::from_secs(600),
            retry: InferenceRetryConfig::default(),
        },
    }
}

pub(super) async fn accept(store: &dyn AsyncRequests, request: &NewAsyncRequest) -> AsyncRequestId {
    let accepted = store.accept(request, BOUNDLESS).await.unwrap();
    assert_eq!(accepted, Acceptance::Accepted);
    request.id.clone()
}

pub(super) async fn claim(
    store: &dyn AsyncRequests,
    max: usize,
    visibility: Duration,
) -> Vec<Prediction> {
    let deployment = place().deployment_id;
    store.claim(deployment, max, visibility).await.unwrap()
}

pub(super) async fn claim_notices(
    store: &dyn AsyncRequests,
    receiver: &str,
    max: usize,
) -> Vec<Notice> {
    let queue = notices_to(receiver);
    store.claim_notices(&queue, max, LONG).await.unwrap()
}

/// Claims one request, waiting until it may be claimed.
async fn claim_soon(store: &dyn AsyncRequests, visibility: Duration) -> Prediction {
    let claimed = async {
        loop {
            if let Some(one) = claim(store, 1, visibility).await.pop() {
                return one;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, claimed).await.unwrap()
}

pub(super) async fn stands(
    store: &dyn AsyncRequests,
    id: &AsyncRequestId,
) -> (AsyncStatus, WebhookStatus) {
    let request = store.get(id).await.unwrap().unwrap();
    (request.status, request.webhook_status)
}

pub(super) fn success(body: &'static str) -> Outcome {
    Outcome {
        status: AsyncStatus::Succeeded,
        errors: Vec::new(),
        result: Some(AsyncResult {
            status: 200,
            content_type: Some("text/plain".into()),
            body: Bytes::from_static(body.as_bytes()),
        }),
    }
}

pub(super) fn lost(result: Result<(), StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Conflict { .. })),
        "{result:?}"
    );
}

pub async fn a_request_is_accepted_claimed_answered_and_purged(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let new = request(1);
    let id = accept(&*store, &new).await;
    let seen = store.get(&id).await.unwrap().unwrap();
    assert_eq!((seen.model_id, &seen.id), (new.model_id, &id));
    assert_eq!(
        seen.created_at.as_millisecond(),
        new.created_at.as_millisecond()
    );
    assert_eq!(store.due().await.unwrap(), [place()]);
    let other: DeploymentId = "other000".parse().unwrap();
    assert!(store.claim(other, 9, LONG).await.unwrap().is_empty());

    let claimed = claim(&*store, 9, LONG).await.pop().unwrap();
    assert_eq!((&claimed.claim.id, claimed.place), (&id, place()));
    assert_eq!((&claimed.input[..], claimed.losses), (&b"[1]"[..], 0));
    assert_eq!(claimed.retry, new.submission.retry);
    assert_eq!(store.due().await.unwrap(), []);
    let counts = AsyncCounts {
        queued: 0,
        in_progress: 1,
    };
    assert_eq!(store.counts(place().deployment_id).await.unwrap(), counts);
    assert_eq!(store.result(&id).await.unwrap(), None);

    let outcome = success("yes");
    store.finish(&claimed.claim, &outcome).await.unwrap();
    let done = (AsyncStatus::Succeeded, WebhookStatus::NoWebhookProvided);
    assert_eq!(stands(&*store, &id).await, done);
    assert_eq!(store.result(&id).await.unwrap(), outcome.result);
    assert!(claim(&*store, 9, LONG).await.is_empty());
    assert!(claim_notices(&*store, RECEIVER, 9).await.is_empty());
    let counts = store.counts(place().deployment_id).await.unwrap();
    assert_eq!(counts, AsyncCounts::default());

    // What is not done yet is not purged, however old it is.
    let open = accept(&*store, &request(2)).await;
    let hour = SignedDuration::from_hours(1);
    assert_eq!(store.purge(Timestamp::now() - hour, 9).await.unwrap(), 0);
    assert_eq!(store.purge(Timestamp::now() + hour, 9).await.unwrap(), 1);
    assert_eq!(store.get(&id).await.unwrap(), None);
    assert_eq!(store.result(&id).await.unwrap(), None);
    assert!(store.get(&open).await.unwrap().is_some());
}

pub async fn claims_go_by_priority_then_age(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    for (number, priority) in [(9, 2), (5, 1), (7, 0), (3, 1), (1, 0)] {
        let mut new = request(number);
        new.submission.priority = priority;
        accept(&*store, &new).await;
    }
    let mut inputs = Vec::new();
    for max in [3, 1, 9] {
        let claimed = claim(&*store, max, LONG).await;
        assert!(claimed.len() <= max);
        inputs.extend(claimed.into_iter().map(|one| one.input));
    }
    assert_eq!(inputs, ["[7]", "[1]", "[5]", "[3]", "[9]"]);
}

pub async fn what_was_accepted_survives_a_store_that_was_not_closed(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let mut ids = HashSet::new();
    for number in 0..20 {
        ids.insert(accept(&*store, &request(number)).await);
    }
    let before = claim(&*store, 5, LONG).await;
    assert_eq!(before.len(), 5);
    drop(store);
    let store = open(folder.to_owned()).await;
    assert_eq!(claim(&*store, 64, LONG).await.len(), 15);
    // The worker of the first five is dead, and its claims need not run out.
    assert_eq!(store.take_up().await.unwrap(), 20);
    let after = claim(&*store, 64, LONG).await;
    let claimed: HashSet<_> = after.iter().map(|one| one.claim.id.clone()).collect();
    assert_eq!(claimed, ids);
    for one in before {
        lost(store.finish(&one.claim, &success("late")).await);
    }
}

pub async fn two_claimers_never_get_the_same_request(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    for number in 0..200 {
        accept(&*store, &request(number)).await;
    }
    let claimers = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = claim(&*store, 7, LONG).await;
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed.into_iter().map(|one| one.claim.id));
            }
        })
    });
    let claimed = join_all(claimers.collect::<Vec<_>>()).await;
    let all: Vec<_> = claimed.into_iter().flat_map(Result::unwrap).collect();
    let different: HashSet<_> = all.iter().collect();
    assert_eq!((all.len(), different.len()), (200, 200));
}

pub async fn a_request_is_cancelled_or_claimed_but_not_both(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let mut new = request(0);
    new.submission.webhook = Some(webhook(RECEIVER, "/"));
    let id = accept(&*store, &new).await;
    assert_eq!(store.cancel(&id).await.unwrap(), Cancellation::Canceled);
    let canceled = (AsyncStatus::Canceled, WebhookStatus::Canceled);
    assert_eq!(stands(&*store, &id).await, canceled);
    let again = store.cancel(&id).await.unwrap();
    assert_eq!(again, Cancellation::TooLate(AsyncStatus::Canceled));
    let missing = store.cancel(&request(99).id).await.unwrap();
    assert_eq!(missing, Cancellation::Missing);
    for number in 1..50 {
        let id = accept(&*store, &request(number)).await;
        let (canceler, claimer) = (Arc::clone(&store), Arc::clone(&store));
        let task = tokio::spawn(async move { canceler.cancel(&id).await.unwrap() });
        let (canceled, claimed) = join(task, claim(&*claimer, 1, LONG)).await;
        match canceled.unwrap() {
            Cancellation::Canceled => assert!(claimed.is_empty()),
            other => {
                assert_eq!(other, Cancellation::TooLate(AsyncStatus::InProgress));
                assert_eq!(claimed.len(), 1);
            }
        }
    }
}

pub async fn a_lost_claim_changes_nothing(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let id = accept(&*store, &request(1)).await;
    let first = claim(&*store, 1, SHORT).await.pop().unwrap().claim;
    let second = claim_soon(&*store, LONG).await.claim;
    assert!(second.token > first.token);
    lost(store.extend(&first, LONG).await);
    lost(store.requeue(&first, Duration::ZERO, &[]).await);
    lost(store.finish(&first, &success("first")).await);
    assert_eq!(stands(&*store, &id).await.0, AsyncStatus::InProgress);
    store.extend(&second, LONG).await.unwrap();
    let outcome = success("second");
    store.finish(&second, &outcome).await.unwrap();
    lost(store.finish(&second, &success("again")).await);
    lost(store.requeue(&second, Duration::ZERO, &[]).await);
    lost(store.finish_notice(&second, Err("lost")).await);
    lost(store.requeue_notice(&second, Duration::ZERO, "lost").await);
    assert_eq!(store.result(&id).await.unwrap(), outcome.result);
    // What was given back is nobody's, also before somebody else has it.
    accept(&*store, &request(2)).await;
    let third = claim(&*store, 1, LONG).await.pop().unwrap().claim;
    store.requeue(&third, Duration::ZERO, &[]).await.unwrap();
    lost(store.finish(&third, &success("third")).await);
}

pub async fn a_claim_that_ran_out_is_given_again_and_counted(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    accept(&*store, &request(1)).await;
    let mut tokens = Vec::new();
    for losses in 0..4 {
        let claimed = claim_soon(&*store, SHORT).await;
        assert_eq!(claimed.losses, losses);
        tokens.push(claimed.claim.token);
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    // One that is extended in time is not given again.
    let held = claim_soon(&*store, LONG).await.claim;
    store.extend(&held, LONG).await.unwrap();
    assert!(claim(&*store, 1, LONG).await.is_empty());
    store.extend(&held, SHORT).await.unwrap();
    claim_soon(&*store, LONG).await;
}

pub async fn a_request_waits_for_its_next_attempt(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let id = accept(&*store, &request(1)).await;
    let claimed = claim(&*store, 1, LONG).await.pop().unwrap();
    let errors = [AsyncError::new(
        AsyncErrorCode::ModelPredictError,
        "trap \"x\"",
    )];
    store.requeue(&claimed.claim, LONG, &errors).await.unwrap();
    let waiting = store.get(&id).await.unwrap().unwrap();
    assert_eq!(
        (waiting.status, &waiting.errors[..]),
        (AsyncStatus::Queued, &errors[..])
    );
    assert!(claim(&*store, 1, LONG).await.is_empty());
    assert_eq!(store.due().await.unwrap(), []);
    assert_eq!(store.take_up().await.unwrap(), 0, "it is nobody's");
    assert!(claim(&*store, 1, LONG).await.is_empty());
    assert_eq!(store.cancel(&id).await.unwrap(), Cancellation::Canceled);

    accept(&*store, &request(2)).await;
    let claimed = claim(&*store, 1, LONG).await.pop().unwrap();
    store.requeue(&claimed.claim, SHORT, &errors).await.unwrap();
    let again = claim_soon(&*store, LONG).await;
    assert_eq!((&again.errors[..], again.losses), (&errors[..], 0));
    let outcome = Outcome {
        status: AsyncStatus::Failed,
        errors: [errors.clone(), errors].concat(),
        result: None,
    };
    store.finish(&again.claim, &outcome).await.unwrap();
    let failed = store.get(&again.claim.id).await.unwrap().unwrap();
    assert_eq!(
        (failed.status, failed.errors.len()),
        (AsyncStatus::Failed, 2)
    );
}

pub async fn who_waits_too_long_expires(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let running = accept(&*store, &request(1)).await;
    assert_eq!(claim(&*store, 1, LONG).await.len(), 1);
    let silent = accept(&*store, &request(2)).await;
    let mut new = request(3);
    new.submission.webhook = Some(webhook(RECEIVER, "/"));
    let told = accept(&*store, &new).await;
    let within = Timestamp::now() + SignedDuration::from_secs(590);
    assert_eq!(store.expire_due(within).await.unwrap(), 0);
    let after = Timestamp::now() + SignedDuration::from_secs(601);
    assert_eq!(store.expire_due(after).await.unwrap(), 2);
    assert_eq!(stands(&*store, &running).await.0, AsyncStatus::InProgress);
    let expired = store.get(&silent).await.unwrap().unwrap();
    assert_eq!(expired.status, AsyncStatus::Expired);
    assert_eq!(expired.errors[0].code, AsyncErrorCode::ModelUnavailable);
    assert_eq!(stands(&*store, &told).await.1, WebhookStatus::Pending);
    assert!(claim(&*store, 9, LONG).await.is_empty());
    let notice = claim_notices(&*store, RECEIVER, 9).await.pop().unwrap();
    assert_eq!((&notice.claim.id, &notice.result), (&told, &None));
    store
        .finish_notice(&notice.claim, Err("gone"))
        .await
        .unwrap();
    let kept = (AsyncStatus::Expired, WebhookStatus::Failed);
    assert_eq!(stands(&*store, &told).await, kept);
}

pub async fn capacity_is_kept_and_comes_back(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let take = async |number, capacity| store.accept(&request(number), capacity).await.unwrap();
    // Half of it is for one deployment alone.
    let four = Capacity {
        open: 4,
        ..BOUNDLESS
    };
    assert_eq!(take(1, four).await, Acceptance::Accepted);
    assert_eq!(take(2, four).await, Acceptance::Accepted);
    assert_eq!(take(3, four).await, Acceptance::TooManyOpen);
    assert_eq!(store.get(&request(3).id).await.unwrap(), None);
    let claimed = claim(&*store, 1, LONG).await.pop().unwrap();
    assert_eq!(take(3, four).await, Acceptance::TooManyOpen);
    store
        .finish(&claimed.claim, &success("0123456789"))
        .await
        .unwrap();
    assert_eq!(take(3, four).await, Acceptance::Accepted);
    store.cancel(&request(3).id).await.unwrap();

    // Kept are one input of 3 bytes and a result of 10.
    let bytes = |bytes| Capacity { bytes, ..BOUNDLESS };
    assert_eq!(take(4, bytes(28)).await, Acceptance::TooManyBytes);
    assert_eq!(take(4, bytes(29)).await, Acceptance::Accepted);
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    assert_eq!(store.purge(later, 9).await.unwrap(), 2);
    assert_eq!(take(5, bytes(14)).await, Acceptance::TooManyBytes);
    assert_eq!(take(5, bytes(15)).await, Acceptance::Accepted);
}

pub async fn what_one_deployment_hands_in_leaves_room_for_others(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let capacity = Capacity {
        open: 12,
        bytes: u64::MAX,
    };
    let mut last = 0;
    let mut fill = async |deployment: &str| {
        let mut taken = 0;
        loop {
            last += 1;
            let new = NewAsyncRequest {
                deployment_id: deployment.parse().unwrap(),
                ..request(last)
            };
            match store.accept(&new, capacity).await.unwrap() {
                Acceptance::Accepted => taken += 1,
                refused => {
                    assert_eq!(refused, Acceptance::TooManyOpen);
                    return taken;
                }
            }
        }
    };
    assert_eq!(fill("deploy01").await, 6);
    assert_eq!(fill("deploy02").await, 3);
    assert_eq!(fill("deploy01").await, 0);
    assert_eq!(fill("deploy03").await, 2);
    assert_eq!(fill("deploy04").await, 1);
}
