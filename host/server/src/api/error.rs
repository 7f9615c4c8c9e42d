//! The one place where an error becomes an answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use samovar_runtime::RunError;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::error::{ErrorBody, ErrorCode};
use serde_json::{Value, json};

use super::request_id::RequestId;
use crate::domain::changes::Refusal;
use crate::serving::reconciler::NotApplied;

/// An error of the platform, as it will be answered: `{error, error_code, detail, request_id}`.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What programs look at.
    pub code: ErrorCode,
    /// What people read.
    pub message: String,
    /// What belongs to the code, if anything.
    pub detail: Option<Value>,
    /// When it makes sense to ask again, where that can be told: rounded up to whole seconds.
    pub retry_after: Duration,
    /// The methods that the address takes, when it was another.
    pub allow: Option<String>,
}

impl ApiError {
    /// An error without detail.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            detail: None,
            retry_after: Duration::ZERO,
            allow: None,
        }
    }

    /// 405: the address takes other methods.
    pub fn wrong_method(allowed: &[Method], message: impl Into<String>) -> Self {
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        Self {
            allow: Some(names.join(", ")),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::ClientError,
                message,
            )
        }
    }

    /// 400: the request is wrong in itself.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::ClientError, message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    }

    /// 404 for the target of an inference request.
    pub fn no_model(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::ModelDoesNotExist, message)
    }

    /// 409: it does not fit what is there.
    pub fn conflict(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 500, with the cause in the node's log only.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::InternalError,
            "the server failed; its log says why",
        )
    }

    /// The same with detail.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(detail);
        self
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        let (status, code) = match &error {
            RunError::QueueFull { .. } => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited),
            RunError::QueueTimeout { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, ErrorCode::ModelUnavailable)
            }
            RunError::Closed => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::ModelUnavailable),
            RunError::Start(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::ModelNotReady),
            RunError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Timeout),
            RunError::BodyTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::PayloadTooLarge)
            }
            RunError::Guest(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::ApplicationError,
            ),
            RunError::Unhealthy(trouble) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let mut told = Self::new(status, ErrorCode::ModelUnavailable, error.to_string());
                told.retry_after = trouble.retry_after;
                return told;
            }
            RunError::Host(cause) => return Self::internal(cause),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<&crate::registry::RegistryError> for ApiError {
    fn from(error: &crate::registry::RegistryError) -> Self {
        use crate::registry::RegistryError as E;
        let text = error.to_string();
        match error {
            E::NoModel { .. } | E::NoDeployment { .. } | E::NoEnvironment { .. } => {
                Self::not_found(text)
            }
            E::LastAdminKey { .. } => Self::conflict(ErrorCode::LastAdminKey, text),
            E::Refused(refusal) => refusal.into(),
            E::Invalid(_) => Self::bad_request(text),
            E::TooMany { .. } => Self::conflict(ErrorCode::TooMany, text),
            E::Contended => Self::conflict(ErrorCode::Conflict, text),
            E::InTheWay { .. } => Self::conflict(ErrorCode::UnreadableDocument, text),
            E::Unreadable { .. } | E::Vault(_) | E::Unaudited { .. } | E::LeaseLost { .. } => {
                Self::internal(text)
            }
            E::Store(_) => {
                tracing::error!(error = text, "the store failed");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::StoreUnavailable,
                    text,
                )
            }
        }
    }
}

impl From<samovar_store::StoreError> for ApiError {
    fn from(error: samovar_store::StoreError) -> Self {
        use samovar_store::StoreError as E;
        match error {
            E::Invalid(text) => Self::bad_request(text),
            _ => {
                tracing::error!(%error, "the store failed");
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, ErrorCode::StoreUnavailable, error.to_string())
            }
        }
    }
}

impl From<crate::domain::usage_window::InvalidWindow> for ApiError {
    fn from(error: crate::domain::usage_window::InvalidWindow) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<samovar_types::settings::InvalidSetting> for ApiError {
    fn from(error: samovar_types::settings::InvalidSetting) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<&samovar_store::blobs::BlobError> for ApiError {
    fn from(error: &samovar_store::blobs::BlobError) -> Self {
        use samovar_store::blobs::BlobError as E;
        let text = error.to_string();
        match error {
            E::NotFound { .. } => Self::not_found(text),
            E::WrongDigest { .. } => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::WrongDigest, text)
            }
            E::WrongSize { .. } => Self::bad_request(text),
            E::Damaged { .. } => {
                tracing::error!(error = text, "a blob is damaged");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::BlobDamaged,
                    text,
                )
            }
            E::TooLarge { .. } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                ErrorCode::PayloadTooLarge,
                text,
            ),
            _ => {
                tracing::error!(error = text, "blobs failed");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::StorageUnavailable,
                    text,
                )
            }
        }
    }
}

