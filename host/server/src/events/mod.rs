//! Events: the bus, the stream of one subscriber, and a poller for what no document says.

pub mod bus;
pub mod status_poller;
pub mod stream;
