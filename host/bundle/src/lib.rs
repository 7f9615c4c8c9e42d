//! Bundles on the author's side: manifests, the files that they name with their digests, and the built-in component.

#![forbid(unsafe_code)]
// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod collect;
pub mod hash_cache;
pub mod manifest;
pub mod open_inference;
