//! Which side of a canary a request goes to: decided from counts, not drawn, so that the split is exact.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Who answers a request to an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The deployment that is there.
    Current,
    /// The one that is moving in.
    Candidate,
}

/// The requests of an environment in its present stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Split {
    percent: u32,
    requests: u64,
}

impl Split {
    /// The side of the next request when `percent` of them go to the candidate. After any number of requests at one
    /// percentage, each side has had its share to within one request.
    pub fn next(&mut self, percent: u32) -> Side {
        if percent != self.percent {
            *self = Self {
                percent,
                requests: 0,
            };
        }
        let before = self.requests;
        self.requests = before.wrapping_add(1);
        let due = |requests: u64| u128::from(requests) * u128::from(percent) / 100;
        if due(before + 1) > due(before) {
            Side::Candidate
        } else {
            Side::Current
        }
    }
}

/// The side of a client that is kept on one: the same for the same value at the same percentage, and never back to the
/// current deployment while the percentage grows.
pub fn sticky(value: &[u8], percent: u32) -> Side {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    if hasher.finish() % 100 < u64::from(percent) {
        Side::Candidate
    } else {
        Side::Current
    }
}

/// Whether each side can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The deployment that is there is served and healthy.
    pub current: bool,
    /// So is the candidate.
    pub candidate: bool,
}

impl Ready {
    /// The side that answers a request whose turn it is on `side`: the other one while only that can answer. When neither
    /// can, it stays where it is.
    pub fn choose(self, side: Side) -> Side {
        match (side, self.current, self.candidate) {
            (Side::Current, false, true) => Side::Candidate,
            (Side::Candidate, true, false) => Side::Current,
            _ => side,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_side_that_is_not_ready_gets_nothing_while_the_other_is() {
        use Side::{Candidate, Current};
        let choose = |current, candidate, side| Ready { current, candidate }.choose(side);
        for side in [Current, Candidate] {
            assert_eq!(choose(true, true, side), side);
            assert_eq!(choose(true, false, side), Current);
            assert_eq!(choose(false, true, side), Candidate);
            assert_eq!(choose(false, false, side), side);
        }
    }

    proptest! {
        #[test]
        fn every_prefix_is_split_to_within_one_request(percent in 0u32..=100, requests in 1u64..5000) {
            let mut split = Split::default();
            let mut candidates = 0u64;
            for n in 1..=requests {
                if split.next(percent) == Side::Candidate {
                    candidates += 1;
                }
                let share = n * u64::from(percent);
                prop_assert!((candidates * 100).abs_diff(share) <= 100);
            }
        }

        #[test]
        fn a_client_moves_once(value: Vec<u8>) {
            let sides: Vec<_> = (0..=100).map(|percent| sticky(&value, percent)).collect();
            let moved = sides.iter().position(|side| *side == Side::Candidate).unwrap();
            prop_assert!(sides[moved..].iter().all(|side| *side == Side::Candidate));
        }
    }
}
