//! What HTTP itself asks of an answer, whoever made it: where there is no body, and how its end is told.

use axum::body::{Body, HttpBody as _};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Method, Response, StatusCode, Version};

use crate::unread::read_rest;

/// What an answer depends on in its request.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    is_head: bool,
    version: Version,
}

impl Asked {
    /// By a request with this head.
    pub fn by(method: &Method, version: Version) -> Self {
        Self {
            is_head: *method == Method::HEAD,
            version,
        }
    }

    /// Makes the answer one that HTTP/1 and HTTP/2 carry alike.
    ///
    /// Hyper leaves out the body of an answer to HEAD, and of 204 and 304, on HTTP/1 alone: on HTTP/2 it would send it, which
    /// clients take for an error of the protocol. To a client of HTTP/1.0 that wants to keep its connection, hyper would
    /// promise that even when only the connection's end tells the end of the body.
    pub fn frame(self, response: &mut Response<Body>) {
        let no_content = response.status() == StatusCode::NO_CONTENT;
        let not_modified = response.status() == StatusCode::NOT_MODIFIED;
        if self.is_head || no_content || not_modified {
            let length = response.body().size_hint().exact();
            let body = std::mem::take(response.body_mut());
            let headers = response.headers_mut();
            if no_content || not_modified {
                // On HTTP/1, hyper leaves it out of a 304 as well.
                headers.remove(CONTENT_LENGTH);
            } else if let Some(length) = length {
                headers.entry(CONTENT_LENGTH).or_insert(length.into());
            }
            // A component that writes its body is not cut off, which would cost its replica.
            read_rest(body);
        } else if self.version == Version::HTTP_10 {
            let length = response.body().size_hint().exact();
            let headers = response.headers_mut();
            if length.is_none() && !headers.contains_key(CONTENT_LENGTH) {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                // Else hyper would add that it is kept.
                *response.version_mut() = Version::HTTP_10;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(method: &str, version: Version, status: u16, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Asked::by(&method.parse().unwrap(), version).frame(&mut response);
        response
    }

    fn stream() -> Body {
        Body::from_stream(futures::stream::pending::<std::io::Result<&str>>())
    }

    #[tokio::test]
    async fn answers_without_a_body_have_none() {
        for (method, status, length) in [
            ("HEAD", 200, Some("4")),
            ("HEAD", 404, Some("4")),
            ("GET", 204, None),
            ("GET", 304, None),
        ] {
            for body in [Body::from("text"), stream()] {
                let known = body.size_hint().exact().is_some();
                let response = framed(method, Version::HTTP_2, status, body);
                assert!(response.body().is_end_stream(), "{method} {status}");
                let found = response.headers().get(CONTENT_LENGTH);
                let wanted = length.filter(|_| known);
                assert_eq!(found.map(|value| value.to_str().unwrap()), wanted);
            }
        }
        let response = framed("GET", Version::HTTP_2, 200, Body::from("text"));
        assert!(!response.body().is_end_stream());
    }

    #[tokio::test]
    async fn only_an_end_that_is_told_keeps_a_connection_of_http_1_0() {
        let closes = |version, body| {
            framed("GET", version, 200, body)
                .headers()
                .get(CONNECTION)
                .is_some_and(|value| value == "close")
        };
        assert!(closes(Version::HTTP_10, stream()));
        assert!(!closes(Version::HTTP_10, Body::from("text")));
        assert!(!closes(Version::HTTP_10, Body::empty()));
        assert!(!closes(Version::HTTP_11, stream()));
    }
}
