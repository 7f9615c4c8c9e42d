//! What a node does with what is stored: which deployments it serves and who may ask for what.

pub mod access;
pub mod analysis;
pub mod applier;
mod async_attempt;
mod async_notices;
pub mod async_queue;
pub mod async_worker;
pub mod autoscaler;
pub mod builder;
pub mod builds;
pub mod error_guard;
pub mod feed;
pub mod garbage;
mod gone;
mod latency;
pub mod promoter;
pub mod pulse;
pub mod reloader;
pub mod rollout;
pub mod scaler;
pub mod secrets;
pub mod serving;
pub mod shadow;
pub mod subscriber;
pub mod traffic;
pub mod trial;
pub mod webhook;
