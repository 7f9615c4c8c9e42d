//! One attempt at an async request: the call of its model under a claim that is kept up, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use samovar_runtime::{RunError, Traffic};
use samovar_store::StoreError;
use samovar_store::async_requests::{AsyncResult, Claim, Outcome, Place, Prediction};
use samovar_types::async_request::{AsyncError, AsyncErrorCode, AsyncStatus};
use tokio_util::sync::CancellationToken;

use super::async_queue::AsyncQueue;
use crate::domain::async_retry::{NextStep, next_step};
use crate::domain::model::Unresolved;
use crate::serving::{Room, Served, Serving};

/// Largest answer of a model that is kept.
pub const MAX_RESULT_BYTES: usize = 16 << 20;
/// How long a claim holds without being kept up.
pub const VISIBILITY: Duration = Duration::from_secs(30);
/// A claim is kept up this often.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// Workers that may die over one request, by whatever it does to them, before it is given up.
pub const MAX_LOSSES: u32 = 5;
/// The wait of a request that found its deployment busy after all.
const NO_ROOM_DELAY: Duration = Duration::from_millis(200);
/// Times that the store is asked to note an end, and the wait between them.
const SETTLE_ATTEMPTS: u32 = 5;
const SETTLE_DELAY: Duration = Duration::from_millis(200);
/// As much of a model's error answer as is put into the error.
const QUOTED_CHARS: usize = 200;
/// Longest content type that is kept.
const MAX_CONTENT_TYPE_BYTES: usize = 256;
const REQUEST_IDS: [&str; 2] = ["x-samovar-request-id", "x-baseten-request-id"];

/// What an attempt came to.
#[derive(Debug)]
enum Attempt {
    /// The model answered, well or not.
    Answered(AsyncResult),
    /// It did not.
    Failed(AsyncError),
    /// It was not even asked, because others wait for it.
    NoRoom,
    /// It was not even asked, because it failed too often; it may be asked again after this.
    Resting(Duration),
}

/// What becomes of the request.
#[derive(Debug)]
enum Verdict {
    Done(Outcome),
    Again(Duration, Vec<AsyncError>),
}

/// Requests that a deployment could begin with now without anybody waiting for them; `begun` counts those that were begun
/// already and may not have got so far.
pub fn free(room: &Room, begun: usize) -> usize {
    // Whoever waits for an answer goes first.
    if room.served.is_none() || room.counts.waiting > 0 {
        return 0;
    }
    room.max_replica.saturating_sub(room.counts.busy.max(begun))
}

/// Makes one attempt and notes how it went. Answers after which time the request is due again, if it is.
///
/// `stop` ends it early; the request is due again at once.
pub async fn attempt(
    queue: &AsyncQueue,
    serving: &Serving,
    prediction: Prediction,
    stop: &CancellationToken,
) -> Option<Duration> {
    let verdict = tokio::select! {
        // Dropping the call cancels the guest.
        () = stop.cancelled() => Verdict::Again(Duration::ZERO, prediction.errors.clone()),
        error = keep_up(queue, &prediction.claim) => {
            tracing::warn!(request = %prediction.claim.id, %error, "another worker has taken it");
            return None;
        }
        attempt = call(serving, &prediction) => judge(attempt, &prediction),
    };
    settle(queue, &prediction.claim, &verdict).await;
    match verdict {
        Verdict::Done(_) => {
            queue.ring_notices();
            None
        }
        Verdict::Again(delay, _) => Some(delay),
    }
}

async fn keep_up(queue: &AsyncQueue, claim: &Claim) -> StoreError {
    loop {
        tokio::time::sleep(EXTEND_EVERY).await;
        match queue.store().extend(claim, VISIBILITY).await {
            Err(error @ StoreError::Conflict { .. }) => return error,
            Err(error) => tracing::warn!(request = %claim.id, %error, "cannot keep it"),
            Ok(()) => {}
        }
    }
}

