//! What keeps web pages away from a server that asks for no keys.
//!
//! Any page can make a browser send requests to this machine. With `DNS rebinding`, a page whose name suddenly leads to
//! 127.0.0.1 can even read the answers. Keys stop both, because a browser adds none by itself. Without keys, what the
//! browser says about a request has to do: `Host` stops rebinding, `Origin` and `Sec-Fetch-Site` stop the rest, and
//! changes of the management API cannot have a content type that an HTML form can send.

use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use samovar_types::error::ErrorCode;
use samovar_types::origins::Origin;

use super::base_domain::BaseDomain;
use super::host::{is_loopback, named, without_port};
use crate::api::error::ApiError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// All that a form sends.
const FORMS: [&str; 3] = [
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "text/plain",
];

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A model. `allowed` tells that pages of its origin may call it.
    Inference {
        /// By `--allow-origin` or by the environment's settings.
        allowed: bool,
    },
    /// Anything else.
    Management,
}

/// Refuses requests that come from a web page of another machine.
///
/// # Errors
/// Which header says so, and what to do.
pub fn check<B>(
    request: &Request<B>,
    purpose: Purpose,
    domain: Option<&BaseDomain>,
) -> Result<(), ApiError> {
    let ours = |host: &str| {
        let name = without_port(host);
        name.is_some_and(|name| {
            is_loopback(name) || domain.is_some_and(|domain| domain.covers(name))
        })
    };
    if let Some(host) = named(request.uri(), request.headers()).find(|host| !ours(host)) {
        return Err(refused(format!(
            "the request is for the host {:?}, but a server that asks for no keys answers only to localhost, loopback \
             addresses and its --base-domain: use one of these, or start it without --no-auth",
            short(host)
        )));
    }
    let headers = request.headers();
    if purpose != (Purpose::Inference { allowed: true }) {
        check_origin(headers, ours)?;
    }
    let changes = !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if purpose == Purpose::Management && changes && is_form(headers) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::ClientError,
            "a server that asks for no keys takes no changes in a content type that HTML forms can send: send \
             `Content-Type: application/json`",
        ));
    }
    Ok(())
}

fn check_origin(headers: &HeaderMap, ours: impl Fn(&str) -> bool) -> Result<(), ApiError> {
    // A client that is no browser sends neither header.
    if let Some(origin) = headers.get(ORIGIN) {
        let origin = origin.to_str().unwrap_or("?");
        // What is no origin, as with a path, ends in whatever its sender likes.
        let is_origin = origin.parse::<Origin>().is_ok();
        // A host is an address only where the scheme says so: in `x://127.0.0.1` it is a name that anybody can have.
        let host = origin
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
            .map(|(_, host)| host)
            .filter(|_| is_origin);
        if !host.is_some_and(ours) {
            return Err(refused(format!(
                "the request comes from the web page {:?}, and a server that asks for no keys takes none from pages of \
                 other machines: allow its calls to models with --allow-origin, or start the server without --no-auth",
                short(origin)
            )));
        }
    } else if headers
        .get(SEC_FETCH_SITE)
        .is_some_and(|site| site == "cross-site")
    {
        return Err(refused(
            "the request comes from a web page of another site (`Sec-Fetch-Site: cross-site`), and a server that asks for \
             no keys takes none from there"
                .to_owned(),
        ));
    }
    Ok(())
}

fn is_form(headers: &HeaderMap) -> bool {
    let is_form = |value: &http::HeaderValue| {
        let Ok(value) = value.to_str() else {
            return true;
        };
        let kind = value.split([';', ',']).next().unwrap_or_default().trim();
        FORMS.iter().any(|form| kind.eq_ignore_ascii_case(form))
    };
    headers.get_all(CONTENT_TYPE).iter().any(is_form)
}

fn refused(message: String) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status that a request to the management API with these headers is refused with.
    fn refusal(method: &str, headers: &[(&str, &str)], purpose: Purpose) -> Option<u16> {
        let mut request = Request::builder().method(method).uri("/v1/models");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let domain: BaseDomain = "models.test".parse().unwrap();
        let checked = check(&request.body(()).unwrap(), purpose, Some(&domain));
        checked.err().map(|error| error.status.as_u16())
    }

    #[test]
    fn hosts_are_this_machine_or_the_base_domain() {
        for (host, wanted) in [
            ("localhost:8080", None),
            ("127.0.0.1:8080", None),
            ("[::1]:8080", None),
            ("model-abcd1234.models.test", None),
            ("models.test", None),
            ("evil.example", Some(403)),
            ("localhost.evil.example:8080", Some(403)),
            ("192.168.0.7:8080", Some(403)),
            ("localhost:x", Some(403)),
            ("", Some(403)),
        ] {
            for purpose in [Purpose::Management, Purpose::Inference { allowed: true }] {
                assert_eq!(refusal("GET", &[("host", host)], purpose), wanted, "{host}");
            }
        }
    }

    #[test]
    fn pages_of_other_machines_are_refused_unless_their_origin_is_allowed() {
        let [management, inference, allowed] = [
            Purpose::Management,
            Purpose::Inference { allowed: false },
            Purpose::Inference { allowed: true },
        ];
        for (headers, wanted) in [
            (&[][..], None),
            (&[("origin", "http://localhost:3000")], None),
            (&[("origin", "http://127.0.0.1")], None),
            (&[("sec-fetch-site", "same-origin")], None),
            (&[("sec-fetch-site", "none")], None),
            (&[("origin", "https://evil.example")], Some(403)),
            (&[("origin", "http://localhost.evil.example")], Some(403)),
            (&[("origin", "http://evil.example/.localhost")], Some(403)),
            (&[("origin", "http:http://localhost:3000")], Some(403)),
            (&[("origin", "x://127.0.0.1")], Some(403)),
            (&[("origin", "null")], Some(403)),
            (&[("origin", "")], Some(403)),
            (&[("sec-fetch-site", "cross-site")], Some(403)),
        ] {
            for method in ["GET", "POST", "OPTIONS"] {
                assert_eq!(refusal(method, headers, management), wanted, "{headers:?}");
                assert_eq!(refusal(method, headers, inference), wanted, "{headers:?}");
                assert_eq!(refusal(method, headers, allowed), None, "{headers:?}");
            }
        }
    }

    #[test]
    fn forms_change_nothing() {
        for (kind, wanted) in [
            ("application/json", None),
            ("application/octet-stream", None),
            ("text/plain", Some(415)),
            ("Text/Plain; charset=utf-8", Some(415)),
            ("multipart/form-data; boundary=x", Some(415)),
            ("application/x-www-form-urlencoded", Some(415)),
        ] {
            let headers = [("content-type", kind)];
            assert_eq!(
                refusal("POST", &headers, Purpose::Management),
                wanted,
                "{kind}"
            );
            assert_eq!(refusal("GET", &headers, Purpose::Management), None);
            let inference = Purpose::Inference { allowed: false };
            assert_eq!(refusal("POST", &headers, inference), None);
        }
    }
}
