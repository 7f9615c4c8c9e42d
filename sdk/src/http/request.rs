//! Requests: method, path, query, headers, and a body that is read as it arrives.

use std::cell::OnceCell;
use std::fmt;
use std::io::{self, Cursor, Read};

use serde::de::DeserializeOwned;
use wasip2::http::types::{IncomingBody, IncomingRequest, Method};
use wasip2::io::streams::{InputStream, StreamError};

use super::{Json, TraceParent};
use crate::{Error, json};

/// A request to the model.
///
/// ```
/// use samovar_sdk::Request;
///
/// let mut request = Request::new("POST", "/predict?top=3", r#"["a", "b"]"#).with_header("accept", "application/json");
/// assert_eq!((request.method(), request.path()), ("POST", "/predict"));
/// assert_eq!((request.query("top").as_deref(), request.query_string()), (Some("3"), "top=3"));
/// assert_eq!(request.header("Accept"), Some("application/json"));
/// assert_eq!(request.json::<Vec<String>>()?, ["a", "b"]);
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Request {
    method: String,
    path: String,
    query: String,
    /// Headers are read from the host only when the model asks for one.
    headers: OnceCell<Vec<(String, Vec<u8>)>>,
    host: Option<IncomingRequest>,
    body: Body,
}

impl Request {
    /// Creates a request, to test a model without a server.
    pub fn new(method: impl Into<String>, path_with_query: &str, body: impl Into<Vec<u8>>) -> Self {
        let (path, query) = path_with_query
            .split_once('?')
            .unwrap_or((path_with_query, ""));
        Self {
            method: method.into(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: OnceCell::from(Vec::new()),
            host: None,
            body: Body(Source::Memory(Cursor::new(body.into()))),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let mut headers = self.headers.take().unwrap_or_default();
        headers.push((name.to_ascii_lowercase(), value.as_bytes().to_vec()));
        self.headers = OnceCell::from(headers);
        self
    }

    pub(super) fn from_host(request: IncomingRequest) -> Result<Self, Error> {
        let path_with_query = request.path_with_query().unwrap_or_else(|| "/".to_owned());
        let mut ours = Self::new(method_name(request.method()), &path_with_query, Vec::new());
        let body = request
            .consume()
            .map_err(|()| Error::internal("the request's body was taken before"))?;
        let stream = body
            .stream()
            .map_err(|()| Error::internal("the request's body was opened before"))?;
        ours.body = Body(Source::Host {
            stream,
            _body: body,
        });
        (ours.headers, ours.host) = (OnceCell::new(), Some(request));
        Ok(ours)
    }

    /// The method in upper case.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path within the model, such as `/predict`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What follows `?`, still encoded.
    pub fn query_string(&self) -> &str {
        &self.query
    }

    /// The first query parameter `name`, decoded; empty if it has no value.
    pub fn query(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
            (!pair.is_empty() && decode(found) == name).then(|| decode(value))
        })
    }

