//! Types that Samovar's server, clients and tools share: ids, names, bundles, settings, and the API's requests and responses.
//!
//! The crate has only values and pure functions, and depends on no framework but serde. The feature `openapi` adds schemas for the API's
//! description. What the server stores beyond bundles and usage is defined in the server.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![allow(
    unused_qualifications,
    reason = "in code that the macros of utoipa generate"
)]
// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod api_key;
pub mod async_request;
pub mod bundle;
pub mod deployment;
pub mod digest;
pub mod engine;
pub mod error;
pub mod id;
pub mod names;
pub mod origins;
pub mod promotion;
pub mod promotion_settings;
pub mod secret;
pub mod settings;
pub mod strict;
pub mod usage;
