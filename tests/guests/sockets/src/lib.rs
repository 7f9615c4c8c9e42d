//! Opens a socket, and so imports `wasi:sockets`.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Sockets;

impl wasip2::exports::http::incoming_handler::Guest for Sockets {
    fn handle(_request: IncomingRequest, _out: ResponseOutparam) {
        let socket = std::net::TcpStream::connect("127.0.0.1:1");
        println!("{socket:?}");
    }
}

wasip2::http::proxy::export!(Sockets);
