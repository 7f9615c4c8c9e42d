//! Storage of a node: documents, the queue of async requests, usage, blobs and sealed secrets.
//!
//! [`DocStore`], [`async_requests::AsyncRequests`] and [`usage::UsageLog`] are the traits that the server uses;
//! [`sqlite::SqliteStore`] implements all three in one file. [`conformance`] holds the tests that every implementation
//! must pass.

#![forbid(unsafe_code)]
// A test that meets an unexpected error has failed; unwrapping shows where.
#![cfg_attr(any(test, feature = "conformance"), allow(clippy::unwrap_used))]

pub mod async_requests;
pub mod blobs;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod documents;
mod error;
mod limits;
pub mod sqlite;
pub mod usage;
pub mod vault;

pub use documents::{
    Change, Changes, Doc, DocStore, Expect, Lease, Listing, Op, Order, Range, Rev, lease_key,
};
pub use error::StoreError;
pub use limits::MAX_RANGE;
