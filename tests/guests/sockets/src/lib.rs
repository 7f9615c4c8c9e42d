//! Opens a socket and looks up a name, and answers what came of each.

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::IpAddressFamily;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp_create_socket::create_udp_socket;

struct Sockets;

impl wasip2::exports::http::incoming_handler::Guest for Sockets {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        // Not by `std::net`: a standard library built from source may have no sockets.
        let tcp = create_tcp_socket(IpAddressFamily::Ipv4).map(drop);
        let udp = create_udp_socket(IpAddressFamily::Ipv4).map(drop);
        let name = resolve_addresses(&instance_network(), "localhost").and_then(|found| {
            found.subscribe().block();
            found.resolve_next_address().map(drop)
        });
        let text = format!("{tcp:?}\n{udp:?}\n{name:?}\n");
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the first body of a response");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the first stream of a body");
        let _ = stream.blocking_write_and_flush(text.as_bytes());
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Sockets);
