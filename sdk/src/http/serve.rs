//! Serves requests of the host with the replica's model: routing, and sending the response.

use std::cell::RefCell;
use std::io::{self, Write};

use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::OutputStream;

use super::response::{BodyWriter, Content};
use super::{Request, Response};
use crate::{Error, Model};

/// The default routes: `POST /predict` goes to [`Model::predict`], other methods get 405, other paths 404.
///
/// # Errors
/// The error of `predict`; status 405 and `method_not_allowed` for another method, 404 and `not_found` for another path.
///
/// ```
/// use samovar_sdk::{Error, Model, Request, Response, http};
///
/// struct Echo;
///
/// impl Model for Echo {
///     fn load() -> Result<Self, Error> {
///         Ok(Self)
///     }
///
///     fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
///         Ok(Response::new("text/plain", request.bytes()?))
///     }
///
///     fn handle(&mut self, request: Request) -> Result<Response, Error> {
///         match (request.method(), request.path()) {
///             ("GET", "/labels") => Response::json(&["tea", "coffee"]),
///             _ => http::route(self, request),
///         }
///     }
/// }
/// assert_eq!(Echo.handle(Request::new("POST", "/predict", "x"))?.into_bytes()?, b"x");
/// assert_eq!(Echo.handle(Request::new("GET", "/labels", ""))?.status(), 200);
/// assert_eq!(Echo.handle(Request::new("GET", "/other", "")).unwrap_err().status(), 404);
/// # Ok::<(), Error>(())
/// ```
pub fn route<M: Model>(model: &mut M, request: Request) -> Result<Response, Error> {
    match (request.path().trim_end_matches('/'), request.method()) {
        ("/predict", "POST") => model.predict(request),
        ("/predict", method) => Err(Error::method_not_allowed(method, "POST")),
        _ => Err(Error::not_found(format!(
            "there is no {}: this model answers POST /predict",
            request.path()
        ))),
    }
}

/// Serves one request with the model in `slot`, which is loaded now if `init` has not loaded it.
pub(crate) fn serve<M: Model>(
    slot: &RefCell<Option<M>>,
    request: IncomingRequest,
    outparam: ResponseOutparam,
) {
    match respond(slot, request) {
        Ok(response) => send(response, outparam),
        Err(error) => fail(&error, outparam),
    }
}

fn respond<M: Model>(
    slot: &RefCell<Option<M>>,
    request: IncomingRequest,
) -> Result<Response, Error> {
    let request = Request::from_host(request)?;
    let mut slot = slot.borrow_mut();
    let model = match &mut *slot {
        Some(model) => model,
        empty => empty.insert(M::load()?),
    };
    model.handle(request)
}

fn send(response: Response, outparam: ResponseOutparam) {
    let mut opening = Opening {
        status: response.status,
        headers: response.headers,
        length: None,
        outparam: Some(outparam),
        opened: None,
    };
    let written = match response.content {
        Content::Whole(bytes) => {
            opening.length = Some(bytes.len());
            opening.write_whole(&bytes)
        }
        Content::Streamed(write) => {
            write(&mut BodyWriter::new(&mut opening)).and_then(|()| Ok(opening.flush()?))
        }
    };
    match (written, opening.outparam, opening.opened) {
        (Ok(()), _, Some((stream, body))) => {
            // The host does not let go of a body whose stream is open.
            drop(stream);
            // Not why: the debug form of this error is 6 KB of code.
            if OutgoingBody::finish(body, None).is_err() {
                eprintln!("the response could not be finished");
            }
        }
        // Nothing went out yet: there is still time for a status.
        (Err(error), Some(outparam), _) if opening.length.is_none() => fail(&error, outparam),
        // Neither head nor body can be sent, and another attempt could end the same way.
        (Err(error), Some(outparam), _) => {
            eprintln!("{error}");
            let code = ErrorCode::InternalError(Some(error.message().to_owned()));
            ResponseOutparam::set(outparam, Err(code));
        }
        // Dropping the body unfinished breaks the response off.
        (Err(error), ..) => eprintln!("the response broke off: {error}"),
        (Ok(()), ..) => eprintln!("the response was not opened"),
    }
}

