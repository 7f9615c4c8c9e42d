//! The limits of keys, values, commits and leases, which are the same for every store.

use std::time::Duration;

use crate::StoreError;
use crate::documents::{LEASES, Op, lease_key};

/// Longest key.
pub const MAX_KEY_BYTES: usize = 512;
/// Largest value.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// The most operations of one commit: enough to delete a model with all its deployments.
pub const MAX_OPS: usize = 16_384;
/// The most bytes of all values of one commit.
pub const MAX_COMMIT_BYTES: usize = 8 << 20;
/// The most documents of one range.
pub const MAX_RANGE: usize = 1000;
/// Longest duration of a lease.
pub const MAX_LEASE: Duration = Duration::from_secs(3600);

/// Refuses a key beyond the limits. Keys are ASCII so that all stores order them alike.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    check_prefix(key)?;
    if key.is_empty() {
        return Err(StoreError::Invalid("an empty key".into()));
    }
    Ok(())
}

/// Refuses a prefix that no key can have.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > MAX_KEY_BYTES || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        let shown: String = prefix.chars().take(80).collect();
        return Err(StoreError::Invalid(format!(
            "key {shown:?}: wanted at most {MAX_KEY_BYTES} printable ASCII characters"
        )));
    }
    Ok(())
}

/// Refuses a commit beyond the limits.
pub fn check_ops(ops: &[Op]) -> Result<(), StoreError> {
    if ops.is_empty() || ops.len() > MAX_OPS {
        return Err(StoreError::Invalid(format!(
            "a commit of {} operations, wanted 1 to {MAX_OPS}",
            ops.len()
        )));
    }
    let mut keys = std::collections::HashSet::with_capacity(ops.len());
    let mut total = 0;
    for op in ops {
        let key = op.key();
        check_key(key)?;
        if !keys.insert(key) {
            return Err(StoreError::Invalid(format!(
                "key {key:?} twice in one commit"
            )));
        }
        if key.starts_with(LEASES) && !matches!(op, Op::Check { .. }) {
            return Err(StoreError::Invalid(format!("key {key:?} is a lease's")));
        }
        if let Op::Put { value, .. } = op {
            total += value.len();
            if value.len() > MAX_VALUE_BYTES {
                return Err(StoreError::Invalid(format!(
                    "the value of {key:?} has {} bytes, wanted at most {MAX_VALUE_BYTES}",
                    value.len()
                )));
            }
        }
    }
    if total > MAX_COMMIT_BYTES {
        return Err(StoreError::Invalid(format!(
            "a commit of {total} bytes, wanted at most {MAX_COMMIT_BYTES}"
        )));
    }
    Ok(())
}

/// Refuses the name or the duration of a lease.
pub fn check_lease(name: &str, ttl: Duration) -> Result<(), StoreError> {
    check_key(&lease_key(name))?;
    if name.is_empty() || ttl.is_zero() || ttl > MAX_LEASE {
        return Err(StoreError::Invalid(format!(
            "lease {name:?} for {ttl:?}: wanted a name, and more than nothing up to {MAX_LEASE:?}"
        )));
    }
    Ok(())
}
