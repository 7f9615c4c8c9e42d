//! One module for each promise to users, against the real binary.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod access;
mod async_inference;
mod cli;
mod hostile;
mod inference;
mod lifecycle;
mod magika;
mod push;
mod sdk;
mod streaming;
