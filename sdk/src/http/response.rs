//! Responses: a status, headers, and a complete or streamed body.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use super::Json;
use crate::{Error, json};

type Writer = Box<dyn FnOnce(&mut BodyWriter<'_>) -> Result<(), Error>>;

/// Response of a model: a status, headers and a body.
///
/// ```
/// use samovar_sdk::Response;
///
/// let answer = Response::new("text/csv", "a,b\n").with_status(201).with_header("cache-control", "no-store");
/// assert_eq!((answer.status(), answer.headers().len()), (201, 2));
/// assert_eq!(answer.into_bytes()?, b"a,b\n");
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
}

pub(super) enum Content {
    Whole(Vec<u8>),
    Streamed(Writer),
}

impl Response {
    /// Status 200 with a body of this media type.
    pub fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::with_content(content_type, Content::Whole(body.into()))
    }

    /// Status 200 with `value` as JSON. JSON has no non-finite numbers, so such floats become the strings `"NaN"`, `"Infinity"` and
    /// `"-Infinity"`.
    ///
    /// # Errors
    /// Status 500 and `internal` for values that JSON cannot express, such as a map whose keys are not text.
    ///
    /// ```
    /// let answer = samovar_sdk::Response::json(&[("label", "tea"), ("unit", "cup")])?;
    /// assert_eq!(answer.into_bytes()?, br#"[["label","tea"],["unit","cup"]]"#);
    /// assert_eq!(samovar_sdk::Response::json(&[0.5, f32::NAN])?.into_bytes()?, br#"[0.5,"NaN"]"#);
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        let body = json::to_vec(value).map_err(|error| {
            Error::internal(format!("the output could not be written as JSON: {error}"))
        })?;
        Ok(Self::new("application/json", body))
    }

    /// Status 200 with a body that `write` writes. Flushed data is sent at once.
    ///
    /// The head is sent with the first bytes, or with the first flush. If `write` fails before that, its error is the response. If it fails later,
    /// the response breaks off visibly, and the log has the reason.
    ///
    /// ```
    /// use std::io::Write;
    ///
    /// let answer = samovar_sdk::Response::stream("text/plain", |body| {
    ///     for step in 1..=3 {
    ///         writeln!(body, "step {step}")?;
    ///         body.flush()?;
    ///     }
    ///     Ok(())
    /// });
    /// assert_eq!(answer.into_bytes()?, b"step 1\nstep 2\nstep 3\n");
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn stream(
        content_type: &str,
        write: impl FnOnce(&mut BodyWriter<'_>) -> Result<(), Error> + 'static,
    ) -> Self {
        Self::with_content(content_type, Content::Streamed(Box::new(write)))
    }

    /// Status 200 with a body of chunks, each sent as soon as the iterator returns it.
    ///
    /// ```
    /// let answer = samovar_sdk::Response::chunks("text/plain", ["one ", "two"]);
    /// assert_eq!(answer.into_bytes()?, b"one two");
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn chunks<I>(content_type: &str, chunks: I) -> Self
    where
        I: IntoIterator + 'static,
        I::Item: AsRef<[u8]>,
    {
        Self::stream(content_type, move |body| {
            for chunk in chunks {
                body.write_all(chunk.as_ref())?;
                body.flush()?;
            }
            Ok(())
        })
    }

    /// Sets the status, 100 to 999. Sending a response with an invalid status fails.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The headers set so far.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The whole body, for tests. A streamed body is written into memory.
    ///
    /// # Errors
    /// The error of a streamed body's writer.
    pub fn into_bytes(self) -> Result<Vec<u8>, Error> {
        match self.content {
            Content::Whole(bytes) => Ok(bytes),
            Content::Streamed(write) => {
                let mut bytes = Vec::new();
                write(&mut BodyWriter::new(&mut bytes))?;
                Ok(bytes)
            }
        }
    }

    pub(super) fn from_error(error: &Error) -> Self {
        let mut response = Self::new("application/json", error.to_body());
        response.headers.extend_from_slice(error.headers());
        response.with_status(error.status())
    }

    fn with_content(content_type: &str, content: Content) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            content,
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// The writer of a streamed response's body; see [`Response::stream`].
pub struct BodyWriter<'a>(&'a mut dyn Write);

impl<'a> BodyWriter<'a> {
    pub(super) fn new(inner: &'a mut dyn Write) -> Self {
        Self(inner)
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            Ok(0)
        } else {
            self.0.write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl fmt::Debug for BodyWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyWriter")
    }
}

/// The return value of a model's function: `Json<T>`, `String`, `Vec<u8>`, [`Response`], your own type, or one of them in a `Result`.
///
/// ```
/// use samovar_sdk::{Error, IntoResponse, Response};
///
/// struct Csv(Vec<f32>);
///
/// impl IntoResponse for Csv {
///     fn into_response(self) -> Result<Response, Error> {
///         let line: Vec<String> = self.0.iter().map(f32::to_string).collect();
///         Ok(Response::new("text/csv", line.join(",")))
///     }
/// }
/// assert_eq!(Csv(vec![0.5, 2.0]).into_response()?.into_bytes()?, b"0.5,2");
/// # Ok::<(), Error>(())
/// ```
pub trait IntoResponse {
    /// Converts the value into a response.
    ///
    /// # Errors
    /// The error to send to the caller.
    fn into_response(self) -> Result<Response, Error>;
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response, Error> {
        Ok(self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response, Error> {
        Response::json(&self.0)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response, Error> {
        Ok(Response::new("text/plain; charset=utf-8", self))
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Result<Response, Error> {
        Ok(Response::new("application/octet-stream", self))
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response, Error> {
        self.map_err(Into::into)?.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_in_order() -> Result<(), Error> {
        let response = Response::chunks("text/plain", ["a", "", "bc"]);
        assert_eq!(response.headers()[0].1, "text/plain");
        assert_eq!(response.into_bytes()?, b"abc");
        Ok(())
    }

    #[test]
    fn an_error_has_its_status_and_json() -> Result<(), Error> {
        let response = Response::from_error(&Error::not_found("no x"));
        assert_eq!(response.status(), 404);
        assert_eq!(
            response.into_bytes()?,
            br#"{"detail":null,"error":"no x","error_code":"not_found"}"#
        );
        Ok(())
    }

    #[test]
    fn results_become_responses() {
        assert!(Ok::<_, Error>(Json(1)).into_response().is_ok());
        assert!(
            Err::<String, _>(Error::internal("x"))
                .into_response()
                .is_err()
        );
    }
}
