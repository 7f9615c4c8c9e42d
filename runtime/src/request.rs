//! One request while it runs: the bodies on both sides of the guest, the state that its parts share, and how it is cancelled.

pub(crate) mod body;
pub(crate) mod cancellation;
pub(crate) mod failure;
pub(crate) mod response_body;
pub(crate) mod state;
