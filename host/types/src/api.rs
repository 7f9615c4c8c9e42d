//! Requests and responses of the management API, one file for each noun.

pub mod api_keys;
pub mod async_requests;
pub mod audit;
pub mod bundles;
pub mod deployments;
pub mod development;
pub mod environments;
pub mod events;
pub mod identity;
pub mod logs;
pub mod models;
pub mod promotions;
pub mod replicas;
pub mod secrets;
pub mod status;
pub mod usage;
pub mod webhook_secrets;

/// A value of an enum without fields, as the API spells it.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        // Only values without fields are given.
        _ => String::new(),
    }
}
