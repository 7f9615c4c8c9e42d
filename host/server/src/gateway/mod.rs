//! Inference in: the address, the key, the deployment, its pool, and the stream back.

mod async_requests;
mod headers;
pub(crate) mod target;
mod trial;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use samovar_runtime::{RunError, Timings, Traffic};
use samovar_types::api::deployments::WakeResponse;
use samovar_types::error::ErrorCode;
use samovar_types::id::ModelId;
use samovar_types::names::PRODUCTION;

use crate::api::error::ApiError;
use crate::api::request_id::RequestId;
use crate::control::access::{Access, AuthMode, Refusal};
use crate::control::async_queue::AsyncQueue;
use crate::domain::model::{Target, Unresolved};
use crate::serving::{RouteTable, Routed, ServedModel, Serving};
pub use target::Place;
use target::{Address, Route};

/// Tells a component which environment a request was sent to: its own to tell it is not, for it may be promoted at any time.
const ENVIRONMENT: HeaderName = HeaderName::from_static("x-samovar-environment");

/// What the gateway needs.
#[derive(Clone)]
pub struct Gateway {
    /// Whose deployments it serves.
    pub serving: Arc<Serving>,
    /// Who may call.
    pub access: Arc<Access>,
    /// Requests that are answered later.
    pub async_queue: AsyncQueue,
}

impl Gateway {
    /// Answers a request to a model.
    ///
    /// # Errors
    /// When it leads nowhere, its caller may not call, or no answer comes of it.
    pub async fn infer(
        &self,
        place: Place<'_>,
        mut request: Request,
        id: &RequestId,
    ) -> Result<Response, ApiError> {
        if let Some(address) = place.async_address() {
            let model = {
                let table = self.serving.table();
                let model = self.admit_to_model(&table, address.model, &request)?;
                model.view.model.id
            };
            let method = request.method().clone();
            return Box::pin(self.async_request(model, address, method)).await;
        }
        let Some(address) = place.address() else {
            return Err(ApiError::not_found(format!(
                "{} is no inference address; wanted /models/MODEL/production/PATH, \
             /models/MODEL/deployment/ID/PATH, /models/MODEL/environments/ENVIRONMENT/PATH or \
             /models/MODEL/async_request/ID",
                short(request.uri().path())
            )));
        };
        let (model, routed) = self.admit(&address, &request)?;
        let served = &routed.served;
        match address.route {
            Route::Component(path) => {
                headers::remove_hop_by_hop(request.headers_mut());
                headers::remove_platform(request.headers_mut());
                name_environment(request.headers_mut(), address.target);
                self.forward(routed, path, request, id).await
            }
            Route::Wake if request.method() == Method::POST => {
                // One that is there is all that is asked for.
                let trouble = match served.pool.readiness().ready {
                    0 => served.pool.unavailable(),
                    _ => None,
                };
                if let Some(trouble) = trouble.filter(|one| !one.retry_after.is_zero()) {
                    return Err(RunError::Unhealthy(trouble).into());
                }
                let served = served.clone();
                tokio::spawn(async move {
                    if let Err(error) = served.pool.prewarm(1).await {
                        tracing::warn!(deployment = %served.id, %error, "it does not wake");
                    }
                });
                Ok((StatusCode::ACCEPTED, axum::Json(WakeResponse {})).into_response())
            }
            Route::Wake => Err(ApiError::wrong_method(
                &[Method::POST],
                "wake takes POST; a component's own path of this name is below sync/",
            )),
            Route::AsyncPredict => {
                Box::pin(self.async_predict(model, served.id, request, id)).await
            }
            Route::AsyncQueueStatus => {
                let method = request.method().clone();
                Box::pin(self.async_queue_status(model, served.id, method)).await
            }
        }
    }

