//! How much the host buffers of each body that a guest writes: large buffers for the first few bodies, small ones for the rest.
//!
//! With a large buffer a guest can write a short response completely and finish without waiting for its client. The buffer
//! is in use until the request has ended, which a slow client can delay long past the guest.

use std::sync::{Arc, Weak};

use crate::request::state::RequestState;

/// Large buffers of one replica at once.
const MAX_LARGE: usize = 4;
/// Chunks that a large buffer holds, and the bytes of one.
const LARGE: (usize, usize) = (8, 256 << 10);
/// Chunks that any other buffer holds, and the bytes of one.
const SMALL: (usize, usize) = (1, 16 << 10);

/// The buffers of a replica's bodies.
#[derive(Default)]
pub(super) struct Bodies {
    /// Large buffers given out in this request.
    given_now: usize,
    /// Large buffers given out in earlier requests, whose bodies the guest may still hold.
    given: usize,
    /// The requests whose responses may use a large buffer.
    requests: Vec<Weak<RequestState>>,
    chunk_bytes: usize,
}

impl Bodies {
    /// The number of chunks that the next body's buffer holds.
    pub fn chunks(&mut self) -> usize {
        let is_large = self.large() < MAX_LARGE;
        self.given_now += usize::from(is_large);
        let (chunks, bytes) = if is_large { LARGE } else { SMALL };
        self.chunk_bytes = bytes;
        chunks
    }

    /// The size of one chunk of that body, in bytes.
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Ends a request. `has_bodies` tells whether the guest still holds bodies; it is slow, so it is called only when no large
    /// buffer is left.
    pub fn finish(&mut self, state: &Arc<RequestState>, has_bodies: impl FnOnce() -> bool) {
        let given = std::mem::take(&mut self.given_now);
        if given > 0 {
            // One of them may belong to the response, which is unknown here, so both are counted.
            self.given += given;
            self.requests.push(Arc::downgrade(state));
        }
        if self.given > 0 && self.large() >= MAX_LARGE && !has_bodies() {
            self.given = 0;
        }
    }

    /// The number of large buffers that may be in use.
    fn large(&mut self) -> usize {
        self.requests.retain(|request| request.strong_count() > 0);
        self.given_now + self.given + self.requests.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bodies: &mut Bodies, made: usize, left: bool) -> (Vec<usize>, Arc<RequestState>) {
        let chunks = (0..made).map(|_| bodies.chunks()).collect();
        let state = Arc::<RequestState>::default();
        bodies.finish(&state, || left);
        (chunks, state)
    }

    const L: usize = LARGE.0;
    const S: usize = SMALL.0;

    #[test]
    fn each_response_has_a_large_buffer_while_clients_read() {
        let mut bodies = Bodies::default();
        for _ in 0..100 {
            assert_eq!(request(&mut bodies, 1, false).0, [L]);
        }
        assert!(bodies.requests.len() <= MAX_LARGE);
    }

    #[test]
    fn responses_hold_their_buffers_until_they_are_read() {
        let mut bodies = Bodies::default();
        let mut sent: Vec<_> = (0..MAX_LARGE)
            .map(|_| request(&mut bodies, 1, false))
            .collect();
        assert!(sent.iter().all(|(chunks, _)| *chunks == [L]));
        assert_eq!(request(&mut bodies, 1, false).0, [S]);
        sent.pop();
        assert_eq!(request(&mut bodies, 2, false).0, [L, S]);
        drop(sent);
        assert_eq!(bodies.large(), 0);
    }

    #[test]
    fn bodies_that_the_guest_holds_keep_their_buffers() {
        let mut bodies = Bodies::default();
        assert_eq!(request(&mut bodies, 5, true).0, [L, L, L, L, S]);
        assert_eq!(request(&mut bodies, 1, true).0, [S]);
        assert_eq!(request(&mut bodies, 1, false).0, [S]);
        assert_eq!(request(&mut bodies, 1, true).0, [L]);
    }
}
