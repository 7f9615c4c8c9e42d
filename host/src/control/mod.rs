//! What a node does with what is stored: which deployments it serves and who may ask for what.

pub mod access;
pub mod secrets;
pub mod serving;