async fn call(serving: &Serving, prediction: &Prediction) -> Attempt {
    if prediction.losses > MAX_LOSSES {
        let died = format!("its worker died {} times", prediction.losses);
        return Attempt::Failed(AsyncError::new(AsyncErrorCode::InternalServerError, died));
    }
    let served = match admitted(serving, prediction.place) {
        Ok(Some(served)) => served,
        Ok(None) => return Attempt::NoRoom,
        Err(gone) => {
            return Attempt::Failed(AsyncError::new(AsyncErrorCode::ModelDoesNotExist, gone));
        }
    };
    let id: Arc<str> = prediction.claim.id.as_str().into();
    let answer = served
        .pool
        .handle(request(prediction), id, Traffic::Async)
        .await;
    match answer {
        Ok((response, _)) => {
            let (head, body) = response.into_parts();
            read(head.status.as_u16(), head.headers.get(CONTENT_TYPE), body).await
        }
        Err(RunError::QueueFull { .. } | RunError::Closed) => Attempt::NoRoom,
        Err(RunError::Unhealthy(trouble)) => Attempt::Resting(trouble.retry_after),
        Err(error) => Attempt::Failed(AsyncError::new(code_of(&error), &error)),
    }
}

/// The deployment, if it is there and nobody waits for it.
fn admitted(serving: &Serving, place: Place) -> Result<Option<Arc<Served>>, Unresolved> {
    let room = serving.room(place.model_id, place.deployment_id)?;
    Ok(room.served.clone().filter(|_| free(&room, 0) > 0))
}

fn request(prediction: &Prediction) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(prediction.input.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/predict");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, prediction.input.len().into());
    for name in REQUEST_IDS {
        // Hex digits are valid in a header.
        if let Ok(value) = HeaderValue::from_str(prediction.claim.id.as_str()) {
            headers.insert(name, value);
        }
    }
    request
}

async fn read<B>(status: u16, content_type: Option<&HeaderValue>, body: B) -> Attempt
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let content_type = content_type.and_then(|value| value.to_str().ok());
    match Limited::new(body, MAX_RESULT_BYTES).collect().await {
        Ok(body) => Attempt::Answered(AsyncResult {
            status,
            content_type: content_type
                .filter(|text| text.len() <= MAX_CONTENT_TYPE_BYTES)
                .map(str::to_owned),
            body: body.to_bytes(),
        }),
        Err(error) if error.is::<LengthLimitError>() => Attempt::Failed(AsyncError::new(
            AsyncErrorCode::AsyncRequestNotSupported,
            format_args!(
                "the model's answer is longer than the {MAX_RESULT_BYTES} bytes that are kept: call it synchronously"
            ),
        )),
        Err(error) => Attempt::Failed(AsyncError::new(AsyncErrorCode::ModelPredictError, error)),
    }
}

fn code_of(error: &RunError) -> AsyncErrorCode {
    match error {
        RunError::QueueFull { .. }
        | RunError::QueueTimeout { .. }
        | RunError::Closed
        | RunError::Unhealthy(_) => AsyncErrorCode::ModelUnavailable,
        RunError::Start(_) => AsyncErrorCode::ModelNotReady,
        RunError::Timeout { .. } => AsyncErrorCode::ModelPredictTimeout,
        RunError::BodyTooLarge { .. } => AsyncErrorCode::ModelInvalidInput,
        RunError::Guest(_) => AsyncErrorCode::ModelPredictError,
        RunError::Host(_) => AsyncErrorCode::InternalServerError,
    }
}

fn judge(attempt: Attempt, prediction: &Prediction) -> Verdict {
    let mut errors = prediction.errors.clone();
    let (error, result) = match attempt {
        Attempt::Resting(pause) => return Verdict::Again(pause.max(NO_ROOM_DELAY), errors),
        Attempt::NoRoom => return Verdict::Again(NO_ROOM_DELAY, errors),
        Attempt::Failed(error) => (error, None),
        Attempt::Answered(result) => match AsyncErrorCode::of_answer(result.status) {
            Some(code) => (AsyncError::new(code, said(&result)), Some(result)),
            None => {
                return Verdict::Done(Outcome {
                    status: AsyncStatus::Succeeded,
                    errors,
                    result: Some(result),
                });
            }
        },
    };
    let code = error.code;
    errors.push(error);
    let attempts = u32::try_from(errors.len()).unwrap_or(u32::MAX);
    match next_step(attempts, code, prediction.retry) {
        NextStep::RetryAfter(delay) => Verdict::Again(delay, errors),
        NextStep::Fail => Verdict::Done(Outcome {
            status: AsyncStatus::Failed,
            errors,
            result,
        }),
    }
}

fn said(result: &AsyncResult) -> String {
    let text = String::from_utf8_lossy(&result.body);
    let quoted: String = text.chars().take(QUOTED_CHARS).collect();
    format!("the model answered {}: {quoted}", result.status)
}

