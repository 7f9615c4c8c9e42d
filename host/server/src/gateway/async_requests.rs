//! Async inference in: hand a request in, ask how it stands, take it back, read its answer.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use samovar_store::StoreError;
use samovar_store::async_requests::{Acceptance, AsyncRequest, Cancellation, NewAsyncRequest};
use samovar_types::api::async_requests::{
    AsyncQueueStatusResponse, AsyncRequestResponse, CancelAsyncResponse, SubmitAsyncResponse,
    WebhookDelivery,
};
use samovar_types::async_request::{AsyncRequestId, AsyncStatus, MAX_SUBMISSION_BYTES};
use samovar_types::error::ErrorCode;
use samovar_types::id::{DeploymentId, ModelId};
use serde_json::json;

use super::Gateway;
use super::target::{AsyncAddress, AsyncPart};
use crate::api::error::ApiError;
use crate::api::request_id::RequestId;
use crate::control::async_queue::CAPACITY;
use crate::domain::async_submission::parse_submission;

/// How long the body of `async_predict` may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);

impl Gateway {
    /// `POST {target}/async_predict`
    pub(super) async fn async_predict(
        &self,
        model_id: ModelId,
        deployment_id: DeploymentId,
        request: Request,
        id: &RequestId,
    ) -> Result<Response, ApiError> {
        wanted(request.method(), &[Method::POST])?;
        let body = read(request).await?;
        let submission = parse_submission(&body, self.async_queue.webhooks())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let new = NewAsyncRequest {
            // The call's own id, so that one id leads from the answer to the logs.
            id: id.as_str().parse().map_err(ApiError::internal)?,
            model_id,
            deployment_id,
            created_at: Timestamp::now(),
            submission,
        };
        match self.async_queue.accept(&new).await.map_err(stored)? {
            Acceptance::Accepted => {
                let answer = SubmitAsyncResponse {
                    request_id: new.id.as_str().to_owned(),
                };
                Ok((StatusCode::CREATED, Json(answer)).into_response())
            }
            Acceptance::TooManyOpen => Err(full(format!(
                "too many async requests of this deployment wait or run already: all deployments together have places for \
                 {}, of which one takes no more than it leaves free; try again when some are done",
                CAPACITY.open
            ))),
            Acceptance::TooManyBytes => Err(full(format!(
                "async requests of this deployment and their results take too many bytes already: all deployments together \
                 have {}, of which one takes no more than it leaves free; results go an hour after their request is done",
                CAPACITY.bytes
            ))),
        }
    }

    /// `GET {target}/async_queue_status`
    pub(super) async fn async_queue_status(
        &self,
        model_id: ModelId,
        deployment_id: DeploymentId,
        method: Method,
    ) -> Result<Response, ApiError> {
        wanted(&method, &[Method::GET, Method::HEAD])?;
        let counts = self.async_queue.counts(deployment_id).await;
        let counts = counts.map_err(stored)?;
        Ok(Json(AsyncQueueStatusResponse {
            model_id,
            deployment_id,
            num_queued_requests: counts.queued,
            num_in_progress_requests: counts.in_progress,
        })
        .into_response())
    }

    /// `GET` and `DELETE /models/{model}/async_request/{id}`, `GET …/result`
    pub(super) async fn async_request(
        &self,
        model_id: ModelId,
        address: AsyncAddress<'_>,
        method: Method,
    ) -> Result<Response, ApiError> {
        let id: AsyncRequestId = address.id.parse().map_err(|_| missing(address.id))?;
        let found = self.async_queue.get(model_id, &id).await.map_err(stored)?;
        let found = found.ok_or_else(|| missing(address.id))?;
        match address.part {
            AsyncPart::Result => {
                wanted(&method, &[Method::GET, Method::HEAD])?;
                self.result(&found).await
            }
            AsyncPart::Whole => {
                wanted(&method, &[Method::GET, Method::HEAD, Method::DELETE])?;
                if method == Method::DELETE {
                    self.cancel(&id).await
                } else {
                    Ok(status(&found).into_response())
                }
            }
        }
    }

