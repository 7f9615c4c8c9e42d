//! Makes the host allocate through WASI 0.3: `/hold?CASE` keeps what it gets, `/call?CASE` lets it go; any other path
//! is answered well.

use std::any::Any;

use wasip3::cli::stdout;
use wasip3::clocks::monotonic_clock::{now, wait_for};
use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response, Scheme};
use wasip3::random::random::get_random_bytes;
use wasip3::{wit_bindgen, wit_future, wit_stream};

const SECOND: u64 = 1_000_000_000;

struct Hostile;

struct NoCase;

impl wasip3::exports::http::handler::Guest for Hostile {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let (path, case) = path.split_once('?').unwrap_or((&path, ""));
        let end = now() + SECOND;
        let mut held = Vec::new();
        let mut calls = 0;
        while matches!(path, "/hold" | "/call") && calls < 100_000 && now() < end {
            calls += 1;
            let Some(made) = make(case).await else {
                continue;
            };
            if made.is::<NoCase>() {
                return Ok(text(format!("no case {case}")));
            }
            if path == "/hold" {
                held.push(made);
            }
        }
        let said = if calls == 0 {
            "ok".to_owned()
        } else {
            format!("called {calls}, held {}", held.len())
        };
        Ok(text(said))
    }
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

fn held<T: 'static>(made: T) -> Option<Box<dyn Any>> {
    Some(Box::new(made))
}

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn full_fields() -> Fields {
    let headers: Vec<_> = (0..15)
        .map(|n| (format!("x-{n}"), vec![b'y'; 4000]))
        .collect();
    Fields::from_list(&headers).expect("they fit")
}

fn request(fields: Fields) -> Request {
    let (_, trailers) = wit_future::new(|| Ok(None));
    Request::new(fields, None, trailers, None).0
}

/// Asks the server that answers much and without end.
async fn flood(path: &str) -> Option<Response> {
    let request = request(Fields::new());
    let _ = request.set_scheme(Some(&Scheme::Http));
    let authority = std::env::var("FLOOD").expect("the test gives it");
    let _ = request.set_authority(Some(&authority));
    let _ = request.set_path_with_query(Some(path));
    client::send(request).await.ok()
}

async fn open() -> Descriptor {
    let root = get_directories().pop().expect("the test gives files").0;
    let (name, read) = ("large.bin".to_owned(), DescriptorFlags::READ);
    let opened = root.open_at(PathFlags::empty(), name, OpenFlags::empty(), read);
    opened.await.expect("the test gives it")
}

/// Each function of WASI 0.3 that makes the host allocate.
async fn make(case: &str) -> Option<Box<dyn Any>> {
    match case {
        "p3-stream" => held(wit_stream::new::<u8>()),
        "p3-future" => held(wit_future::new::<Result<(), ErrorCode>>(|| Ok(()))),
        "p3-task" => {
            wit_bindgen::spawn_local(wait_for(3600 * SECOND));
            None
        }
        "p3-fields" => held(full_fields()),
        "p3-fields-clone" => {
            let clone = full_fields().clone();
            let _ = clone.append("more", b"so that it is a copy");
            held(clone)
        }
        "p3-request" => held(request(full_fields())),
        "p3-request-method" => {
            let request = request(Fields::new());
            let _ = request.set_method(&Method::Other(long(1 << 20)));
            held(request)
        }
        "p3-request-authority" => {
            let request = request(Fields::new());
            let _ = request.set_authority(Some(&long(1 << 20)));
            held(request)
        }
        "p3-request-path" => {
            let request = request(Fields::new());
            let _ = request.set_path_with_query(Some(&format!("/{}", long(65_000))));
            held(request)
        }
        "p3-response" => {
            let (_, trailers) = wit_future::new(|| Ok(None));
            held(Response::new(full_fields(), None, trailers).0)
        }
        "p3-response-body" => {
            let (body, reader) = wit_stream::new();
            let (_, trailers) = wit_future::new(|| Ok(None));
            held((body, Response::new(Fields::new(), Some(reader), trailers)))
        }
        "p3-send" => {
            let request = request(Fields::new());
            let _ = request.set_scheme(Some(&Scheme::Http));
            let authority = std::env::var("AUTHORITY").expect("the test gives it");
            let _ = request.set_authority(Some(&authority));
            let _ = request.set_path_with_query(Some("/healthz"));
            held(client::send(request).await.ok()?)
        }
        "p3-unread-response" => held(flood("/body").await?),
        "p3-unread-headers" => {
            let response = flood("/headers").await?;
            held((response.get_headers().copy_all().len(), response))
        }
        "p3-unread-body" => {
            let response = flood("/body").await?;
            let (_, result) = wit_future::new(|| Ok(()));
            let (mut body, trailers) = Response::consume_body(response, result);
            let (_, begin) = body.read(Vec::with_capacity(1)).await;
            assert!(!begin.is_empty(), "the test's server sends something");
            held((body, trailers))
        }
        "p3-open" => held(open().await),
        "p3-read-via-stream" => held(open().await.read_via_stream(0)),
        "p3-read-directory" => held(get_directories().pop()?.0.read_directory()),
        "p3-stdout" => {
            let (mut write, read) = wit_stream::new();
            let done = stdout::write_via_stream(read);
            write.write_all(vec![b'x'; 1 << 20]).await;
            held((write, done))
        }
        "p3-random" => held(get_random_bytes(60 << 20).len()),
        _ => held(NoCase),
    }
}

wasip3::http::service::export!(Hostile);
