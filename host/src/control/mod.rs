//! What a node does with what is stored: which deployments it serves and who may ask for what.

pub mod access;
pub mod builder;
pub mod promoter;
pub mod rollout;
pub mod secrets;
pub mod serving;
pub mod traffic;
