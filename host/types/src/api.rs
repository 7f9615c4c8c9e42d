//! Requests and responses of the management API, one file per noun.

pub mod api_keys;
pub mod async_requests;
pub mod audit;
pub mod bundles;
pub mod deployments;
pub mod development;
pub mod environments;
pub mod events;
pub mod health;
pub mod identity;
pub mod logs;
pub mod models;
pub mod promotions;
mod query;
pub mod replicas;
pub mod reported;
pub mod secrets;
pub mod status;
pub mod usage;
pub mod webhook_secrets;
