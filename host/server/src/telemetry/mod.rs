//! What a node keeps about its own running: the logs of deployments and what they use.

pub mod engine_metrics;
mod log_queue;
pub mod logs;
pub mod meters;
pub mod metrics;
pub mod spool;
pub mod usage;
