//! Bindings of wasi-nn's WIT to the host's resource types.

#![allow(missing_docs, reason = "generated from the standard's WIT")]

mod generated {
    wasmtime::component::bindgen!({
        path: "wit/wasi-nn",
        world: "wasi:nn/ml",
        imports: {
            "wasi:nn/graph.load": async | trappable,
            "wasi:nn/graph.load-by-name": async | trappable,
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:nn/tensor.tensor": crate::infer::nn::tensor::GuestTensor,
            "wasi:nn/graph.graph": crate::infer::nn::graph::GuestGraph,
            "wasi:nn/inference.graph-execution-context": crate::infer::nn::inference::Context,
            "wasi:nn/errors.error": crate::infer::nn::error::NnError,
        },
    });
}

pub use generated::wasi::nn::{errors, graph, inference, tensor};
