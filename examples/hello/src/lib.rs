//! The smallest model: a standard `wasi:http` component, without the SDK, that answers every request with a greeting.

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

// ANCHOR: component
struct Hello;

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the first body of a response");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the first stream of a body");
        // A client that is gone needs no greeting.
        let _ = stream.blocking_write_and_flush(b"Hello\n");
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Hello);
// ANCHOR_END: component
