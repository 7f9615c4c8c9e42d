//! The interfaces of WASI 0.2, asked for as much as they give.

use std::any::Any;

use wasip2::cli::{environment, stderr, stdin, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    OutgoingResponse, RequestOptions, Scheme,
};
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::OutputStream;
use wasip2::random::{insecure, random};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::IpAddressFamily;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp_create_socket::create_udp_socket;

use crate::allocate::Call;

mod logging {
    wit_bindgen::generate!({ path: "../../../runtime/wit/logging", world: "imports" });
}
use logging::wasi::logging::logging::{Level, log};

/// Each function of WASI 0.2 that makes the host allocate.
pub const CALLS: &[(&str, Call)] = &[
    ("http-fields", || held(Fields::new())),
    ("http-fields-from-list", || {
        held(Fields::from_list(&headers()).ok()?)
    }),
    ("http-fields-append", fields_append),
    ("http-fields-set", fields_set),
    ("http-fields-clone", fields_clone),
    ("http-fields-entries", || {
        held(full_fields().entries().len())
    }),
    ("http-fields-get", || held(full_fields().get("x").len())),
    ("http-fields-long-name", || {
        held(Fields::new().has(&long(1 << 20)))
    }),
    ("http-request", || held(request())),
    ("http-request-full-headers", || {
        held(OutgoingRequest::new(full_fields()))
    }),
    ("http-request-method", request_method),
    ("http-request-authority", request_authority),
    ("http-request-path", request_path),
    ("http-request-scheme", request_scheme),
    ("http-request-body", request_body),
    ("http-request-headers", || held(request().headers())),
    ("http-request-options", || held(RequestOptions::new())),
    ("http-response", || {
        held(OutgoingResponse::new(full_fields()))
    }),
    ("http-response-body", response_body),
    ("http-response-body-alone", response_body_alone),
    ("http-response-trailers", response_trailers),
    ("http-handle", handle),
    ("http-handle-denied", handle_denied),
    ("http-unread-response", || held(flood("/body")?)),
    ("http-unread-headers", || {
        let response = flood_response("/headers")?;
        held((response.headers().entries().len(), response))
    }),
    ("http-unread-body", unread_body),
    ("io-poll", poll_many),
    ("io-pollable", || {
        held(monotonic_clock::subscribe_duration(3600 * 1_000_000_000))
    }),
    ("io-pollable-of-a-stream", pollable_of_a_stream),
    ("io-write-zeroes", write_zeroes),
    ("io-splice", splice),
    ("cli-environment", || {
        held(environment::get_environment().len())
    }),
    ("cli-arguments", || held(environment::get_arguments().len())),
    ("cli-stdin", || held(stdin::get_stdin())),
    ("cli-stdout", stdout_line),
    ("cli-stderr", stderr_lines),
    ("filesystem-preopens", || held(get_directories())),
    ("filesystem-open", || held(open())),
    ("filesystem-long-path", long_path),
    ("filesystem-read", || {
        held(open().read(1 << 40, 0).ok()?.0.len())
    }),
    ("filesystem-read-via-stream", read_via_stream),
    ("filesystem-read-directory", || {
        held(root().read_directory().ok()?)
    }),
    ("random-bytes", || {
        held(random::get_random_bytes(1 << 20).len())
    }),
    ("random-many-bytes", || {
        held(random::get_random_bytes(60 << 20).len())
    }),
    ("random-insecure-bytes", || {
        held(insecure::get_insecure_random_bytes(60 << 20).len())
    }),
    ("sockets-tcp", || {
        held(create_tcp_socket(IpAddressFamily::Ipv4).ok()?)
    }),
    ("sockets-udp", || {
        held(create_udp_socket(IpAddressFamily::Ipv4).ok()?)
    }),
    ("sockets-network", || held(instance_network())),
    ("sockets-resolve", resolve),
    ("logging-log", log_line),
    ("logging-context", log_context),
];

fn held<T: 'static>(made: T) -> Option<Box<dyn Any>> {
    Some(Box::new(made))
}

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// As many headers as fit into one set.
fn headers() -> Vec<(String, Vec<u8>)> {
    (0..15)
        .map(|n| (format!("x-{n}"), vec![b'y'; 4000]))
        .collect()
}

fn full_fields() -> Fields {
    Fields::from_list(&headers()).expect("they fit")
}

fn fields_append() -> Option<Box<dyn Any>> {
    let fields = Fields::new();
    // One more than fits traps.
    for _ in 0..15 {
        fields.append("x", &[b'y'; 4000]).ok()?;
    }
    held(fields)
}

fn fields_set() -> Option<Box<dyn Any>> {
    let fields = Fields::new();
    fields.set("x", &vec![vec![b'y'; 1000]; 50]).ok()?;
    held(fields)
}

fn fields_clone() -> Option<Box<dyn Any>> {
    let clone = full_fields().clone();
    clone.append("more", b"so that it is a copy").ok()?;
    held(clone)
}

fn request() -> OutgoingRequest {
    OutgoingRequest::new(Fields::new())
}

fn request_method() -> Option<Box<dyn Any>> {
    let request = request();
    let _ = request.set_method(&Method::Other(long(1 << 20)));
    held(request)
}

fn request_authority() -> Option<Box<dyn Any>> {
    let request = request();
    let _ = request.set_authority(Some(&long(1 << 20)));
    held(request)
}

