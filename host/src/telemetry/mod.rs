//! What a node keeps about its own running: the logs of deployments.

pub mod logs;
