//! Instants and choices that differ from run to run, and can be had again by the seed that a failing test prints.

use std::time::Duration;

/// A small generator, seeded by `SAMOVAR_TEST_SEED` or by chance.
pub struct Dice(u64);

impl Dice {
    /// Says its seed, which is shown when the test fails.
    pub fn new() -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let given = std::env::var("SAMOVAR_TEST_SEED").ok();
        let given = given.and_then(|text| text.parse().ok());
        let seed: u64 = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        eprintln!("SAMOVAR_TEST_SEED={seed}");
        Self::of(seed)
    }

    /// Those of this seed.
    pub fn of(seed: u64) -> Self {
        // Never zero, from which there is no way out.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound.max(1)
    }

    /// A time of less than so many milliseconds.
    pub fn within_ms(&mut self, bound_ms: u64) -> Duration {
        Duration::from_micros(self.below(bound_ms * 1000))
    }

    pub fn choose<'c, T>(&mut self, of: &'c [T]) -> &'c T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        &of[index]
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}
