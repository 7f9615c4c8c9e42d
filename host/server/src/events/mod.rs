//! What happens, told to whoever listens.

pub mod bus;
pub mod status_poller;
pub mod stream;