    /// The first header `name` (ignoring case) that is valid UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.headers.get_or_init(|| match &self.host {
            Some(request) => request.headers().entries(),
            None => Vec::new(),
        });
        let mut named = headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.find_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Id of this request, which is also in the response and in its log lines; `None` outside of Samovar.
    ///
    /// ```
    /// # let request = samovar_sdk::Request::new("POST", "/predict", "");
    /// if let Some(id) = request.request_id() {
    ///     samovar_sdk::log::info(format_args!("cut the text of {id}"));
    /// }
    /// ```
    pub fn request_id(&self) -> Option<&str> {
        self.header("x-samovar-request-id")
    }

    /// Name of the environment that the request was sent to, such as `production`; `None` for requests to a deployment by its id, to the
    /// development deployment, and for async requests.
    ///
    /// ```
    /// # let request = samovar_sdk::Request::new("POST", "/predict", "");
    /// let is_production = request.environment() == Some("production");
    /// # let _ = is_production;
    /// ```
    pub fn environment(&self) -> Option<&str> {
        self.header("x-samovar-environment")
    }

    /// The trace of the request, if it has a valid `traceparent`; see [`TraceParent`].
    pub fn trace_parent(&self) -> Option<TraceParent<'_>> {
        TraceParent::parse(self.header("traceparent")?)
    }

    /// The body, to read as it arrives. The SDK keeps no copy of it.
    ///
    /// ```
    /// use std::io::Read;
    ///
    /// let mut request = samovar_sdk::Request::new("POST", "/predict", vec![7; 100_000]);
    /// let (mut sum, mut chunk) = (0u64, [0; 4096]);
    /// loop {
    ///     match request.body().read(&mut chunk)? {
    ///         0 => break,
    ///         len => sum += chunk[..len].iter().map(|&byte| u64::from(byte)).sum::<u64>(),
    ///     }
    /// }
    /// assert_eq!(sum, 700_000);
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn body(&mut self) -> &mut Body {
        &mut self.body
    }

    /// Reads the whole body. The deployment's `limits.body` limits its size.
    ///
    /// # Errors
    /// Status 400 and `bad_request` if the body breaks off.
    ///
    /// ```
    /// let mut request = samovar_sdk::Request::new("POST", "/predict", [0xff, 0xd8]);
    /// assert_eq!(request.bytes()?, [0xff, 0xd8]);
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn bytes(&mut self) -> Result<Vec<u8>, Error> {
        self.body
            .rest()
            .map_err(|error| Error::bad_request(format!("the body broke off: {error}")))
    }

    /// Reads the whole body as UTF-8 text.
    ///
    /// # Errors
    /// Status 400 and `bad_request` if the body breaks off or is not UTF-8; the message then gives the position.
    ///
    /// ```
    /// use samovar_sdk::Request;
    ///
    /// assert_eq!(Request::new("POST", "/predict", "tea").text()?, "tea");
    /// assert_eq!(Request::new("POST", "/predict", [0xff]).text().unwrap_err().status(), 400);
    /// # Ok::<(), samovar_sdk::Error>(())
    /// ```
    pub fn text(&mut self) -> Result<String, Error> {
        String::from_utf8(self.bytes()?).map_err(|error| {
            Error::bad_request(format!(
                "the body is not UTF-8 text: {}",
                error.utf8_error()
            ))
        })
    }

    /// Reads the whole body as JSON. Floats are finite: a number outside the range of its type is refused.
    ///
    /// # Errors
    /// Status 400: `invalid_json` if the body does not fit `T`, with the position and what was expected; `bad_request` if the body breaks off.
    ///
    /// ```
    /// let mut request = samovar_sdk::Request::new("POST", "/predict", "[6.4, 3.2]");
    /// let error = request.json::<[f32; 4]>().unwrap_err();
    /// assert_eq!((error.status(), error.code()), (400, "invalid_json"));
    /// assert!(error.message().contains("expected an array of length 4"));
    ///
    /// let mut request = samovar_sdk::Request::new("POST", "/predict", "[1e39]");
    /// let error = request.json::<Vec<f32>>().unwrap_err();
    /// assert!(error.message().contains("expected a number within the range of f32"));
    /// ```
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let bytes = self.bytes()?;
        json::from_slice(&bytes).map_err(|error| {
            Error::new(
                400,
                "invalid_json",
                format!("the body is not the JSON that this model expects: {error}"),
            )
        })
    }
}

/// The request's body: a [`Read`] that waits for data; see [`Request::body`].
pub struct Body(Source);

enum Source {
    Memory(Cursor<Vec<u8>>),
    // Fields drop in order: the host does not let go of a body whose stream is open.
    Host {
        stream: InputStream,
        _body: IncomingBody,
    },
}