    async fn cancel(&self, id: &AsyncRequestId) -> Result<Response, ApiError> {
        let (canceled, message) = match self.async_queue.cancel(id).await.map_err(stored)? {
            Cancellation::Canceled => (true, "the request was canceled".to_owned()),
            Cancellation::TooLate(status) => (
                false,
                format!(
                    "the request is {}: only one that is QUEUED can be canceled",
                    status.as_str()
                ),
            ),
            Cancellation::Missing => return Err(missing(id.as_str())),
        };
        let answer = CancelAsyncResponse {
            request_id: id.as_str().to_owned(),
            canceled,
            message,
        };
        Ok(Json(answer).into_response())
    }

    async fn result(&self, request: &AsyncRequest) -> Result<Response, ApiError> {
        let found = self.async_queue.result(&request.id).await.map_err(stored)?;
        let Some(result) = found else {
            return Err(no_result(request));
        };
        let status = StatusCode::from_u16(result.status).map_err(ApiError::internal)?;
        let mut response = Response::new(Body::from(result.body));
        *response.status_mut() = status;
        let content_type = result.content_type.as_deref();
        if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(text).ok()) {
            response.headers_mut().insert(CONTENT_TYPE, value);
        }
        Ok(response)
    }
}

fn status(request: &AsyncRequest) -> Json<AsyncRequestResponse> {
    Json(AsyncRequestResponse {
        request_id: request.id.as_str().to_owned(),
        model_id: request.model_id,
        deployment_id: request.deployment_id,
        status: request.status.into(),
        webhook_status: request.webhook_status.into(),
        webhook: request.webhook.as_ref().map(|webhook| WebhookDelivery {
            attempts: webhook.attempts,
            last_error: webhook.last_error.clone(),
        }),
        created_at: request.created_at,
        status_at: request.status_at,
        errors: request.errors.iter().cloned().map(Into::into).collect(),
    })
}

async fn read(request: Request) -> Result<bytes::Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::PayloadTooLarge,
            format!("the body of async_predict is longer than {MAX_SUBMISSION_BYTES} bytes"),
        )
    };
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > MAX_SUBMISSION_BYTES as u64) {
        return Err(too_large());
    }
    let body = to_bytes(request.into_body(), MAX_SUBMISSION_BYTES);
    let late = || {
        let message = format!("the body did not arrive within {BODY_TIMEOUT:?}");
        ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Timeout, message)
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, body).await;
    read.map_err(|_| late())?.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(one) = cause {
            if one.is::<http_body_util::LengthLimitError>() {
                return too_large();
            }
            cause = one.source();
        }
        ApiError::bad_request(format!("the body broke off: {error}"))
    })
}

/// Refuses other methods.
fn wanted(method: &Method, methods: &[Method]) -> Result<(), ApiError> {
    if methods.contains(method) {
        return Ok(());
    }
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    Err(ApiError::wrong_method(
        methods,
        format!("this address takes {}, found {method}", names.join(" or ")),
    ))
}

fn missing(id: &str) -> ApiError {
    let shown: String = id.chars().take(80).collect();
    ApiError::not_found(format!(
        "the model has no async request {shown:?}; one can be read until an hour after it is done"
    ))
}

fn no_result(request: &AsyncRequest) -> ApiError {
    let why = match request.status {
        AsyncStatus::Queued | AsyncStatus::InProgress => "ask again when it is done",
        _ => "its model did not answer; its errors say why",
    };
    let told = format!(
        "the async request {} has no result, it is {}: {why}",
        request.id,
        request.status.as_str()
    );
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NoResult, told)
        .with_detail(json!({ "status": request.status, "errors": request.errors }))
}

fn full(message: String) -> ApiError {
    ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::CapacityExceeded,
        message,
    )
}

fn stored(error: StoreError) -> ApiError {
    match error {
        StoreError::Unavailable(_) => {
            tracing::error!(%error, "async requests cannot be stored or read");
            let told = "the store of async requests is unavailable: try again";
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                told,
            )
        }
        error => ApiError::internal(error),
    }
}
