//! The node of Samovar: a serverless platform for machine-learning models, each a WebAssembly component in a sandbox.

// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod catalog;
pub mod control;
pub mod controllers;
pub mod data_folder;
pub mod domain;
pub mod events;
#[cfg(test)]
mod follow_tests;
pub mod front;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;

pub mod node;
pub mod random;
pub mod registry;
pub mod server;
pub mod serving;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod test_node;
pub mod unread;
pub mod work_queue;
