//! Headers of requests and answers that end at the gateway.

use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE};
use axum::http::{HeaderMap, HeaderName};

/// Names that begin so are the platform's in a request.
const PLATFORM: &str = "x-samovar-";

/// Takes away what is between two neighbours only, as RFC 9110 has it: the headers that `Connection` names, and `TE`.
/// `Connection` itself and its like never reach a component: `wasi:http` forbids them.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // Without these a request would be another one, so no client can mean it.
            .filter(|name| ![HOST, CONTENT_LENGTH].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(TE);
}

/// Takes away what a caller set in the platform's name: a component may believe these headers.
pub fn remove_platform(headers: &mut HeaderMap) {
    let is_ours = |name: &HeaderName| name.as_str().starts_with(PLATFORM);
    while let Some(name) = headers.keys().find(|name| is_ours(name)).cloned() {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = given.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let mut headers = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn what_connection_names_goes_no_further() {
        let mut found = headers(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "x-other,, host, content-length"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("te", "trailers"),
            ("host", "localhost"),
            ("content-length", "4"),
        ]);
        remove_hop_by_hop(&mut found);
        let kept = [
            ("x-kept", "3"),
            ("host", "localhost"),
            ("content-length", "4"),
        ];
        assert_eq!(found, headers(&kept));
    }

    #[test]
    fn nobody_speaks_for_the_platform() {
        let mut found = headers(&[
            ("x-samovar-shadow", "1"),
            ("x-samovar-shadow", "2"),
            ("x-samovar-environment", "production"),
            ("x-samovar", "kept"),
            ("traceparent", "kept"),
        ]);
        remove_platform(&mut found);
        assert_eq!(
            found,
            headers(&[("x-samovar", "kept"), ("traceparent", "kept")])
        );
    }
}
