//! Has an `init`, which fails when INIT_ERROR is set, loops when INIT_LOOP is set, and is seen to have run otherwise.

use std::sync::atomic::{AtomicU64, Ordering};

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({ path: "wit", world: "guest" });

static INITS: AtomicU64 = AtomicU64::new(0);

struct Init;

impl exports::samovar::model::lifecycle::Guest for Init {
    fn init() -> Result<(), String> {
        INITS.fetch_add(1, Ordering::Relaxed);
        if std::env::var_os("INIT_LOOP").is_some() {
            loop {
                std::hint::black_box(0);
            }
        }
        match std::env::var("INIT_ERROR") {
            Ok(reason) => Err(reason),
            Err(_) => Ok(()),
        }
    }
}

export!(Init);

impl wasip2::exports::http::incoming_handler::Guest for Init {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().unwrap();
        let inits = INITS.load(Ordering::Relaxed).to_string();
        let _ = stream.blocking_write_and_flush(inits.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Init);
