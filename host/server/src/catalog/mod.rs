//! The catalog as this node has read it: the informer follows the store, the cache holds what it found.

pub mod cache;
pub mod commits;
pub mod informer;
#[cfg(test)]
mod stored_tests;
