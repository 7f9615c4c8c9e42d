//! Samovar: a serverless platform for machine-learning models, each a WebAssembly component in a sandbox.

// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bundle;
pub mod client_config;
pub mod domain;
pub mod ids;
pub mod manifest;
pub mod registry;
pub mod state;
