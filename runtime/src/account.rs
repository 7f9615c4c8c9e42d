//! The memory account of a replica: its linear memories, its tables, and what the host holds for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory used by a replica, and its limit. Shared by everything that holds memory for the replica.
#[derive(Debug)]
pub struct Account {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

/// The replica would exceed its memory limit.
#[derive(Debug, thiserror::Error)]
#[error(
    "its memory and what the host holds for it (tensors, graphs from bytes, errors) would take {wanted_bytes} bytes, its limit is {limit_bytes}; drop tensors that are not needed, or raise `limits.memory` in samovar.toml"
)]
pub struct OverLimit {
    /// Bytes that it would have used.
    pub wanted_bytes: u64,
    /// The limit in bytes.
    pub limit_bytes: u64,
}

impl Account {
    /// Creates an empty account with a limit.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            used_bytes: AtomicU64::new(0),
        })
    }

    /// Charges bytes, if they fit.
    ///
    /// # Errors
    /// The bytes that would have been used, and the limit.
    pub fn charge(&self, bytes: u64) -> Result<(), OverLimit> {
        let limit_bytes = self.limit_bytes;
        let charged = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit_bytes);
        // The count alone is shared, nothing that it would have to be ordered with.
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, charged)
            .map(drop)
            .map_err(|used| OverLimit {
                wanted_bytes: used.saturating_add(bytes),
                limit_bytes,
            })
    }

    /// Refunds charged bytes.
    pub fn refund(&self, bytes: u64) {
        let before = self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{bytes} bytes given back of {before}");
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_above_the_limit_and_exact(steps in prop::collection::vec((any::<bool>(), 0u64..5000), 0..100)) {
            let account = Account::new(10_000);
            let mut held = Vec::new();
            for (more, bytes) in steps {
                let before: u64 = held.iter().sum();
                if !more {
                    account.refund(held.pop().unwrap_or(0));
                } else if account.charge(bytes).is_ok() {
                    held.push(bytes);
                } else {
                    prop_assert!(before + bytes > 10_000);
                }
                let used: u64 = held.iter().sum();
                prop_assert_eq!(account.used_bytes(), used);
                prop_assert!(used <= 10_000);
            }
        }
    }

    #[test]
    fn a_sum_that_overflows_is_refused() {
        let account = Account::new(u64::MAX);
        account.charge(u64::MAX).unwrap();
        assert!(account.charge(1).is_err());
    }
}
