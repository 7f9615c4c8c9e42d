//! One request while it runs: its bodies on both sides of the guest, the state that its parts share, and its cancellation.

pub(crate) mod cancellation;
pub(crate) mod failure;
pub(crate) mod guest_body;
pub(crate) mod limited_body;
pub(crate) mod response_body;
pub(crate) mod state;