    /// The model and the deployment, if the caller may call it.
    fn admit(
        &self,
        address: &Address<'_>,
        request: &Request,
    ) -> Result<(ModelId, Routed), ApiError> {
        // One snapshot for all of it: a change that comes meanwhile is for the next request.
        let table = self.serving.table();
        let model = self.admit_to_model(&table, address.model, request)?;
        let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
        match model.route(address.target, header) {
            Ok(routed) => Ok((model.view.model.id, routed)),
            Err(unresolved @ Unresolved::NotReady { .. }) => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::ModelNotReady,
                unresolved.to_string(),
            )),
            Err(unresolved) => Err(ApiError::no_model(unresolved.to_string())),
        }
    }

    /// The model, if the caller may call it. Nobody else learns whether it is there.
    fn admit_to_model<'t>(
        &self,
        table: &'t RouteTable,
        id_or_name: &str,
        request: &Request,
    ) -> Result<&'t ServedModel, ApiError> {
        let model = table.model(id_or_name);
        let authorization = request.headers().get(header::AUTHORIZATION);
        let authorization = authorization.map(HeaderValue::as_bytes);
        let id = model.map(|model| model.view.model.id);
        let may = self.access.may_invoke(authorization, id);
        match (may.map_err(|refusal| refused(&refusal))?, model) {
            (true, Some(model)) => Ok(&**model),
            _ => Err(ApiError::no_model(format!(
                "there is no model {:?}, or the key is not for it",
                short(id_or_name)
            ))),
        }
    }

    async fn forward(
        &self,
        routed: Routed,
        path: &str,
        mut request: Request,
        id: &RequestId,
    ) -> Result<Response, ApiError> {
        *request.uri_mut() = rewritten(request.uri(), path)?;
        // The key is the platform's; a component must not see it.
        if self.access.mode() == AuthMode::Keys {
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        id.mark(request.headers_mut());
        let (request, measured) = trial::enter(routed.way, routed.shadow, request, id);
        let answered = routed
            .served
            .pool
            .handle(request, id.shared(), Traffic::Sync)
            .await;
        let (mut response, timings) = trial::leave(measured, answered)?;
        if response.status().is_informational() {
            return Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::ApplicationError,
                format!(
                    "the model answered with status {}, which cannot end a request: wanted 200 or more",
                    response.status().as_u16()
                ),
            ));
        }
        headers::remove_hop_by_hop(response.headers_mut());
        if let Some(value) = server_timing(&timings) {
            response.headers_mut().append("server-timing", value);
        }
        Ok(response)
    }
}

/// The answer to a refused call.
pub fn refused(refusal: &Refusal) -> ApiError {
    let (status, code) = match refusal {
        Refusal::Unauthorized(_) => (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized),
        Refusal::Forbidden { .. } => (StatusCode::FORBIDDEN, ErrorCode::Forbidden),
    };
    ApiError::new(status, code, refusal.to_string())
}

/// Sets the header for the environment.
fn name_environment(headers: &mut HeaderMap, target: Target<'_>) {
    let value = match target {
        Target::Environment(PRODUCTION) => Some(HeaderValue::from_static(PRODUCTION)),
        // The names of environments are valid in headers.
        Target::Environment(name) => HeaderValue::from_str(name).ok(),
        Target::Development | Target::Deployment(_) => None,
    };
    if let Some(value) = value {
        headers.insert(ENVIRONMENT, value);
    }
}

fn rewritten(uri: &Uri, path: &str) -> Result<Uri, ApiError> {
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let invalid =
        |e: &dyn std::fmt::Display| ApiError::bad_request(format!("the path is not valid: {e}"));
    let path = PathAndQuery::try_from(text).map_err(|e| invalid(&e))?;
    let mut parts = uri.clone().into_parts();
    if parts.authority.is_some() && parts.scheme.is_none() {
        parts.authority = None;
    }
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|e| invalid(&e))
}

/// Where the time of a request went that was not served warm; nothing for one that was.
fn server_timing(timings: &Timings) -> Option<HeaderValue> {
    let start = timings.start?;
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let text = format!(
        "queue;dur={:.3}, component;dur={:.3}, graphs;dur={:.3}, instantiate;dur={:.3}, init;dur={:.3}, run;dur={:.3}",
        ms(timings.queue),
        ms(start.artifact),
        ms(start.graphs),
        ms(start.instantiate),
        ms(start.init),
        ms(timings.run),
    );
    HeaderValue::from_str(&text).ok()
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_no_say_in_the_environment() {
        for (target, wanted) in [
            (Target::Environment(PRODUCTION), Some("production")),
            (Target::Environment("staging"), Some("staging")),
            (Target::Development, None),
            (Target::Deployment("abcd1234"), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(ENVIRONMENT, HeaderValue::from_static("mine"));
            headers.append(ENVIRONMENT, HeaderValue::from_static("mine too"));
            headers::remove_platform(&mut headers);
            name_environment(&mut headers, target);
            let found: Vec<_> = headers.get_all(ENVIRONMENT).iter().collect();
            assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
