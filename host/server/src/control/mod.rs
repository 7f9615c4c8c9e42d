//! Who may call, how promotions are judged and traffic is split, and what is answered later.

pub mod access;
pub mod analysis;
mod async_attempt;
mod async_notices;
pub mod async_queue;
mod async_turns;
pub mod async_worker;
pub mod autoscaler;
pub mod engine_events;
pub mod error_guard;
mod latency;
pub mod rollout;
pub mod scrub;
pub mod shadow;
pub mod traffic;
pub mod trial;
pub mod webhook;
mod webhook_resolver;
mod webhook_turns;
