//! What Samovar stores and the rules of it: values and pure functions, no input or output.

pub mod api_key;
pub mod async_retry;
pub mod async_submission;
pub mod audit;
pub mod changes;
pub mod deployment;
pub mod engine_events;
pub mod environment;
pub mod events;
pub mod keys;
pub mod model;
pub mod observed;
pub mod organization;
pub mod promotion;
pub mod secret;
pub mod usage_window;
pub mod webhook_address;
pub mod webhook_secret;
