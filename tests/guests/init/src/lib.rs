//! Has an `init`, which fails when INIT_ERROR or INIT_ERROR_BYTES is set, loops when INIT_LOOP is set, loops using up the
//! host's patience when INIT_BUDGET is set, sleeps when INIT_SLEEP is set, and is seen to have run otherwise. A request to
//! `/trap?MS` crashes after a while.

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
        if std::env::var_os("INIT_BUDGET").is_some() {
            let passed = wasip2::clocks::monotonic_clock::subscribe_duration(1);
            loop {
                passed.block();
            }
        }
        let number = |name: &str| std::env::var(name).ok()?.parse().ok();
        if let Some(ms) = number("INIT_SLEEP") {
            std::thread::sleep(std::time::Duration::from_millis(ms));
        }
        if let Some(bytes) = number("INIT_ERROR_BYTES") {
            return Err("x".repeat(bytes as usize));
        }
        match std::env::var("INIT_ERROR") {
            Ok(reason) => Err(reason),
            Err(_) => Ok(()),
        }
    }
}

export!(Init);

impl wasip2::exports::http::incoming_handler::Guest for Init {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        if let Some(ms) = path.strip_prefix("/trap?") {
            let ms = ms.parse().unwrap_or(0);
            std::thread::sleep(std::time::Duration::from_millis(ms));
            std::arch::wasm32::unreachable();
        }
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