/// Responds with an error.
fn fail(error: &Error, outparam: ResponseOutparam) {
    if error.status() >= 500 {
        eprintln!("{} ({})", error.message(), error.code());
    }
    send(Response::from_error(error), outparam);
}

/// A response whose head is sent with the first bytes of its body, or with the first flush.
struct Opening {
    status: u16,
    headers: Vec<(String, String)>,
    /// For a complete body.
    length: Option<usize>,
    outparam: Option<ResponseOutparam>,
    opened: Option<(OutputStream, OutgoingBody)>,
}

impl Opening {
    fn stream(&mut self) -> io::Result<&mut OutputStream> {
        if self.opened.is_none() {
            self.opened = Some(self.open().map_err(io::Error::other)?);
        }
        let opened = self.opened.as_mut().map(|(stream, _)| stream);
        opened.ok_or_else(|| io::Error::other("the response's body is not open"))
    }

    /// Writes a complete body; a short one in one call.
    fn write_whole(&mut self, bytes: &[u8]) -> Result<(), Error> {
        /// The limit of WASI for such a call.
        const SHORT_BYTES: usize = 4096;
        if (1..=SHORT_BYTES).contains(&bytes.len()) {
            let written = self.stream()?.blocking_write_and_flush(bytes);
            return Ok(written.map_err(io::Error::other)?);
        }
        self.write_all(bytes)?;
        Ok(self.flush()?)
    }

    fn open(&mut self) -> Result<(OutputStream, OutgoingBody), String> {
        let headers = std::mem::take(&mut self.headers);
        let head = head(self.status, headers, self.length)?;
        let taken = |()| "the response's body was taken before".to_owned();
        let body = head.body().map_err(taken)?;
        let stream = body.write().map_err(taken)?;
        let outparam = self.outparam.take().ok_or("the response was sent before")?;
        ResponseOutparam::set(outparam, Ok(head));
        Ok((stream, body))
    }
}

impl Write for Opening {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.stream()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream()?.flush()
    }
}

fn head(
    status: u16,
    headers: Vec<(String, String)>,
    length: Option<usize>,
) -> Result<OutgoingResponse, String> {
    const LENGTH: &str = "content-length";
    let headers = headers.into_iter();
    let mut headers: Vec<_> = headers
        .filter(|(name, _)| length.is_none() || !name.eq_ignore_ascii_case(LENGTH))
        .map(|(name, value)| (name, value.into_bytes()))
        .collect();
    if let Some(length) = length {
        headers.push((LENGTH.to_owned(), length.to_string().into_bytes()));
    }
    let fields = Fields::from_list(&headers).map_err(|_| {
        // It does not say which.
        let wrong = headers.iter().find_map(|one| {
            let error = Fields::from_list(std::slice::from_ref(one)).err()?;
            Some(format!(
                "response header {:?} is not valid: {error:?}",
                one.0
            ))
        });
        wrong.unwrap_or_else(|| "the response has more headers than the host accepts".to_owned())
    })?;
    let head = OutgoingResponse::new(fields);
    if status != 200 {
        head.set_status_code(status)
            .map_err(|()| format!("{status} is not an HTTP status"))?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Model for Echo {
        fn load() -> Result<Self, Error> {
            Ok(Self)
        }

        fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
            Ok(Response::new("text/plain", request.bytes()?))
        }
    }

    fn status(method: &str, path: &str) -> u16 {
        match Echo.handle(Request::new(method, path, "x")) {
            Ok(response) => response.status(),
            Err(error) => error.status(),
        }
    }

    #[test]
    fn only_post_predict_reaches_the_model() {
        assert_eq!(status("POST", "/predict"), 200);
        assert_eq!(status("POST", "/predict?x=1"), 200);
        assert_eq!(status("GET", "/predict"), 405);
        assert_eq!(status("POST", "/"), 404);
        assert_eq!(status("POST", "/predict/more"), 404);
    }
}
