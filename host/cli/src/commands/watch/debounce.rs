//! Debouncing: editors and compilers write a file in several steps, so a burst of changes counts as one.

use std::time::{Duration, Instant};

/// A burst ends after this long without a change.
pub const QUIET: Duration = Duration::from_millis(30);
/// Longest burst.
pub const LONGEST: Duration = Duration::from_millis(500);

/// Changes that were not handled yet.
#[derive(Debug, Default)]
pub struct Burst(Option<Ends>);

#[derive(Debug)]
struct Ends {
    first: Instant,
    last: Instant,
}

impl Burst {
    /// Adds a change.
    pub fn add(&mut self, now: Instant) {
        let first = self.0.as_ref().map_or(now, |ends| ends.first);
        self.0 = Some(Ends { first, last: now });
    }

    /// When to handle the burst, if there is one.
    pub fn due(&self) -> Option<Instant> {
        let Ends { first, last } = self.0.as_ref()?;
        Some((*last + QUIET).min(*first + LONGEST))
    }

    /// Ends the burst, because it is being handled.
    pub fn end(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_nothing_has_come_for_a_while() {
        let mut burst = Burst::default();
        let start = Instant::now();
        assert_eq!(burst.due(), None);
        burst.add(start);
        assert_eq!(burst.due(), Some(start + QUIET));
        burst.add(start + QUIET / 2);
        assert_eq!(burst.due(), Some(start + QUIET / 2 + QUIET));
        burst.end();
        assert_eq!(burst.due(), None);
    }

    #[test]
    fn it_is_over_after_its_longest_time_though_more_comes() {
        let mut burst = Burst::default();
        let start = Instant::now();
        let mut now = start;
        while burst.due().is_none_or(|due| due > now) {
            burst.add(now);
            now += QUIET / 2;
        }
        assert!((LONGEST..LONGEST + QUIET).contains(&(now - start)));
    }
}
