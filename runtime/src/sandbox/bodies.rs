//! How much of a body that a guest writes the host buffers: much for the first few, little for all others.
//!
//! A large buffer lets a guest write a short answer as a whole and be done without waiting for its client. It counts until
//! its exchange is over, which may be long after the guest: clients read as slowly as they like.

use std::sync::{Arc, Weak};

use crate::request::state::Exchange;

/// Large buffers of one replica at once.
const MAX_LARGE: usize = 4;
/// Chunks that a large buffer holds, and the bytes of one.
const LARGE: (usize, usize) = (8, 256 << 10);
/// Chunks that any other buffer holds, and the bytes of one.
const SMALL: (usize, usize) = (1, 16 << 10);

/// The buffers of a replica's bodies.
#[derive(Default)]
pub(super) struct Bodies {
    /// Large ones that were given out in this request, and before: their bodies may still be the guest's.
    given_now: usize,
    given: usize,
    /// The exchanges whose answers may have a large one.
    answers: Vec<Weak<Exchange>>,
    chunk_bytes: usize,
}

impl Bodies {
    /// Chunks that the next body's buffer holds.
    pub fn chunks(&mut self) -> usize {
        let is_large = self.large() < MAX_LARGE;
        self.given_now += usize::from(is_large);
        let (chunks, bytes) = if is_large { LARGE } else { SMALL };
        self.chunk_bytes = bytes;
        chunks
    }

    /// Bytes of one chunk of that body.
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// The request of this exchange is over. `are_left` asks whether the guest still has bodies, which takes a while; so it
    /// is asked only when no large buffer is left.
    pub fn finish(&mut self, exchange: &Arc<Exchange>, are_left: impl FnOnce() -> bool) {
        let given = std::mem::take(&mut self.given_now);
        if given > 0 {
            // Whether one of them is the answer's is not known, so both are counted.
            self.given += given;
            self.answers.push(Arc::downgrade(exchange));
        }
        if self.given > 0 && self.large() >= MAX_LARGE && !are_left() {
            self.given = 0;
        }
    }

    /// Large buffers that may be in use.
    fn large(&mut self) -> usize {
        self.answers.retain(|answer| answer.strong_count() > 0);
        self.given_now + self.given + self.answers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bodies: &mut Bodies, made: usize, left: bool) -> (Vec<usize>, Arc<Exchange>) {
        let chunks = (0..made).map(|_| bodies.chunks()).collect();
        let exchange = Arc::<Exchange>::default();
        bodies.finish(&exchange, || left);
        (chunks, exchange)
    }

    const L: usize = LARGE.0;
    const S: usize = SMALL.0;

    #[test]
    fn each_answer_has_a_large_buffer_when_clients_read() {
        let mut bodies = Bodies::default();
        for _ in 0..100 {
            assert_eq!(request(&mut bodies, 1, false).0, [L]);
        }
        assert!(bodies.answers.len() <= MAX_LARGE);
    }

    #[test]
    fn answers_on_their_way_hold_their_buffers() {
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
    fn bodies_that_the_guest_keeps_hold_theirs_until_it_keeps_none() {
        let mut bodies = Bodies::default();
        assert_eq!(request(&mut bodies, 5, true).0, [L, L, L, L, S]);
        assert_eq!(request(&mut bodies, 1, true).0, [S]);
        assert_eq!(request(&mut bodies, 1, false).0, [S]);
        assert_eq!(request(&mut bodies, 1, true).0, [L]);
    }
}
