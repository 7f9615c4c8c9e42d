//! From the host's request to the model and back: routing, the replica's one model, sending the response.

use std::cell::RefCell;
use std::io::Write;

use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use super::response::{BodyWriter, Content};
use super::{Request, Response};
use crate::{Error, Model};

/// The default routes: `POST /predict` goes to [`Model::predict`], other methods get 405, other paths 404.
pub fn route<M: Model>(model: &mut M, request: Request) -> Result<Response, Error> {
    match (request.path().trim_end_matches('/'), request.method()) {
        ("/predict", "POST") => model.predict(request),
        ("/predict", method) => {
            let error = Error::new(
                405,
                "method_not_allowed",
                format!("{method} is not for /predict: send the input with POST"),
            );
            Ok(Response::from_error(&error).with_header("allow", "POST"))
        }
        _ => Err(Error::not_found(format!(
            "there is no {}: this model answers POST /predict",
            request.path()
        ))),
    }
}

/// Answers one request with the model in `slot`, which is loaded now if no call to `init` did it before.
pub(crate) fn serve<M: Model>(
    slot: &RefCell<Option<M>>,
    request: IncomingRequest,
    outparam: ResponseOutparam,
) {
    let answer = respond(slot, request);
    let response = answer.unwrap_or_else(|error| {
        if error.status() >= 500 {
            eprintln!("{} ({})", error.message(), error.code());
        }
        Response::from_error(&error)
    });
    send(response, outparam);
}

fn respond<M: Model>(
    slot: &RefCell<Option<M>>,
    request: IncomingRequest,
) -> Result<Response, Error> {
    let request = Request::from_host(&request)?;
    let mut slot = slot.borrow_mut();
    let model = match &mut *slot {
        Some(model) => model,
        empty => empty.insert(M::load()?),
    };
    model.handle(request)
}

fn send(response: Response, outparam: ResponseOutparam) {
    let Response {
        status,
        headers,
        content,
    } = response;
    let head = match head(status, &headers, &content) {
        Ok(head) => head,
        Err(message) => {
            eprintln!("{message}");
            return ResponseOutparam::set(outparam, Err(ErrorCode::InternalError(Some(message))));
        }
    };
    let Ok(body) = head.body() else {
        return ResponseOutparam::set(outparam, Err(ErrorCode::InternalError(None)));
    };
    ResponseOutparam::set(outparam, Ok(head));
    match write(&body, content) {
        Ok(()) => {
            if let Err(error) = OutgoingBody::finish(body, None) {
                eprintln!("the response could not be finished: {error:?}");
            }
        }
        // Dropping the body unfinished breaks the response off.
        Err(error) => eprintln!("the response broke off: {error}"),
    }
}

fn head(
    status: u16,
    headers: &[(String, String)],
    content: &Content,
) -> Result<OutgoingResponse, String> {
    let fields = Fields::new();
    for (name, value) in headers {
        fields
            .append(name, value.as_bytes())
            .map_err(|error| format!("response header {name:?} is not valid: {error:?}"))?;
    }
    if let Content::Whole(bytes) = content {
        let length = bytes.len().to_string();
        fields
            .set("content-length", &[length.into_bytes()])
            .map_err(|error| format!("content-length: {error:?}"))?;
    }
    let head = OutgoingResponse::new(fields);
    head.set_status_code(status)
        .map_err(|()| format!("{status} is no HTTP status"))?;
    Ok(head)
}

fn write(body: &OutgoingBody, content: Content) -> Result<(), Error> {
    let mut stream = body
        .write()
        .map_err(|()| Error::internal("the response's body was opened before"))?;
    match content {
        Content::Whole(bytes) => stream.write_all(&bytes)?,
        Content::Streamed(write) => write(&mut BodyWriter::new(&mut stream))?,
    }
    stream.flush()?;
    Ok(())
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
