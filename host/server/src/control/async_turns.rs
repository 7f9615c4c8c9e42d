//! How the places for async requests that run are divided among deployments. Decisions only.

use std::collections::HashMap;

use samovar_store::async_requests::Place;

/// Async requests that run on a node at once, of all deployments together.
pub const MAX_IN_FLIGHT: usize = 64;
/// Of these, so many are for deployments of which none runs: those whose requests take long cannot take the last ones.
pub const RESERVED: usize = 8;

/// A deployment that has requests to begin.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub place: Place,
    /// Its requests that run already.
    pub running: usize,
    /// How many more it could begin with.
    pub room: usize,
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turns {
    last: HashMap<Place, u64>,
    clock: u64,
}

impl Turns {
    /// Divides the places beyond `in_flight`: each goes to the deployment of which fewest run, and of equals to the one that
    /// had its last turn longest ago. Answers how many each candidate gets.
    pub fn divide(&mut self, in_flight: usize, candidates: &[Candidate]) -> Vec<usize> {
        let mut given = vec![0; candidates.len()];
        for free in (1..=MAX_IN_FLIGHT.saturating_sub(in_flight)).rev() {
            let may = |at: &usize| {
                let candidate = candidates[*at];
                let first = candidate.running + given[*at] == 0;
                given[*at] < candidate.room && (first || free > RESERVED)
            };
            let next = (0..candidates.len()).filter(may).min_by_key(|at| {
                let candidate = candidates[*at];
                let last = self.last.get(&candidate.place).copied().unwrap_or(0);
                (candidate.running + given[*at], last)
            });
            let Some(next) = next else {
                break;
            };
            given[next] += 1;
            self.clock += 1;
            self.last.insert(candidates[next].place, self.clock);
        }
        given
    }

    /// Forgets deployments that have nothing to begin and of which nothing runs.
    pub fn forget(&mut self, is_known: impl Fn(&Place) -> bool) {
        self.last.retain(|place, _| is_known(place));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(number: usize) -> Place {
        Place {
            model_id: "model000".parse().unwrap(),
            deployment_id: format!("d{number:07}").parse().unwrap(),
        }
    }

    fn candidates(of: &[(usize, usize)]) -> Vec<Candidate> {
        let numbered = of.iter().enumerate();
        numbered
            .map(|(number, (running, room))| Candidate {
                place: place(number),
                running: *running,
                room: *room,
            })
            .collect()
    }

    fn divide(in_flight: usize, of: &[(usize, usize)]) -> Vec<usize> {
        Turns::default().divide(in_flight, &candidates(of))
    }

    #[test]
    fn places_are_divided_evenly_by_what_runs() {
        assert_eq!(divide(0, &[(0, 10), (0, 10)]), [10, 10]);
        assert_eq!(divide(0, &[(0, 100), (0, 100)]), [28, 28]);
        assert_eq!(divide(0, &[(0, 1), (0, 100)]), [1, 55]);
        assert_eq!(divide(40, &[(40, 100), (0, 100)]), [0, 16]);
        assert_eq!(divide(62, &[(0, 5), (0, 5), (0, 5)]), [1, 1, 0]);
        assert_eq!(divide(0, &[]), [0; 0]);
        assert_eq!(divide(64, &[(0, 3)]), [0]);
    }

    #[test]
    fn slow_requests_of_one_deployment_leave_places_for_others() {
        assert_eq!(divide(0, &[(0, 1000)]), [56]);
        assert_eq!(divide(56, &[(56, 1000)]), [0]);
        assert_eq!(divide(56, &[(56, 1000), (0, 1000)]), [0, 1]);
    }

    #[test]
    fn those_left_out_are_first_the_next_time() {
        let mut turns = Turns::default();
        let all = candidates(&[(0, 1), (0, 1), (0, 1)]);
        let rounds: Vec<Vec<usize>> = (0..3).map(|_| turns.divide(63, &all)).collect();
        assert_eq!(rounds, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]);
    }

    proptest! {
        #[test]
        fn bounds_hold(in_flight in 0usize..80, of in prop::collection::vec((0usize..9, 0usize..50), 0..20)) {
            let given = divide(in_flight, &of);
            let free = MAX_IN_FLIGHT.saturating_sub(in_flight);
            prop_assert!(given.iter().sum::<usize>() <= free);
            prop_assert!(given.iter().zip(&of).all(|(given, (_, room))| given <= room));
            // Nobody is left out beside a free place.
            let left = free - given.iter().sum::<usize>();
            let left_out = given.iter().zip(&of).any(|(given, (running, room))| running + given == 0 && *room > 0);
            prop_assert!(left == 0 || !left_out);
        }
    }
}
