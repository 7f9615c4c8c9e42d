//! A component of WASI 0.3, whose one instance serves several requests at once.
//!
//! `/sleep?MS` answers late; `/echo` streams the body back; `/unfinished` leaves its body open, `/trailers` what comes after
//! it; any other path says how many requests are being served now.

use std::sync::atomic::{AtomicU64, Ordering};

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

static RUNNING: AtomicU64 = AtomicU64::new(0);

struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let running = RUNNING.fetch_add(1, Ordering::Relaxed) + 1;
        let path = request.get_path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        if path == "/sleep" {
            wait_for(query.parse::<u64>().unwrap_or(0) * 1_000_000).await;
        }
        let response = match path {
            "/echo" => {
                let (_, done) = wit_future::new(|| Ok(()));
                let (body, trailers) = Request::consume_body(request, done);
                Response::new(Fields::new(), Some(body), trailers).0
            }
            "/unfinished" => unfinished(),
            "/trailers" => {
                let (mut body, body_reader) = wit_stream::new();
                let (never, trailers) = wit_future::new(|| Ok(None));
                std::mem::forget(never);
                wit_bindgen::spawn_local(async move {
                    let _ = body.write_all(b"all but the end".to_vec()).await;
                });
                Response::new(Fields::new(), Some(body_reader), trailers).0
            }
            _ => text(format!("Hello, {running} at once\n")),
        };
        RUNNING.fetch_sub(1, Ordering::Relaxed);
        Ok(response)
    }
}

fn unfinished() -> Response {
    let (mut body, body_reader) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    wit_bindgen::spawn_local(async move {
        let _ = body.write_all(b"the first half".to_vec()).await;
        std::mem::forget(body);
    });
    Response::new(Fields::new(), Some(body_reader), trailers).0
}

fn text(text: String) -> Response {
    let (mut body, body_reader) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    wit_bindgen::spawn_local(async move {
        // A client that is gone needs no answer.
        let _ = body.write_all(text.into_bytes()).await;
    });
    Response::new(Fields::new(), Some(body_reader), trailers).0
}

wasip3::http::service::export!(Hello);
