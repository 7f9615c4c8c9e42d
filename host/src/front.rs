//! The front door: gives each request its id, and takes it to whoever answers it. Inference goes straight to the
//! gateway, everything else to the router of the management API.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::{HeaderValue, Request, Uri};
use hyper::body::{Body as _, Incoming};
use tower::ServiceExt as _;

use crate::api::error;
use crate::api::request_id::RequestId;
use crate::gateway::{Gateway, Place};
use crate::unread::Unread;

/// Everything that a node answers.
pub struct Front {
    /// Inference.
    pub gateway: Gateway,
    /// Everything else.
    pub management: Router,
    /// With it, `model-{id}.{base_domain}` is the address of a model.
    pub base_domain: Option<BaseDomain>,
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
        let mut request = request.map(|body| match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(Unread::new(body)),
        });
        // Both are counted references, so that the place may borrow from them while the request moves on.
        let (uri, host) = (request.uri().clone(), request.headers().get(HOST).cloned());
        let answer = match self.place(&uri, host.as_ref()) {
            Some(place) => self
                .gateway
                .infer(place, request, &id)
                .await
                .into_response(),
            None => {
                request.extensions_mut().insert(id.clone());
                // Apart, so that inference does not carry its size from place to place.
                let Ok(answer) = Box::pin(self.management.clone().oneshot(request)).await;
                answer
            }
        };
        Ok(error::render(answer, &id))
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

/// A domain whose names `model-{id}` are the addresses of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDomain(String);

/// Text that is no domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a domain: wanted a name such as models.example.com, without a scheme or a port"
)]
pub struct InvalidDomain(String);

impl std::str::FromStr for BaseDomain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if text.len() <= 200 && text.split('.').all(label) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(InvalidDomain(text.chars().take(80).collect()))
    }
}

impl BaseDomain {
    /// The model that a host name, with or without a port, is the address of.
    fn model<'a>(&self, host: &'a str) -> Option<&'a str> {
        let (host, _) = host.split_once(':').unwrap_or((host, ""));
        let (first, domain) = host.split_once('.')?;
        let (word, model) = first.split_once('-')?;
        let ours = word.eq_ignore_ascii_case("model") && domain.eq_ignore_ascii_case(&self.0);
        ours.then_some(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_of_models() {
        let domain: BaseDomain = "Models.example.com".parse().unwrap();
        for (host, model) in [
            ("model-abcd1234.models.example.com", Some("abcd1234")),
            ("MODEL-abcd1234.MODELS.example.com:8080", Some("abcd1234")),
            ("models.example.com", None),
            ("model-abcd1234.example.com", None),
            ("x-abcd1234.models.example.com", None),
            ("127.0.0.1:8080", None),
            ("", None),
        ] {
            assert_eq!(domain.model(host), model, "{host}");
        }
    }

    #[test]
    fn domains_are_names() {
        for wrong in ["", "a..b", "https://a.b", "a.b:80", ".a", "ä.de"] {
            assert!(wrong.parse::<BaseDomain>().is_err(), "{wrong}");
        }
        assert!("localhost".parse::<BaseDomain>().is_ok());
    }
}
