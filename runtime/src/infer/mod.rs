//! Inference for guests: backends, the graphs they have loaded, the threads that run them, and the wasi-nn host.

pub mod backend;
pub(crate) mod batch;
pub(crate) mod compute;
pub mod engines;
pub mod graphs;
pub(crate) mod interest;
pub(crate) mod loader;
pub mod loading;
pub mod nn;
pub(crate) mod residency;
pub(crate) mod run;
pub(crate) mod stop;
pub(crate) mod tally;
mod unloading;
pub(crate) mod usage;