fn request_path() -> Option<Box<dyn Any>> {
    let request = request();
    let _ = request.set_path_with_query(Some(&long(1 << 20)));
    let _ = request.set_path_with_query(Some(&format!("/{}", long(65_000))));
    held(request)
}

fn request_scheme() -> Option<Box<dyn Any>> {
    let request = request();
    let _ = request.set_scheme(Some(&Scheme::Other(long(1 << 20))));
    held(request)
}

/// Writes as much as is taken without a wait.
fn fill(body: &OutgoingBody) -> Option<OutputStream> {
    let stream = body.write().ok()?;
    let chunk = vec![1; 1 << 20];
    loop {
        match stream.check_write() {
            Ok(0) | Err(_) => return Some(stream),
            Ok(room) => stream
                .write(&chunk[..chunk.len().min(room as usize)])
                .ok()?,
        }
    }
}

fn request_body() -> Option<Box<dyn Any>> {
    let request = request();
    let body = request.body().ok()?;
    let stream = fill(&body)?;
    held((stream, body, request))
}

fn response_body() -> Option<Box<dyn Any>> {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().ok()?;
    let stream = fill(&body)?;
    held((stream, body, response))
}

/// The response alone keeps what its body was given.
fn response_body_alone() -> Option<Box<dyn Any>> {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().ok()?;
    drop(fill(&body)?);
    drop(body);
    held(response)
}

fn response_trailers() -> Option<Box<dyn Any>> {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().ok()?;
    OutgoingBody::finish(body, Some(full_fields())).ok()?;
    held(response)
}

fn send(authority: &str, path: &str) -> Option<FutureIncomingResponse> {
    let request = request();
    request.set_scheme(Some(&Scheme::Http)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(path)).ok()?;
    let answer = outgoing_handler::handle(request, None).ok()?;
    answer.subscribe().block();
    Some(answer)
}

fn sent(authority: &str) -> Option<Box<dyn Any>> {
    held(send(authority, "/healthz")?)
}

/// Asks the server that answers much and without end.
fn flood(path: &str) -> Option<FutureIncomingResponse> {
    send(&std::env::var("FLOOD").expect("the test gives it"), path)
}

fn flood_response(path: &str) -> Option<IncomingResponse> {
    flood(path)?.get()?.ok()?.ok()
}

/// A body of which the beginning was read.
fn unread_body() -> Option<Box<dyn Any>> {
    let response = flood_response("/body")?;
    let body = response.consume().ok()?;
    let stream = body.stream().ok()?;
    let begin = stream.blocking_read(1).ok()?;
    assert!(!begin.is_empty(), "the test's server sends something");
    held((stream, body, response))
}

fn handle() -> Option<Box<dyn Any>> {
    sent(&std::env::var("AUTHORITY").expect("the test gives it"))
}

fn handle_denied() -> Option<Box<dyn Any>> {
    sent("elsewhere.example")
}

fn pollable_of_a_stream() -> Option<Box<dyn Any>> {
    let stream = stdin::get_stdin();
    // Dropped before its stream.
    held((stream.subscribe(), stream))
}

fn poll_many() -> Option<Box<dyn Any>> {
    let pollable = monotonic_clock::subscribe_duration(0);
    let many: Vec<&Pollable> = vec![&pollable; 1 << 18];
    held(poll(&many).len())
}

fn write_zeroes() -> Option<Box<dyn Any>> {
    let stream = stdout::get_stdout();
    let room = stream.check_write().ok()?;
    held(stream.write_zeroes(room).ok()?)
}

fn splice() -> Option<Box<dyn Any>> {
    let from = open().read_via_stream(0).ok()?;
    held(stdout::get_stdout().blocking_splice(&from, 1 << 40).ok()?)
}

/// A line without an end.
fn stdout_line() -> Option<Box<dyn Any>> {
    let stream = stdout::get_stdout();
    stream.check_write().ok()?;
    stream.write(&[b'x'; 60_000]).ok()?;
    held(stream)
}

/// Many short lines.
fn stderr_lines() -> Option<Box<dyn Any>> {
    let stream = stderr::get_stderr();
    stream.check_write().ok()?;
    stream.write(&b"x\n".repeat(2000)).ok()?;
    held(stream)
}

fn root() -> Descriptor {
    let mut folders = get_directories();
    folders.pop().expect("the test gives files").0
}

fn open() -> Descriptor {
    let read = DescriptorFlags::READ;
    let opened = root().open_at(PathFlags::empty(), "large.bin", OpenFlags::empty(), read);
    opened.expect("the test gives it")
}

fn long_path() -> Option<Box<dyn Any>> {
    let path = long(1 << 20);
    let read = DescriptorFlags::READ;
    let opened = root().open_at(PathFlags::empty(), &path, OpenFlags::empty(), read);
    held(opened.err()?)
}

/// A stream that has read ahead.
fn read_via_stream() -> Option<Box<dyn Any>> {
    let stream = open().read_via_stream(0).ok()?;
    // Begins to read as much as it may, which stays with it once it is there.
    let _ = stream.read(1 << 40);
    stream.subscribe().block();
    held(stream)
}

fn resolve() -> Option<Box<dyn Any>> {
    held(resolve_addresses(&instance_network(), &long(1 << 20)).ok())
}

fn log_line() -> Option<Box<dyn Any>> {
    log(Level::Info, "", &long(8 << 20));
    held(())
}

fn log_context() -> Option<Box<dyn Any>> {
    log(Level::Info, &long(8 << 20), &long(8 << 20));
    held(())
}
