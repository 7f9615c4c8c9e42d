//! Does what no model should, chosen by the path; any other path is answered well.

mod allocate;
mod nn;
mod wasi;

use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};

struct Hostile;

impl wasip2::exports::http::incoming_handler::Guest for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let text = match path {
            "/loop" => loop {
                std::hint::black_box(0);
            },
            "/budget" => {
                // Each wait is over at once, and takes of what the executor lets a task do before others have their turn.
                let passed = wasip2::clocks::monotonic_clock::subscribe_duration(1);
                loop {
                    passed.block();
                }
            }
            "/memory" => memory(),
            "/hold" => allocate::hold(query),
            "/call" => allocate::call(query),
            "/stack" => recurse(0).to_string(),
            "/trap" => std::arch::wasm32::unreachable(),
            "/exit" => std::process::exit(1),
            "/noanswer" => return,
            "/late" => {
                answer(out, |stream| {
                    let _ = stream.blocking_write_and_flush(b"the first half");
                    std::arch::wasm32::unreachable()
                });
                return;
            }
            "/slow" => {
                // Writes until nobody reads any more, a little at a time.
                answer(out, |stream| {
                    while stream.blocking_write_and_flush(b".").is_ok() {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                });
                return;
            }
            "/unfinished" => return unfinished(out, query),
            "/sleep" => {
                let ms = query.parse().unwrap_or(0);
                std::thread::sleep(std::time::Duration::from_millis(ms));
                "slept".into()
            }
            "/predict" => {
                let ms = std::env::var("SLEEP_MS").map_or(0, |ms| ms.parse().unwrap_or(0));
                std::thread::sleep(std::time::Duration::from_millis(ms));
                "slept".into()
            }
            "/stderr" => {
                eprintln!("{query}");
                "printed".into()
            }
            "/flood" => {
                let line = "x".repeat(1000);
                for _ in 0..query.parse().unwrap_or(0) {
                    eprintln!("{line}");
                }
                "flooded".into()
            }
            "/read" => match std::fs::read_to_string(query) {
                Ok(text) => text,
                Err(error) => format!("error: {error}"),
            },
            "/write" => match std::fs::write(query, "x") {
                Ok(()) => "written".into(),
                Err(error) => format!("error: {error}"),
            },
            "/env" => std::env::var(query).unwrap_or_else(|_| "not set".into()),
            "/fetch" => fetch(query),
            "/body" => {
                // A status with a body and its length, whether it may have one or not.
                let fields = Fields::new();
                fields.set("content-length", &[b"4".to_vec()]).unwrap();
                let response = OutgoingResponse::new(fields);
                response.set_status_code(query.parse().unwrap()).unwrap();
                return finish(response, out, |stream| {
                    let _ = stream.blocking_write_and_flush(b"body");
                });
            }
            "/status" => {
                let response = OutgoingResponse::new(Fields::new());
                response.set_status_code(query.parse().unwrap()).unwrap();
                return finish(response, out, |_| {});
            }
            _ => "ok".into(),
        };
        answer(out, |stream| {
            let _ = stream.blocking_write_and_flush(text.as_bytes());
        });
    }
}

fn answer(out: ResponseOutparam, write: impl FnOnce(&wasip2::io::streams::OutputStream)) {
    finish(OutgoingResponse::new(Fields::new()), out, write);
}

fn finish(
    response: OutgoingResponse,
    out: ResponseOutparam,
    write: impl FnOnce(&wasip2::io::streams::OutputStream),
) {
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().unwrap();
    write(&stream);
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Writes the first half of a body, and leaves or drops what it holds of it.
fn unfinished(out: ResponseOutparam, how: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().unwrap();
    let _ = stream.blocking_write_and_flush(b"the first half");
    match how {
        "dropped" => {
            drop(stream);
            drop(body);
        }
        "body" => {
            drop(stream);
            std::mem::forget(body);
        }
        _ => std::mem::forget((stream, body)),
    }
}

fn memory() -> String {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
        std::hint::black_box(&held);
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let local = std::hint::black_box([depth; 4]);
    recurse(depth + 1) + local[0]
}

fn fetch(authority: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    request.set_method(&Method::Get).unwrap();
    request.set_scheme(Some(&Scheme::Http)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request.set_path_with_query(Some("/healthz")).unwrap();
    let pending = match wasip2::http::outgoing_handler::handle(request, None) {
        Ok(pending) => pending,
        Err(error) => return format!("error: {error:?}"),
    };
    pending.subscribe().block();
    match pending.get() {
        Some(Ok(Ok(response))) => response.status().to_string(),
        other => format!("error: {other:?}"),
    }
}

wasip2::http::proxy::export!(Hostile);
