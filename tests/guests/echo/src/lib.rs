//! Streams a request's body back chunk by chunk; `/inspect` tells what it saw of the request instead.

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

struct Echo;

impl wasip2::exports::http::incoming_handler::Guest for Echo {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        let path = request.path_with_query().unwrap_or_default();
        if path.starts_with("/inspect") {
            ResponseOutparam::set(out, Ok(response));
            let mut text = format!("{:?} {path}\n", request.method());
            for (name, value) in request.headers().entries() {
                text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
            }
            let stream = body.write().unwrap();
            let _ = stream.blocking_write_and_flush(text.as_bytes());
            drop(stream);
            let _ = OutgoingBody::finish(body, None);
            return;
        }
        ResponseOutparam::set(out, Ok(response));
        let incoming = request.consume().unwrap();
        let from = incoming.stream().unwrap();
        let to = body.write().unwrap();
        loop {
            match from.blocking_read(64 << 10) {
                Ok(bytes) => {
                    for chunk in bytes.chunks(4096) {
                        if to.blocking_write_and_flush(chunk).is_err() {
                            return;
                        }
                    }
                }
                Err(StreamError::Closed) => break,
                Err(error) => panic!("the request broke off: {error:?}"),
            }
        }
        drop(to);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Echo);
