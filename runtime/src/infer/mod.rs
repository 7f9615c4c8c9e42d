//! Inference for guests: backends, graphs in memory, the threads that run them, and the host side of wasi-nn.

pub mod backend;
pub(crate) mod batch;
pub(crate) mod compute;
pub mod engines;
pub(crate) mod eviction;
pub mod graph;
pub(crate) mod nn;
pub(crate) mod run_cancel;