impl Body {
    /// Reads the rest of the body in the largest chunks that the host has. A short body is one chunk and is not copied.
    fn rest(&mut self) -> io::Result<Vec<u8>> {
        const PIECE_BYTES: u64 = 1 << 20;
        let mut rest = Vec::new();
        match &mut self.0 {
            Source::Memory(cursor) => cursor.read_to_end(&mut rest).map(drop)?,
            Source::Host { stream, .. } => loop {
                match stream.blocking_read(PIECE_BYTES) {
                    Ok(piece) if rest.is_empty() => rest = piece,
                    Ok(piece) => rest.extend_from_slice(&piece),
                    Err(StreamError::Closed) => break,
                    Err(StreamError::LastOperationFailed(error)) => {
                        return Err(io::Error::other(error.to_debug_string()));
                    }
                }
            },
        }
        Ok(rest)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            _ if buffer.is_empty() => Ok(0),
            Source::Memory(cursor) => cursor.read(buffer),
            Source::Host { stream, .. } => stream.read(buffer),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

/// The argument of a model's function: `Json<T>`, `String`, `Vec<u8>`, [`Request`], or your own type.
///
/// ```
/// use samovar_sdk::{Error, FromRequest, Request};
///
/// /// Pixels of a binary PGM.
/// struct Picture(Vec<u8>);
///
/// impl FromRequest for Picture {
///     fn from_request(mut request: Request) -> Result<Self, Error> {
///         let bytes = request.bytes()?;
///         match bytes.strip_prefix(b"P5") {
///             Some(rest) => Ok(Self(rest.to_vec())),
///             None => Err(Error::new(415, "unsupported_media_type", "wanted a binary PGM, which begins with P5")),
///         }
///     }
/// }
/// assert_eq!(Picture::from_request(Request::new("POST", "/", "GIF89a")).err().unwrap().status(), 415);
/// ```
pub trait FromRequest: Sized {
    /// Reads the value from the request.
    ///
    /// # Errors
    /// The error to send to the caller, with status 400 if the body does not fit.
    fn from_request(request: Request) -> Result<Self, Error>;
}

impl FromRequest for Request {
    fn from_request(request: Request) -> Result<Self, Error> {
        Ok(request)
    }
}

impl<T: DeserializeOwned> FromRequest for Json<T> {
    fn from_request(mut request: Request) -> Result<Self, Error> {
        request.json().map(Json)
    }
}

impl FromRequest for String {
    fn from_request(mut request: Request) -> Result<Self, Error> {
        request.text()
    }
}

impl FromRequest for Vec<u8> {
    fn from_request(mut request: Request) -> Result<Self, Error> {
        request.bytes()
    }
}

fn method_name(method: Method) -> String {
    let name = match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => return name.to_ascii_uppercase(),
    };
    name.to_owned()
}

/// Decodes `%XX` and `+`; invalid escapes are kept.
fn decode(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| (byte as char).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, digit(bytes.get(at)), digit(bytes.get(at + 1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded() {
        let request = Request::new("GET", "/predict?a=1&name=J%C3%BCrgen+M&flag&bad=%zz%4", "");
        assert_eq!(request.path(), "/predict");
        assert_eq!(request.query("name").as_deref(), Some("Jürgen M"));
        assert_eq!(request.query("flag").as_deref(), Some(""));
        assert_eq!(request.query("bad").as_deref(), Some("%zz%4"));
        assert_eq!(request.query("none"), None);
        assert_eq!(Request::new("GET", "/", "").query(""), None);
    }

    #[test]
    fn header_names_ignore_case() {
        let request = Request::new("GET", "/", "").with_header("Content-Type", "text/plain");
        assert_eq!(request.header("CONTENT-type"), Some("text/plain"));
        assert_eq!(request.header("accept"), None);
    }

    #[test]
    fn bodies_that_do_not_fit_are_bad_requests() {
        let error = Json::<Vec<u8>>::from_request(Request::new("POST", "/predict", "{}"))
            .expect_err("no list");
        assert_eq!((error.status(), error.code()), (400, "invalid_json"));
        let error =
            String::from_request(Request::new("POST", "/", vec![0xff])).expect_err("no text");
        assert_eq!(error.status(), 400);
    }
}
