//! The right to one of a pool's places.

use std::sync::Arc;

use super::Pool;
use crate::load::Traffic;
use crate::replica::Replica;

/// The right to one of the pool's places, with a warm replica in it or room to start one.
///
/// Dropped without [`Lease::give_back`], the place is free for another replica.
pub(super) struct Lease {
    pool: Option<Arc<Pool>>,
    pub(super) replica: Option<Box<Replica>>,
    /// The request that has the place; nothing when a replica only starts there.
    pub(super) traffic: Option<Traffic>,
}

impl Lease {
    pub(super) fn new(
        pool: Arc<Pool>,
        replica: Option<Box<Replica>>,
        traffic: Option<Traffic>,
    ) -> Self {
        Self {
            pool: Some(pool),
            replica,
            traffic,
        }
    }

    pub(super) fn give_back(mut self, replica: Box<Replica>) {
        if let Some(pool) = self.pool.take() {
            pool.put_back(replica, self.traffic);
        }
    }

    pub(super) fn disarm(mut self) {
        self.pool = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            match self.replica.take() {
                Some(replica) => pool.put_back(replica, self.traffic),
                None => pool.lost(self.traffic),
            }
        }
    }
}
