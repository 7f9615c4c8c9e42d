//! Decides which graphs may share an engine. Decisions only: the time is an argument.
//!
//! When an engine ends, the graphs that were running or loading in it become suspects: each gets its own engine, so that only the
//! culprit is affected. A graph that ends its own engine repeatedly is quarantined, twice as long each time. A suspect that causes no
//! more ends for long enough is cleared.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a graph is a suspect after the last end.
const SUSPICION: Duration = Duration::from_secs(600);
/// Ends of its own engine within that time after which a graph is quarantined.
const MAX_ENDS: usize = 3;
/// First and longest quarantine.
const FIRST_QUARANTINE: Duration = Duration::from_secs(60);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(3600);
/// From this number of records on, expired ones are removed.
const MAX_RECORDS: usize = 10_000;

/// How a graph may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// In an engine with other graphs.
    Shared,
    /// In its own engine.
    Isolated,
    /// Not until this time.
    Quarantined { until: Instant, ends: usize },
}

/// A quarantine that starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quarantine {
    /// Recent ends of the graph's own engine.
    pub ends: usize,
    /// Its duration.
    pub time: Duration,
}

/// Ends of engines by the keys of their suspects.
#[derive(Debug, Default)]
pub(super) struct CrashHistory {
    records: HashMap<String, Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// Ends of its own engines.
    own_ends: Vec<Instant>,
    last: Option<Instant>,
    quarantines: u32,
    until: Option<Instant>,
}

/// The kind of an engine that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineKind {
    /// An engine with several graphs.
    Shared,
    /// The graph's own engine.
    Own,
}

impl CrashHistory {
    /// Records that an engine ended in which this graph was running or loading. Returns the quarantine that starts, if any.
    pub fn record_end(
        &mut self,
        graph: &str,
        kind: EngineKind,
        now: Instant,
    ) -> Option<Quarantine> {
        if self.records.len() >= MAX_RECORDS {
            self.records.retain(|_, record| !record.is_expired(now));
        }
        let record = self.records.entry(graph.to_owned()).or_default();
        record.last = Some(now);
        if kind == EngineKind::Shared {
            return None;
        }
        record
            .own_ends
            .retain(|end| now.saturating_duration_since(*end) < SUSPICION);
        record.own_ends.push(now);
        let ends = record.own_ends.len();
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

    /// Number of graphs in quarantine.
    pub fn count_quarantined(&self, now: Instant) -> usize {
        let until = self.records.values().filter_map(|record| record.until);
        until.filter(|until| *until > now).count()
    }

    /// How a graph may run now.
    pub fn verdict(&self, graph: &str, now: Instant) -> Verdict {
        match self.records.get(graph) {
            Some(record) if !record.is_expired(now) => match record.until {
                Some(until) if until > now => Verdict::Quarantined {
                    until,
                    ends: record.own_ends.len(),
                },
                _ => Verdict::Isolated,
            },
            _ => Verdict::Shared,
        }
    }
}

impl Record {
    fn is_expired(&self, now: Instant) -> bool {
        let last = self.last.max(self.until);
        last.is_none_or(|last| now.saturating_duration_since(last) >= SUSPICION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_is_isolated_until_it_is_cleared() {
        let mut history = CrashHistory::default();
        let now = Instant::now();
        assert_eq!(history.verdict("a", now), Verdict::Shared);
        history.record_end("a", EngineKind::Shared, now);
        assert_eq!(history.verdict("a", now), Verdict::Isolated);
        assert_eq!(history.verdict("b", now), Verdict::Shared);
        let later = now + SUSPICION;
        assert_eq!(history.verdict("a", later), Verdict::Shared);
    }

    #[test]
    fn repeated_ends_of_its_own_engine_lengthen_the_quarantine() {
        let mut history = CrashHistory::default();
        let mut now = Instant::now();
        history.record_end("a", EngineKind::Shared, now);
        let mut time = FIRST_QUARANTINE;
        for round in 0..8 {
            let until = (0..MAX_ENDS).find_map(|_| {
                let begun = history.record_end("a", EngineKind::Own, now);
                assert_eq!(history.count_quarantined(now), usize::from(begun.is_some()));
                assert!(begun.is_none_or(|one| one.time == time), "{begun:?}");
                match history.verdict("a", now) {
                    Verdict::Quarantined { until, .. } => Some(until),
                    _ => None,
                }
            });
            assert_eq!(until, Some(now + time), "round {round}");
            now += time;
            assert_eq!(
                history.verdict("a", now),
                Verdict::Isolated,
                "round {round}"
            );
            time = (time * 2).min(LONGEST_QUARANTINE);
        }
    }

    #[test]
    fn expired_records_are_removed() {
        let mut history = CrashHistory::default();
        let now = Instant::now();
        for number in 0..MAX_RECORDS {
            history.record_end(&number.to_string(), EngineKind::Own, now);
        }
        history.record_end("a", EngineKind::Own, now + SUSPICION);
        assert_eq!(history.records.len(), 1);
    }
}
