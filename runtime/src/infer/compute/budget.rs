//! Who may begin: permits for the cores, given out in the order of asking.

use std::collections::VecDeque;

/// Permits, and who waits for some.
pub(super) struct Budget<J> {
    free: usize,
    waiting: VecDeque<(usize, J)>,
}

impl<J> Budget<J> {
    pub fn new(permits: usize) -> Self {
        Self {
            free: permits,
            waiting: VecDeque::new(),
        }
    }

    /// Asks for `permits`, of which there must be so many.
    pub fn ask(&mut self, permits: usize, job: J) {
        self.waiting.push_back((permits, job));
    }

    /// Who may begin now, with the permits that it has got. Nobody passes one who waits for more: those who ask for few
    /// would keep it waiting for ever.
    pub fn next(&mut self) -> Option<(usize, J)> {
        let (permits, _) = self.waiting.front()?;
        self.free = self.free.checked_sub(*permits)?;
        self.waiting.pop_front()
    }

    /// Whether somebody waits for permits.
    pub fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes permits back from one who is done.
    pub fn give_back(&mut self, permits: usize) {
        self.free += permits;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn begun(budget: &mut Budget<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| budget.next())
            .map(|(_, job)| job)
            .collect()
    }

    #[test]
    fn a_wide_run_is_not_passed_by_narrow_ones() {
        let mut budget = Budget::new(2);
        for (permits, job) in [(1, "a"), (2, "wide"), (1, "b"), (1, "c")] {
            budget.ask(permits, job);
        }
        assert_eq!(begun(&mut budget), ["a"]);
        budget.ask(1, "d");
        assert_eq!(begun(&mut budget), [""; 0]);
        budget.give_back(1);
        assert_eq!(begun(&mut budget), ["wide"]);
        budget.give_back(2);
        assert_eq!(begun(&mut budget), ["b", "c"]);
    }

    proptest! {
        #[test]
        fn never_more_than_there_are_and_everyone_gets_a_turn(
            permits in 1usize..9,
            asked in prop::collection::vec(1usize..9, 0..40),
            picks: Vec<prop::sample::Index>,
        ) {
            let mut budget = Budget::new(permits);
            let asked: Vec<usize> = asked.into_iter().map(|n| n.min(permits)).collect();
            for (number, wanted) in asked.iter().enumerate() {
                budget.ask(*wanted, number);
            }
            let (mut running, mut order) = (Vec::new(), Vec::new());
            let mut picks = picks.into_iter();
            loop {
                while let Some((got, number)) = budget.next() {
                    prop_assert_eq!(got, asked[number]);
                    running.push(got);
                    order.push(number);
                    prop_assert!(running.iter().sum::<usize>() <= permits);
                }
                if running.is_empty() {
                    break;
                }
                let pick = picks.next().map_or(0, |pick| pick.index(running.len()));
                budget.give_back(running.swap_remove(pick));
            }
            prop_assert_eq!(order, (0..asked.len()).collect::<Vec<_>>());
        }
    }
}