async fn settle(queue: &AsyncQueue, claim: &Claim, verdict: &Verdict) {
    for attempt in 1..=SETTLE_ATTEMPTS {
        let store = queue.store();
        let settled = match verdict {
            Verdict::Done(outcome) => store.finish(claim, outcome).await,
            Verdict::Again(delay, errors) => store.requeue(claim, *delay, errors).await,
        };
        match settled {
            Ok(()) => return,
            // Lost to another worker, or noted by the attempt before, which did not know it.
            Err(error @ StoreError::Conflict { .. }) => {
                tracing::debug!(request = %claim.id, %error, "its end is noted already");
                return;
            }
            Err(error) if attempt == SETTLE_ATTEMPTS => {
                // The claim runs out, and then it is done once more.
                tracing::error!(request = %claim.id, %error, "cannot note its end");
            }
            Err(_) => tokio::time::sleep(SETTLE_DELAY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use samovar_types::async_request::InferenceRetryConfig;

    use super::*;

    fn prediction(errors: usize) -> Prediction {
        Prediction {
            claim: Claim {
                id: "0".repeat(32).parse().unwrap(),
                token: 1,
            },
            place: Place {
                model_id: "model000".parse().unwrap(),
                deployment_id: "deploy00".parse().unwrap(),
            },
            input: Bytes::from_static(b"[1]"),
            errors: vec![AsyncError::new(AsyncErrorCode::ModelPredictError, "x"); errors],
            retry: InferenceRetryConfig::default(),
            losses: 0,
        }
    }

    fn answer(status: u16, body: &'static str) -> Attempt {
        Attempt::Answered(AsyncResult {
            status,
            content_type: None,
            body: Bytes::from_static(body.as_bytes()),
        })
    }

    #[test]
    fn a_success_keeps_what_went_wrong_before_it() {
        let Verdict::Done(outcome) = judge(answer(200, "yes"), &prediction(2)) else {
            panic!("it is done")
        };
        assert_eq!(
            (outcome.status, outcome.errors.len()),
            (AsyncStatus::Succeeded, 2)
        );
        assert_eq!(outcome.result.unwrap().body, "yes");
    }

    #[test]
    fn an_error_is_repeated_until_the_attempts_are_used_up() {
        for (before, left) in [(0, Some(1000)), (1, Some(2000)), (2, None)] {
            match judge(answer(500, "oh"), &prediction(before)) {
                Verdict::Again(delay, errors) => {
                    assert_eq!(Some(delay.as_millis()), left);
                    assert_eq!(errors.len(), before + 1);
                }
                Verdict::Done(outcome) => {
                    assert_eq!(left, None);
                    assert_eq!(
                        (outcome.status, outcome.errors.len()),
                        (AsyncStatus::Failed, 3)
                    );
                    assert_eq!(outcome.errors[2].message, "the model answered 500: oh");
                    assert_eq!(outcome.result.unwrap().status, 500);
                }
            }
        }
    }

    #[test]
    fn what_the_model_refuses_is_not_repeated_and_a_busy_model_is_no_attempt() {
        assert!(matches!(
            judge(answer(422, "no"), &prediction(0)),
            Verdict::Done(_)
        ));
        let Verdict::Again(_, errors) = judge(Attempt::NoRoom, &prediction(2)) else {
            panic!("it goes on")
        };
        assert_eq!(errors.len(), 2);
    }

    #[tokio::test]
    async fn an_answer_is_kept_up_to_its_limit() {
        let kept = Full::new(Bytes::from(vec![b'x'; MAX_RESULT_BYTES]));
        let html = HeaderValue::from_static("text/html");
        let Attempt::Answered(result) = read(200, Some(&html), kept).await else {
            panic!("it is kept")
        };
        assert_eq!(result.content_type.as_deref(), Some("text/html"));
        let long = Full::new(Bytes::from(vec![b'x'; MAX_RESULT_BYTES + 1]));
        let Attempt::Failed(error) = read(200, None, long).await else {
            panic!("it is too long")
        };
        assert_eq!(error.code, AsyncErrorCode::AsyncRequestNotSupported);
    }

    #[test]
    fn the_model_is_called_as_documented() {
        let request = request(&prediction(0));
        assert_eq!(
            (request.method().as_str(), request.uri().path()),
            ("POST", "/predict")
        );
        assert_eq!(request.headers()["content-type"], "application/json");
        assert_eq!(request.headers()["content-length"], "3");
        assert_eq!(request.headers()["x-samovar-request-id"], "0".repeat(32));
    }
}
