//! Calls of models from web pages (CORS): who may, what a preflight is answered, and which headers tell the browser.

use axum::body::Body;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use samovar_types::origins::{Allowed, Origin, allowed};

/// How long a browser may keep the answer to a preflight.
const MAX_AGE_SECONDS: u64 = 600;
/// What a page may read beside the few headers that every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-samovar-request-id, x-baseten-request-id, server-timing, retry-after",
);
const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// What the answer to one request tells the browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// The value of `Access-Control-Allow-Origin`; `None` for a request of no page, or of one that may not.
    origin: Option<HeaderValue>,
    /// Another origin is answered otherwise, which caches have to know.
    varies: bool,
}

impl Cors {
    /// For a request to a model, whose environment and server allow these origins; `None` when they allow none.
    pub fn of(headers: &HeaderMap, origins: [&[Origin]; 2]) -> Option<Self> {
        if origins.iter().all(|some| some.is_empty()) {
            return None;
        }
        let is_any = origins.iter().any(|some| some.iter().any(Origin::is_any));
        let origin = headers.get(ORIGIN);
        let allow = origin.and_then(|origin| {
            let allow = |some: &&[Origin]| allowed(some, origin.as_bytes());
            let both = origins.iter().filter_map(allow);
            match both.max_by_key(|one| *one == Allowed::Any)? {
                Allowed::Any => Some(HeaderValue::from_static("*")),
                Allowed::This => Some(origin.clone()),
            }
        });
        Some(Self {
            origin: allow,
            varies: !is_any,
        })
    }

    /// Whether the page that asks may.
    pub fn is_allowed(&self) -> bool {
        self.origin.is_some()
    }

    /// The answer to a preflight of a page that may call the model; `None` for any other request. It needs no key, for a
    /// browser sends none, and tells nothing about the model.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        if *request.method() != Method::OPTIONS || !self.is_allowed() {
            return None;
        }
        let method = request.headers().get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        if let Some(names) = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        if request.headers().contains_key(REQUEST_PRIVATE_NETWORK) {
            headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS.into());
        for name in [
            ACCESS_CONTROL_REQUEST_METHOD,
            ACCESS_CONTROL_REQUEST_HEADERS,
        ] {
            headers.append(VARY, name.into());
        }
        Some(response)
    }

    /// Marks an answer, also one of the platform itself. What a component says of itself stays.
    pub fn mark(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(VARY, ORIGIN.into());
        }
        if let Some(origin) = self.origin
            && !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN)
        {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers
                .entry(ACCESS_CONTROL_EXPOSE_HEADERS)
                .or_insert(EXPOSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(texts: &[&str]) -> Vec<Origin> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn marked(origin: Option<&'static str>, allowed: &[&str]) -> Option<HeaderMap> {
        let mut asked = HeaderMap::new();
        asked.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))));
        let cors = Cors::of(&asked, [&origins(allowed), &[]])?;
        let mut headers = HeaderMap::new();
        cors.mark(&mut headers);
        Some(headers)
    }

    #[test]
    fn the_origin_is_answered_and_caches_are_told() {
        let app = "https://app.example";
        for (origin, allowed, allow, varies) in [
            (Some(app), &[app][..], Some(app), true),
            (Some("https://evil.example"), &[app], None, true),
            (None, &[app], None, true),
            (Some(app), &["*"], Some("*"), false),
            (Some(app), &[app, "*"], Some("*"), false),
            (None, &["*"], None, false),
        ] {
            let headers = marked(origin, allowed).unwrap();
            let found = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(found.map(|value| value.to_str().unwrap()), allow);
            assert_eq!(
                headers.get(VARY).is_some(),
                varies,
                "{origin:?} {allowed:?}"
            );
        }
        assert_eq!(marked(Some(app), &[]), None);
    }

    #[test]
    fn a_component_that_answers_pages_itself_is_left_alone() {
        let mut asked = HeaderMap::new();
        asked.insert(ORIGIN, HeaderValue::from_static("https://app.example"));
        let cors = Cors::of(&asked, [&origins(&["*"]), &[]]).unwrap();
        let mut headers = HeaderMap::new();
        let own = HeaderValue::from_static("https://app.example");
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, own.clone());
        cors.mark(&mut headers);
        assert_eq!(headers.get(ACCESS_CONTROL_ALLOW_ORIGIN), Some(&own));
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn only_a_preflight_is_answered() {
        let app = "https://app.example";
        let asked = |method: &str, origin: &str, preflight: bool| {
            let mut request = Request::builder().method(method).header(ORIGIN, origin);
            if preflight {
                request = request.header(ACCESS_CONTROL_REQUEST_METHOD, "POST");
            }
            let request = request.body(()).unwrap();
            let cors = Cors::of(request.headers(), [&[], &origins(&[app])]).unwrap();
            cors.preflight(&request)
        };
        let response = asked("OPTIONS", app, true).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_METHODS], "POST");
        assert!(asked("OPTIONS", app, false).is_none());
        assert!(asked("POST", app, true).is_none());
        assert!(asked("OPTIONS", "https://evil.example", true).is_none());
    }
}
