//! Controllers: each reads what the catalog says and what this node sees, and acts on the difference. Changes only wake
//! them; what they do follows from the state of then, so a wake that is missed, late or twice does no harm.

pub mod autoscale;
pub mod blob_gc;
pub mod build_admission;
pub mod deployment;
pub mod dev_reload;
pub mod guest_secrets;
pub mod leadership;
pub mod rollout;
