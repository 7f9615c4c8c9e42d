//! Outgoing requests: only to hosts that the manifest allows, and limited in number.

use std::sync::{Arc, LazyLock};

use http::HeaderName;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::p3::bindings::http::types as p3;
use wasmtime_wasi_http::{
    Error as HttpError, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
    WasiHttpView,
};

use super::Sandbox;
use super::bodies::Bodies;
use crate::engine::AsyncSupport;

/// Most open connections of a replica's outgoing requests.
const MAX_CONNECTIONS: usize = 32;
/// Longest method of an outgoing request, in bytes.
const MAX_METHOD_BYTES: usize = 64;
/// Longest host and port of an outgoing request, in bytes; a name of DNS has 253 at most.
const MAX_AUTHORITY_BYTES: usize = 1 << 10;

/// The outgoing requests of a replica.
pub(super) struct Outgoing {
    allow: Arc<[String]>,
    connections: Arc<Semaphore>,
    pub bodies: Bodies,
}

impl Outgoing {
    /// Allows requests to these `host:port` pairs.
    pub fn new(allow: Arc<[String]>) -> Self {
        Self {
            allow,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            bodies: Bodies::default(),
        }
    }
}

impl WasiHttpHooks for Outgoing {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: LazyLock<ForbiddenHeaderFilter> = LazyLock::new(|| Arc::new(is_forbidden));
        FILTER.clone()
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        self.bodies.chunks()
    }

    // wasmtime calls this after the function above, for the same body.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        self.bodies.chunk_bytes()
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<
                    (
                        http::Response<WasiBody>,
                        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
                    ),
                    HttpError,
                >,
            > + Send,
    > {
        let allowed = is_allowed(&self.allow, request.uri());
        let connection = self.connections.clone().try_acquire_owned();
        Box::new(async move {
            if !allowed {
                return Err(HttpError::HttpRequestDenied);
            }
            let connection = connection.map_err(|_| HttpError::ConnectionLimitReached)?;
            let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
            // Held until the connection has ended and the body, some of which may be buffered, was read.
            let connection = Arc::new(connection);
            let held = connection.clone();
            let io = async move {
                let ended = io.await;
                drop(connection);
                ended
            };
            let response = response.map(|body| {
                let body = body.map_err(move |error| {
                    let _ = &held;
                    error
                });
                body.boxed_unsync()
            });
            Ok((
                response,
                Box::new(io) as Box<dyn Future<Output = Result<(), HttpError>> + Send>,
            ))
        })
    }
}

/// Whether a header belongs to the connection and not to the request. The same as wasmtime's `DEFAULT_FORBIDDEN_HEADERS`, which
/// constructs its nine names again for each header of each request.
fn is_forbidden(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "http2-settings"
    )
}

/// Whether the list of `host:port` pairs contains the destination of a request.
pub(crate) fn is_allowed(allow: &[String], uri: &http::Uri) -> bool {
    let Some(authority) = uri.authority() else {
        return false;
    };
    let host = authority.host();
    let host_and_port = authority.as_str().rsplit('@').next();
    let after_host = host_and_port.and_then(|text| text.strip_prefix(host));
    let port = match after_host {
        Some("" | ":") => match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        },
        // The `http` crate ignores what is no port: it parses `[::1](:80` as `[::1]:80`, and `host:99999` as having no port.
        Some(text) => match text.strip_prefix(':').and_then(parse_port) {
            Some(port) => port,
            None => return false,
        },
        None => return false,
    };
    allow.iter().any(|entry| match entry.rsplit_once(':') {
        Some((name, wanted)) => name.eq_ignore_ascii_case(host) && wanted.parse() == Ok(port),
        None => entry.eq_ignore_ascii_case(host) && port == 443,
    })
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Replaces the setters for parts of a request whose length wasmtime does not limit.
pub(super) fn limit_requests(
    linker: &mut Linker<Sandbox>,
    support: AsyncSupport,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store, (request, method): (Resource<p2::OutgoingRequest>, p2::Method)| {
            let long = matches!(&method, p2::Method::Other(name) if name.len() > MAX_METHOD_BYTES);
            if long {
                return Ok((Err(()),));
            }
            let mut http = store.data_mut().http();
            Ok((p2::HostOutgoingRequest::set_method(
                &mut http, request, method,
            )?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store, (request, authority): (Resource<p2::OutgoingRequest>, Option<String>)| {
            if is_long(authority.as_deref()) {
                return Ok((Err(()),));
            }
            let mut http = store.data_mut().http();
            Ok((p2::HostOutgoingRequest::set_authority(
                &mut http, request, authority,
            )?,))
        },
    )?;
    if support == AsyncSupport::On {
        let mut types = linker.instance("wasi:http/types@0.3.0")?;
        types.func_wrap(
            "[method]request.set-method",
            |mut store, (request, method): (Resource<p3::Request>, p3::Method)| {
                let long =
                    matches!(&method, p3::Method::Other(name) if name.len() > MAX_METHOD_BYTES);
                if long {
                    return Ok((Err(()),));
                }
                let mut http = store.data_mut().http();
                Ok((p3::HostRequest::set_method(&mut http, request, method)?,))
            },
        )?;
        types.func_wrap(
            "[method]request.set-authority",
            |mut store, (request, authority): (Resource<p3::Request>, Option<String>)| {
                if is_long(authority.as_deref()) {
                    return Ok((Err(()),));
                }
                let mut http = store.data_mut().http();
                Ok((p3::HostRequest::set_authority(
                    &mut http, request, authority,
                )?,))
            },
        )?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

fn is_long(authority: Option<&str>) -> bool {
    authority.is_some_and(|authority| authority.len() > MAX_AUTHORITY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_connection_are_those_of_wasmtime() {
        let ours = wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;
        assert_eq!(ours.len(), 9);
        assert!(ours.iter().all(is_forbidden));
        assert!(!is_forbidden(&http::header::ACCEPT));
    }

    #[test]
    fn outgoing_requests_reach_named_hosts_only() {
        let allow = [
            "api.example.com:443".to_owned(),
            "localhost:8080".to_owned(),
        ];
        let to = |uri: &str| is_allowed(&allow, &uri.parse().unwrap());
        assert!(to("https://api.example.com/x"));
        assert!(to("https://API.example.com:443/x"));
        assert!(to("http://localhost:8080/"));
        assert!(!to("http://api.example.com/x"));
        assert!(!to("https://example.com/"));
        assert!(!to("http://localhost:80/"));
        assert!(!to("/relative"));
        assert!(to("https://user@api.example.com/x"));
        assert!(!to("https://api.example.com:99999/x"));
        let in_brackets = ["[::1]:80".to_owned()];
        for (uri, wanted) in [("http://[::1]:80/", true), ("http://[::1](:80/", false)] {
            assert_eq!(
                is_allowed(&in_brackets, &uri.parse().unwrap()),
                wanted,
                "{uri}"
            );
        }
    }
}
