//! Inference for guests: backends, the graphs they have loaded, the threads that run them, and the wasi-nn host.

pub mod backend;
pub(crate) mod compute;
pub mod graphs;
pub mod nn;
