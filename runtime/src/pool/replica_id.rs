//! Random ids of replicas.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Five characters of `[0-9a-z]`: enough to tell replicas apart in a log; not a secret.
pub fn replica_id() -> String {
    let mut number = RandomState::new().build_hasher().finish();
    (0..5)
        .map(|_| {
            let digit = u32::try_from(number % 36).unwrap_or(0);
            number /= 36;
            char::from_digit(digit, 36).unwrap_or('0')
        })
        .collect()
}
