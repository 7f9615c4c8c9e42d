//! What every store of async requests has to keep, written once over the trait: `suite!` makes the tests for one store.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join, join_all};
use jiff::{SignedDuration, Timestamp};
use samovar_types::async_request::*;
use samovar_types::id::Id;

use super::StoreError;
use super::async_requests::*;
use crate::domain::async_request::*;
use crate::domain::async_submission::Submission;

/// Opens the store of a folder, which may have been open before.
pub type Open = fn(PathBuf) -> BoxFuture<'static, Arc<dyn AsyncRequests>>;

/// Makes the tests for a store; `$open` is an async function from the folder's path to the store.
macro_rules! suite {
    ($open:ident) => {
        fn opener(folder: std::path::PathBuf) -> futures::future::BoxFuture<'static, Arc<dyn AsyncRequests>> {
            Box::pin(async move { $open(&folder).await })
        }

        crate::state::async_conformance::suite!(@tests
            a_request_is_accepted_claimed_answered_and_purged
            claims_go_by_priority_then_age
            what_was_accepted_survives_a_store_that_was_not_closed
            two_claimers_never_get_the_same_request
            a_request_is_cancelled_or_claimed_but_not_both
            a_lost_claim_changes_nothing
            a_claim_that_ran_out_is_given_again_and_counted
            a_request_waits_for_its_next_attempt
            who_waits_too_long_expires
            a_webhook_is_due_until_it_is_noted
            webhooks_are_claimed_by_receiver_and_tell_why_they_failed
            capacity_is_kept_and_comes_back
            what_one_deployment_hands_in_leaves_room_for_others
        );
    };
    (@tests $($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            crate::state::async_conformance::$name(opener, folder.path()).await;
        }
    )*};
}
pub(crate) use suite;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);
const BOUNDLESS: Capacity = Capacity {
    open: u64::MAX,
    bytes: u64::MAX,
};

/// Whose webhooks the tests send.
const RECEIVER: &str = "https://example.com";

fn place() -> Place {
    Place {
        model_id: "model000".parse().unwrap(),
        deployment_id: "deploy00".parse().unwrap(),
    }
}

/// The queue of the tests' deployment to a receiver.
fn notices_to(receiver: &str) -> NoticeQueue {
    NoticeQueue {
        deployment_id: place().deployment_id,
        receiver: receiver.to_owned(),
    }
}

fn request(number: u32) -> NewAsyncRequest {
    let place = place();
    NewAsyncRequest {
        id: format!("{number:032x}").parse().unwrap(),
        model_id: place.model_id,
        deployment_id: place.deployment_id,
        created_at: Timestamp::now(),
        submission: Submission {
            model_input: Bytes::from(format!("[{number}]")),
            webhook_endpoint: None,
            priority: 0,
            max_time_in_queue: Duration::from_secs(600),
            retry: InferenceRetryConfig::default(),
        },
    }
}

async fn accept(store: &dyn AsyncRequests, request: &NewAsyncRequest) -> AsyncRequestId {
    let accepted = store.accept(request, BOUNDLESS).await.unwrap();
    assert_eq!(accepted, Acceptance::Accepted);
    request.id.clone()
}

async fn claim(store: &dyn AsyncRequests, max: usize, visibility: Duration) -> Vec<Prediction> {
    let deployment = place().deployment_id;
    store.claim(deployment, max, visibility).await.unwrap()
}

async fn claim_notices(store: &dyn AsyncRequests, receiver: &str, max: usize) -> Vec<Notice> {
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

async fn stands(store: &dyn AsyncRequests, id: &AsyncRequestId) -> (AsyncStatus, WebhookStatus) {
    let request = store.get(id).await.unwrap().unwrap();
    (request.status, request.webhook_status)
}

fn success(body: &'static str) -> Outcome {
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

fn lost(result: Result<(), StoreError>) {
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
    let other: Id = "other000".parse().unwrap();
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
    new.submission.webhook_endpoint = Some("https://example.com".into());
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
    new.submission.webhook_endpoint = Some("https://example.com".into());
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

pub async fn a_webhook_is_due_until_it_is_noted(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let mut ids = Vec::new();
    for number in 0..2 {
        let mut new = request(number);
        new.submission.webhook_endpoint = Some(format!("https://example.com/{number}"));
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
    for (number, endpoint) in [
        "https://a.example/1",
        "https://b.example/2",
        "https://a.example/3",
    ]
    .into_iter()
    .enumerate()
    {
        let mut new = request(u32::try_from(number).unwrap());
        new.submission.webhook_endpoint = Some(endpoint.into());
        ids.push(accept(&*store, &new).await);
    }
    assert!(store.due_notices().await.unwrap().is_empty());
    for one in claim(&*store, 9, LONG).await {
        store.finish(&one.claim, &success("told")).await.unwrap();
    }
    let mut due = store.due_notices().await.unwrap();
    due.sort();
    let [a, b] = ["https://a.example", "https://b.example"].map(notices_to);
    assert_eq!(due, [a.clone(), b.clone()]);
    let other = NoticeQueue {
        deployment_id: Id::FIRST,
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
