//! One module for each promise to users, against the real binary.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod access;
mod analysis;
mod async_inference;
mod audit;
mod backends;
mod batches;
mod book;
mod bundles;
mod chat;
mod cli;
mod conformance;
mod decode;
mod development;
mod devices;
mod embeddings;
mod environments;
mod events;
mod external_data;
mod hostile;
mod inference;
mod init;
mod keys;
mod kills;
mod lifecycle;
mod magika;
mod ocr;
mod open_inference;
mod open_inference_tensors;
mod openapi;
mod optimized;
mod promotion;
mod push;
mod refusals;
mod scaling;
mod sdk;
mod secrets;
mod snapshots;
mod standard;
mod statuses;
mod sticky;
mod streaming;
mod usage;
mod vad;
mod watch;
