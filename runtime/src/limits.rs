//! The limits of a replica, and the limiter that enforces them on its store.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::account::Account;

/// Most core instances of a component.
pub const MAX_CORE_INSTANCES: u32 = 64;
/// Most linear memories of a component.
pub const MAX_MEMORIES: u32 = 8;
/// Most tables of a component.
pub const MAX_TABLES: u32 = 32;
/// Most elements of a table.
pub const MAX_TABLE_ELEMENTS: usize = 100_000;
/// Bytes that an element of a table is charged for.
const TABLE_ELEMENT_BYTES: u64 = 16;
/// Most resource handles (streams, headers, tensors, …) that a replica holds at once.
pub const MAX_HANDLES: usize = 10_000;
/// Most handles of a component's own resources, tasks and waitables, in all its instances together.
pub const MAX_COMPONENT_HANDLES: usize = 100_000;
/// Most tasks, streams and futures of WASI 0.3 that a replica has at once.
pub const MAX_CONCURRENT: usize = 1_000;
/// Most bytes of names and values in a set of headers that a guest creates.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// Most random bytes that one call returns.
pub const MAX_RANDOM_BYTES: u64 = 1 << 20;
/// Bytes that a host call may copy out of a guest beyond what its memory limit leaves.
pub const HOSTCALL_SLACK_BYTES: u64 = 4 << 20;

/// The limits of a deployment's replicas, from its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of a replica in bytes: its linear memories and tables, and what the host holds for it.
    pub memory_bytes: u64,
    /// Longest time from the first byte of a request to the last byte of its response.
    pub timeout: Duration,
    /// Largest request body, in bytes.
    pub body_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            timeout: Duration::from_secs(60),
            body_bytes: 100 << 20,
        }
    }
}

/// Charges the memories and tables of a store to its replica's account. wasmtime's own limiter only limits each of them.
#[derive(Debug)]
pub struct StoreLimiter {
    account: Arc<Account>,
    memory_bytes: u64,
    /// The last charge, which is refunded if the growth then fails.
    last_bytes: u64,
    denied_bytes: Option<u64>,
}

impl StoreLimiter {
    /// Creates a limiter that charges this account.
    pub fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            memory_bytes: 0,
            last_bytes: 0,
            denied_bytes: None,
        }
    }

    /// Bytes of linear memory and tables of the store.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Bytes that the replica would have held when growth was last denied, since the last call.
    pub fn take_denied(&mut self) -> Option<u64> {
        self.denied_bytes.take()
    }

    fn grow(&mut self, bytes: u64) -> bool {
        self.last_bytes = 0;
        match self.account.charge(bytes) {
            Ok(()) => {
                self.last_bytes = bytes;
                self.memory_bytes += bytes;
                true
            }
            Err(over) => {
                self.denied_bytes = Some(over.wanted_bytes);
                false
            }
        }
    }

    fn refund_last(&mut self) {
        let bytes = std::mem::take(&mut self.last_bytes);
        self.account.refund(bytes);
        self.memory_bytes -= bytes;
    }
}

impl ResourceLimiter for StoreLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refund_last();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        Ok(desired <= MAX_TABLE_ELEMENTS && self.grow(more * TABLE_ELEMENT_BYTES))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refund_last();
        Ok(())
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_memories_share_one_limit() {
        let mut limiter = StoreLimiter::new(Account::new(100));
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert_eq!(limiter.take_denied(), Some(120));
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert_eq!(limiter.memory_bytes(), 100);
        assert!(!limiter.table_growing(0, 1, None).unwrap());
    }

    #[test]
    fn memory_that_could_not_be_allocated_is_refunded() {
        let account = Account::new(1000);
        let mut limiter = StoreLimiter::new(account.clone());
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.table_growing(0, 20, None).unwrap());
        let failed = || wasmtime::Error::msg("no memory");
        limiter.table_grow_failed(failed()).unwrap();
        assert_eq!(account.used_bytes(), 600);
        assert!(!limiter.memory_growing(600, 1100, None).unwrap());
        limiter.memory_grow_failed(failed()).unwrap();
        assert_eq!((account.used_bytes(), limiter.memory_bytes()), (600, 600));
    }

    proptest! {
        #[test]
        fn never_above_the_limit(steps in prop::collection::vec((0usize..4, 0usize..5000), 0..100)) {
            let mut limiter = StoreLimiter::new(Account::new(10_000));
            let mut memories = [0usize; 4];
            for (which, more) in steps {
                let desired = memories[which] + more;
                if limiter.memory_growing(memories[which], desired, None).unwrap() {
                    memories[which] = desired;
                }
                let sum = memories.iter().sum::<usize>() as u64;
                prop_assert_eq!(sum, limiter.memory_bytes());
                prop_assert!(sum <= 10_000);
            }
        }
    }
}
