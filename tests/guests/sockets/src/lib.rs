//! Opens a socket, and so imports `wasi:sockets`.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use wasip2::sockets::network::IpAddressFamily;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

struct Sockets;

impl wasip2::exports::http::incoming_handler::Guest for Sockets {
    fn handle(_request: IncomingRequest, _out: ResponseOutparam) {
        // Not by `std::net`: a standard library built from source may have no sockets.
        println!("{:?}", create_tcp_socket(IpAddressFamily::Ipv4));
    }
}

wasip2::http::proxy::export!(Sockets);