impl From<&crate::serving::guest_secrets::SecretsError> for ApiError {
    fn from(error: &crate::serving::guest_secrets::SecretsError) -> Self {
        use crate::serving::guest_secrets::SecretsError as E;
        let text = error.to_string();
        match error {
            E::Missing { names } => Self::conflict(ErrorCode::MissingSecrets, text)
                .with_detail(json!({ "missing": names })),
            E::Registry(cause) => cause.into(),
        }
    }
}

impl From<&Arc<crate::serving::build_tracker::BuildError>> for ApiError {
    fn from(error: &Arc<crate::serving::build_tracker::BuildError>) -> Self {
        use crate::serving::build_tracker::BuildError as E;
        match &**error {
            E::Stopped => Self::conflict(ErrorCode::BuildStopped, error.to_string()),
            E::Aborted => Self::internal(error),
            E::EndedNode => Self::conflict(ErrorCode::BuildFailed, error.to_string()),
            E::Serve(error) => error.into(),
            E::Registry(error) => error.into(),
            E::Stored { status, reason } => {
                let code = match status {
                    DeploymentStatus::BuildFailed => ErrorCode::ComponentRefused,
                    DeploymentStatus::DeployFailed => ErrorCode::ModelNotReady,
                    _ => return Self::internal(reason),
                };
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, reason)
            }
        }
    }
}

impl From<NotApplied> for ApiError {
    fn from(error: NotApplied) -> Self {
        tracing::error!(%error, "a change has not taken effect yet");
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, ErrorCode::StoreUnavailable, error.to_string())
    }
}

impl From<&Refusal> for ApiError {
    fn from(refusal: &Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotFound(_) => Self::not_found(text),
            Refusal::Conflict { code, .. } => Self::conflict(*code, text),
            Refusal::Invalid(_) => Self::bad_request(text),
        }
    }
}

impl From<&crate::serving::ServeError> for ApiError {
    fn from(error: &crate::serving::ServeError) -> Self {
        use crate::serving::ServeError as E;
        let text = error.to_string();
        match error {
            E::Blob(blob) => blob.into(),
            E::Files { .. } => Self::internal(text),
            E::Secrets(cause) => cause.into(),
            E::Component(cause) if cause.blames_component() => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                ErrorCode::ComponentRefused,
                text,
            ),
            E::Component(_) => Self::internal(text),
            E::Graph { .. } | E::NoIsolation => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                ErrorCode::GraphRefused,
                text,
            ),
            E::Start(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                ErrorCode::ModelNotReady,
                text,
            ),
        }
    }
}

macro_rules! by_value {
    ($($error:ty),*) => {$(
        impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                Self::from(&error)
            }
        }
    )*};
}

by_value!(
    crate::registry::RegistryError,
    samovar_store::blobs::BlobError,
    crate::serving::guest_secrets::SecretsError,
    crate::serving::ServeError,
    Refusal,
    // A build may be waited for by several.
    Arc<crate::serving::build_tracker::BuildError>
);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Fills in the body of an error's answer, which needs the id of its request, and marks every answer with that id.
pub fn render(mut response: Response, id: &RequestId) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let body = ErrorBody {
            error: error.message,
            error_code: error.code,
            detail: error.detail.unwrap_or_default(),
            request_id: id.as_str().to_owned(),
        };
        // The router knows which methods its routes take, and an error may know better.
        let known = response.headers_mut().remove(header::ALLOW);
        let better = error
            .allow
            .and_then(|text| HeaderValue::from_str(&text).ok());
        response = (error.status, Json(body)).into_response();
        let allow = better.or(known).map(|methods| (header::ALLOW, methods));
        response.headers_mut().extend(allow);
        match error.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = error.retry_after.as_secs_f64().ceil().max(1.0);
                let seconds = HeaderValue::from(seconds as u64);
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
            StatusCode::UNAUTHORIZED => {
                let scheme = HeaderValue::from_static("Bearer");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, scheme);
            }
            _ => {}
        }
    }
    id.mark(response.headers_mut());
    response
}
