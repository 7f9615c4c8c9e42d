//! Which graphs may share an engine. Decisions only: the time is an argument.
//!
//! When an engine ends, the graphs that ran in it or were loading are suspects: from then on each has an engine of its own,
//! so that only the one that brings it about pays for it. One that ends its own engine again and again is not run for a
//! while, twice as long each time. Whoever behaves for long enough is no suspect any more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a graph without another end of its engine is a suspect.
const SUSPICION: Duration = Duration::from_secs(600);
/// After so many ends of its own engine within that time it is not run for a while.
const MAX_ENDS: usize = 3;
/// The first while, and the longest.
const FIRST_QUARANTINE: Duration = Duration::from_secs(60);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(3600);
/// Graphs of which it is remembered.
const REMEMBERED: usize = 10_000;

/// Where a graph may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Beside others.
    Shared,
    /// In an engine of its own.
    Alone,
    /// Nowhere until then.
    Quarantined { until: Instant, ends: usize },
}

/// A quarantine that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quarantine {
    /// How often the graph ended its own engine lately.
    pub ends: usize,
    /// How long it lasts.
    pub time: Duration,
}

/// What is held against which graph.
#[derive(Debug, Default)]
pub(super) struct Blame {
    records: HashMap<String, Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// When an engine that it had for itself ended.
    alone: Vec<Instant>,
    last: Option<Instant>,
    quarantines: u32,
    until: Option<Instant>,
}

/// Whose engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// That of several graphs.
    Shared,
    /// The graph's own.
    Own,
}

impl Blame {
    /// Notes that an engine ended in which this graph ran or was loading; answers the quarantine that begins, if one does.
    pub fn ended(&mut self, graph: &str, whose: Whose, now: Instant) -> Option<Quarantine> {
        if self.records.len() >= REMEMBERED {
            self.records.retain(|_, record| !record.is_over(now));
        }
        let record = self.records.entry(graph.to_owned()).or_default();
        record.last = Some(now);
        if whose == Whose::Shared {
            return None;
        }
        record
            .alone
            .retain(|end| now.saturating_duration_since(*end) < SUSPICION);
        record.alone.push(now);
        let ends = record.alone.len();
        (ends >= MAX_ENDS).then(|| {
            let twice = 2u32.saturating_pow(record.quarantines);
            let time = FIRST_QUARANTINE
                .saturating_mul(twice)
                .min(LONGEST_QUARANTINE);
            record.until = Some(now + time);
            record.quarantines = record.quarantines.saturating_add(1);
            Quarantine { ends, time }
        })
    }

    /// Graphs that are quarantined now.
    pub fn quarantined(&self, now: Instant) -> usize {
        let until = self.records.values().filter_map(|record| record.until);
        until.filter(|until| *until > now).count()
    }

    /// Where a graph may run now.
    pub fn verdict(&self, graph: &str, now: Instant) -> Verdict {
        match self.records.get(graph) {
            Some(record) if !record.is_over(now) => match record.until {
                Some(until) if until > now => Verdict::Quarantined {
                    until,
                    ends: record.alone.len(),
                },
                _ => Verdict::Alone,
            },
            _ => Verdict::Shared,
        }
    }
}

impl Record {
    fn is_over(&self, now: Instant) -> bool {
        let last = self.last.max(self.until);
        last.is_none_or(|last| now.saturating_duration_since(last) >= SUSPICION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_runs_alone_until_it_has_behaved_for_long() {
        let mut blame = Blame::default();
        let now = Instant::now();
        assert_eq!(blame.verdict("a", now), Verdict::Shared);
        blame.ended("a", Whose::Shared, now);
        assert_eq!(blame.verdict("a", now), Verdict::Alone);
        assert_eq!(blame.verdict("b", now), Verdict::Shared);
        let later = now + SUSPICION;
        assert_eq!(blame.verdict("a", later), Verdict::Shared);
    }

    #[test]
    fn one_that_ends_its_own_engine_again_and_again_is_not_run_for_longer_each_time() {
        let mut blame = Blame::default();
        let mut now = Instant::now();
        blame.ended("a", Whose::Shared, now);
        let mut time = FIRST_QUARANTINE;
        for round in 0..8 {
            let until = (0..MAX_ENDS).find_map(|_| {
                let begun = blame.ended("a", Whose::Own, now);
                assert_eq!(blame.quarantined(now), usize::from(begun.is_some()));
                assert!(begun.is_none_or(|one| one.time == time), "{begun:?}");
                match blame.verdict("a", now) {
                    Verdict::Quarantined { until, .. } => Some(until),
                    _ => None,
                }
            });
            assert_eq!(until, Some(now + time), "round {round}");
            now += time;
            assert_eq!(blame.verdict("a", now), Verdict::Alone, "round {round}");
            time = (time * 2).min(LONGEST_QUARANTINE);
        }
    }

    #[test]
    fn what_is_long_over_is_forgotten() {
        let mut blame = Blame::default();
        let now = Instant::now();
        for number in 0..REMEMBERED {
            blame.ended(&number.to_string(), Whose::Own, now);
        }
        blame.ended("a", Whose::Own, now + SUSPICION);
        assert_eq!(blame.records.len(), 1);
    }
}
