//! Imports an interface that is no part of the contract.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "foreign" });
}

struct Foreign;

impl wasip2::exports::http::incoming_handler::Guest for Foreign {
    fn handle(_request: IncomingRequest, _out: ResponseOutparam) {
        println!("{}", bindings::wasi::keyvalue::store::open("default"));
    }
}

wasip2::http::proxy::export!(Foreign);
