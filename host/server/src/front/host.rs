//! The host that a request names: which ones are valid, and which ones name this machine.

use std::net::IpAddr;

use http::header::HOST;
use http::{HeaderMap, Uri, Version};

use crate::api::error::ApiError;

/// Refuses a request of HTTP/1.1 without exactly one valid `Host`, as RFC 9112 wants, so that nothing on the way can take it
/// for a request to another host.
///
/// # Errors
/// What was found.
pub fn check(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (Some(host), None) if is_valid(host.as_bytes()) => Ok(()),
        (None, None) if version != Version::HTTP_11 => Ok(()),
        (None, None) => Err(ApiError::bad_request(
            "a request of HTTP/1.1 needs a `Host` header, found none",
        )),
        (Some(_), Some(_)) => Err(ApiError::bad_request(
            "a request needs one `Host` header, found several",
        )),
        _ => Err(ApiError::bad_request(
            "the `Host` header is no host name: wanted a name or an address, and perhaps a port",
        )),
    }
}

/// Whether text has only characters that a host and a port are made of. It may be empty.
fn is_valid(host: &[u8]) -> bool {
    host.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(byte))
}

/// The hosts that a request names: of its target, and of its `Host` header.
pub fn named<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> impl Iterator<Item = &'r str> {
    let header = headers.get(HOST);
    // A value that is no text names a host that is not there.
    let header = header.map(|value| value.to_str().unwrap_or("?"));
    let target = uri.authority().map(|authority| authority.as_str());
    target.into_iter().chain(header)
}

/// A host without its port; `None` when what follows the host is no port. The address of an IPv6 host keeps its brackets.
pub fn without_port(host: &str) -> Option<&str> {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, rest) = host.split_at(end);
    let port = rest.strip_prefix(':').unwrap_or(rest);
    ((rest.is_empty() || rest.starts_with(':')) && is_port(port)).then_some(name)
}

/// Whether a host without its port can only mean the machine that asks.
pub fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_and_ports() {
        for (host, name) in [
            ("localhost", Some("localhost")),
            ("localhost:8080", Some("localhost")),
            ("localhost:", Some("localhost")),
            ("[::1]", Some("[::1]")),
            ("[::1]:8080", Some("[::1]")),
            ("", Some("")),
            ("localhost:80x", None),
            ("localhost:80:80", None),
            ("[::1]8080", None),
            ("[::1", None),
            ("::1", None),
        ] {
            assert_eq!(without_port(host), name, "{host}");
        }
    }

    #[test]
    fn names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "api.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "0.0.0.0",
            "10.0.0.1",
            "[::]",
            "notlocalhost",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_without_a_panic(host in ".{0,40}") {
            if let Some(name) = without_port(&host) {
                prop_assert!(host.starts_with(name));
                let _ = is_loopback(name);
            }
        }

        #[test]
        fn a_port_changes_nothing(name in "[a-z.]{1,20}", port in 0u16..) {
            let host = format!("{name}:{port}");
            prop_assert_eq!(without_port(&host), Some(&*name));
        }
    }
}
