//! The front door: gives each request its id, and takes it to whoever answers it. Inference goes straight to the
//! gateway, everything else to the router of the management API.

mod base_domain;
pub(crate) mod browser_guard;
mod cors;
mod framing;
pub(crate) mod host;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Uri};
use hyper::body::{Body as _, Incoming};
use samovar_types::origins::Origin;
use tower::ServiceExt as _;

use crate::api::error::{self, ApiError};
use crate::api::request_id::RequestId;
use crate::control::access::AuthMode;
use crate::gateway::{Gateway, Place};
use crate::unread::Unread;
pub use base_domain::BaseDomain;
use browser_guard::Purpose;
use cors::Cors;
use framing::Asked;

/// Everything that a node answers.
pub struct Front {
    /// Inference.
    pub gateway: Gateway,
    /// Everything else.
    pub management: Router,
    /// With it, `model-{id}.{base_domain}` is the address of a model.
    pub base_domain: Option<BaseDomain>,
    /// The web pages that may call any model from a browser.
    pub allowed_origins: Vec<Origin>,
}

impl Front {
    /// Answers a request, whatever it asks for.
    ///
    /// # Errors
    /// Never: what goes wrong is answered.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response, Infallible> {
        let id = RequestId::new();
        let asked = Asked::by(request.method(), request.version());
        let mut request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(Unread::new(body)),
        });
        // Both are counted references, so that the place may borrow from them while the request moves on.
        let (uri, host) = (request.uri().clone(), request.headers().get(HOST).cloned());
        let place = self.place(&uri, host.as_ref());
        let cors = place.and_then(|place| self.cors(place, request.headers()));
        let checked = self.check(&request, place.is_some(), cors.as_ref());
        let preflight = cors.as_ref().and_then(|cors| cors.preflight(&request));
        let answer = match (checked, preflight, place) {
            (Err(refused), ..) => refused.into_response(),
            (Ok(()), Some(answer), _) => answer,
            (Ok(()), None, Some(place)) => self
                .gateway
                .infer(place, request, &id)
                .await
                .into_response(),
            (Ok(()), None, None) => {
                request.extensions_mut().insert(id.clone());
                // Apart, so that inference does not carry its size from place to place.
                let Ok(answer) = Box::pin(self.management.clone().oneshot(request)).await;
                answer
            }
        };
        let mut answer = error::render(answer, &id);
        if let Some(cors) = cors {
            cors.mark(answer.headers_mut());
        }
        asked.frame(&mut answer);
        Ok(answer)
    }

    /// What the answer tells browsers; `None` where no web page may call a model.
    fn cors(&self, place: Place<'_>, headers: &HeaderMap) -> Option<Cors> {
        let serving = &self.gateway.serving;
        if self.allowed_origins.is_empty() && !serving.allows_any_origin() {
            return None;
        }
        let of_environment = match place.address() {
            Some(address) => serving.allowed_origins(address.model, address.target),
            None => Vec::new(),
        };
        Cors::of(headers, [&self.allowed_origins, &of_environment])
    }

    /// Refuses requests that are wrong whatever they ask for, or that a web page made which may not.
    fn check(
        &self,
        request: &Request<Body>,
        is_inference: bool,
        cors: Option<&Cors>,
    ) -> Result<(), ApiError> {
        host::check(request.version(), request.headers())?;
        if self.gateway.access.mode() == AuthMode::Keys {
            return Ok(());
        }
        let purpose = match is_inference {
            true => Purpose::Inference {
                allowed: cors.is_some_and(Cors::is_allowed),
            },
            false => Purpose::Management,
        };
        browser_guard::check(request, purpose, self.base_domain.as_ref())
    }

    /// Where within the models a request goes; `None` for one that is about something else.
    fn place<'a>(&self, uri: &'a Uri, host: Option<&'a HeaderValue>) -> Option<Place<'a>> {
        let path = uri.path();
        if let Some(rest) = path.strip_prefix("/models/") {
            return Some(Place::below_models(rest));
        }
        let domain = self.base_domain.as_ref()?;
        let host = match uri.host() {
            Some(host) => host,
            None => host?.to_str().ok()?,
        };
        let model = domain.model(host)?;
        Some(Place { model, rest: path })
    }
}
