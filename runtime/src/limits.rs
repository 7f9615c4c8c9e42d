//! Every bound of a replica in one struct, and the limiter that holds a whole store to them.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Core instances that one component may consist of.
pub const MAX_CORE_INSTANCES: u32 = 64;
/// Linear memories of one component.
pub const MAX_MEMORIES: u32 = 8;
/// Tables of one component.
pub const MAX_TABLES: u32 = 32;
/// Elements of one table.
pub const MAX_TABLE_ELEMENTS: usize = 100_000;
/// Resource handles (streams, headers, tensors, …) that one replica may hold at once.
pub const MAX_HANDLES: usize = 10_000;
/// Bytes of all names and values of one set of headers that a guest makes.
pub const MAX_HEADER_BYTES: usize = 128 << 10;
/// Bytes that one host call may take out of a guest beyond its memory limit.
pub const HOSTCALL_SLACK_BYTES: u64 = 1 << 20;

/// The bounds of one deployment's replicas, from its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sum of all linear memories of a replica, in bytes; tensors held on the host for it are bounded by the same number.
    pub memory_bytes: u64,
    /// Longest time from the first byte of a request to the last of its answer.
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

/// Sums the memories of a store, because wasmtime's own limiter bounds each memory by itself.
#[derive(Debug)]
pub struct StoreLimiter {
    memory_limit_bytes: u64,
    memory_bytes: u64,
    denied_bytes: Option<u64>,
}

impl StoreLimiter {
    /// A limiter that lets a store's memories grow to `memory_limit_bytes` together.
    pub fn new(memory_limit_bytes: u64) -> Self {
        Self {
            memory_limit_bytes,
            memory_bytes: 0,
            denied_bytes: None,
        }
    }

    /// Bytes of linear memory the store holds now.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// What the guest asked for when it was last refused, since the last call.
    pub fn take_denied(&mut self) -> Option<u64> {
        self.denied_bytes.take()
    }
}

impl ResourceLimiter for StoreLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let others = self.memory_bytes.saturating_sub(current as u64);
        let wanted = others.saturating_add(desired as u64);
        if wanted > self.memory_limit_bytes {
            self.denied_bytes = Some(wanted);
            return Ok(false);
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
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
        let mut limiter = StoreLimiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert_eq!(limiter.take_denied(), Some(120));
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert_eq!(limiter.memory_bytes(), 100);
    }

    proptest! {
        #[test]
        fn never_above_the_limit(steps in prop::collection::vec((0usize..4, 0usize..5000), 0..100)) {
            let mut limiter = StoreLimiter::new(10_000);
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
