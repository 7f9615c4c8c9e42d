//! Log lines on their way to disk: a queue for each deployment, written in turns, so that one that floods loses its own lines
//! and nobody else's.
//!
//! Decisions only; who writes and who waits is in `logs.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use samovar_types::api::logs::LogEntry;
use tokio::sync::oneshot;

/// Bytes of one deployment's lines that wait.
pub const MAX_PENDING_BYTES: usize = 2 << 20;
/// Bytes of all deployments' lines that wait. Where that is not enough, the deployment with most loses lines.
pub const MAX_PENDING_BYTES_IN_ALL: usize = 64 << 20;
/// Bytes written in a row for one deployment while others wait.
const TURN_BYTES: usize = 64 << 10;
/// What a line takes besides its texts.
const LINE_OVERHEAD: usize = 256;

/// What the writer does next for a deployment.
pub enum Step {
    /// Appends a line.
    Write(LogEntry),
    /// Appends a line that says how many were dropped.
    Note(LogEntry),
    /// Makes what was written before readable, and says so.
    Flush(oneshot::Sender<()>),
    /// Removes the log.
    Delete,
}

/// The queues of all deployments.
#[derive(Default)]
pub struct LogQueue {
    pending: HashMap<Arc<str>, Pending>,
    /// Deployments with something to do, whose turn is next first; each once.
    turns: VecDeque<Arc<str>>,
    bytes: usize,
}

#[derive(Default)]
struct Pending {
    steps: VecDeque<Step>,
    bytes: usize,
    dropped: u64,
    /// Which replica wrote the last line that was dropped.
    dropped_of: String,
}

impl LogQueue {
    /// Takes a line, unless too much waits already: then it is counted, and the count becomes a line of the log.
    pub fn push_line(&mut self, deployment: &Arc<str>, line: LogEntry) {
        let size = line_bytes(&line);
        let own = self.pending.get(deployment).map_or(0, |one| one.bytes);
        if own + size > MAX_PENDING_BYTES || !self.has_room(own, size) {
            return self.enter(deployment).drop_line(line);
        }
        self.bytes += size;
        let pending = self.enter(deployment);
        // Where the gap is.
        if let Some(note) = pending.note() {
            pending.steps.push_back(Step::Note(note));
        }
        pending.bytes += size;
        pending.steps.push_back(Step::Write(line));
    }

    /// Has a deployment's log flushed after what waits now.
    pub fn push_flush(&mut self, deployment: &Arc<str>, done: oneshot::Sender<()>) {
        self.enter(deployment).steps.push_back(Step::Flush(done));
    }

    /// Has a deployment's log deleted; what waits of it is dropped.
    pub fn push_delete(&mut self, deployment: &Arc<str>) {
        let pending = self.enter(deployment);
        let freed = std::mem::take(&mut pending.bytes);
        pending.steps.clear();
        pending.dropped = 0;
        pending.steps.push_back(Step::Delete);
        self.bytes -= freed;
    }

    /// The steps of the deployment whose turn it is.
    pub fn next(&mut self) -> Option<(Arc<str>, Vec<Step>)> {
        let deployment = self.turns.pop_front()?;
        let mut taken = Vec::new();
        let Some(pending) = self.pending.get_mut(&deployment) else {
            return Some((deployment, taken));
        };
        let mut bytes = 0;
        while bytes < TURN_BYTES
            && let Some(step) = pending.steps.pop_front()
        {
            if let Step::Write(line) = &step {
                bytes += line_bytes(line);
            }
            taken.push(step);
        }
        pending.bytes -= bytes;
        self.bytes -= bytes;
        if pending.steps.is_empty() {
            taken.extend(pending.note().map(Step::Note));
            self.pending.remove(&deployment);
        } else {
            self.turns.push_back(deployment.clone());
        }
        Some((deployment, taken))
    }

    fn enter(&mut self, deployment: &Arc<str>) -> &mut Pending {
        if !self.pending.contains_key(deployment) {
            self.turns.push_back(deployment.clone());
        }
        self.pending.entry(deployment.clone()).or_default()
    }

    /// Makes room for a line in what all may hold together, if its deployment holds less than another.
    fn has_room(&mut self, own: usize, size: usize) -> bool {
        while self.bytes + size > MAX_PENDING_BYTES_IN_ALL {
            let Some(most) = self.pending.values_mut().max_by_key(|one| one.bytes) else {
                return false;
            };
            if most.bytes <= own + size {
                return false;
            }
            let last = most
                .steps
                .iter()
                .rposition(|step| matches!(step, Step::Write(_)));
            let Some(Step::Write(line)) = last.and_then(|at| most.steps.remove(at)) else {
                return false;
            };
            most.bytes -= line_bytes(&line);
            self.bytes -= line_bytes(&line);
            most.drop_line(line);
        }
        true
    }
}

impl Pending {
    fn drop_line(&mut self, line: LogEntry) {
        self.dropped += 1;
        self.dropped_of = line.replica;
    }

    /// Tells how many lines were dropped, if any.
    fn note(&mut self) -> Option<LogEntry> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then(|| LogEntry {
            timestamp: Timestamp::now(),
            level: "WARNING".into(),
            message: format!(
                "{dropped} lines were dropped: they came faster than they could be written"
            ),
            replica: std::mem::take(&mut self.dropped_of),
            request_id: None,
        })
    }
}

fn line_bytes(line: &LogEntry) -> usize {
    LINE_OVERHEAD + line.message.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(message: &str) -> LogEntry {
        LogEntry {
            timestamp: Timestamp::UNIX_EPOCH,
            level: "INFO".into(),
            message: message.into(),
            replica: "r".into(),
            request_id: None,
        }
    }

    /// What is written of each deployment, in the order of writing.
    fn written(queue: &mut LogQueue) -> Vec<(Arc<str>, String)> {
        let mut all = Vec::new();
        while let Some((deployment, steps)) = queue.next() {
            for step in steps {
                if let Step::Write(line) | Step::Note(line) = step {
                    all.push((deployment.clone(), line.message));
                }
            }
        }
        assert_eq!((queue.bytes, queue.pending.len()), (0, 0));
        all
    }

    #[test]
    fn a_flood_loses_its_own_lines_and_says_how_many() {
        let (mut queue, flood, other) = (LogQueue::default(), "flood".into(), "other".into());
        let long = "x".repeat(MAX_PENDING_BYTES / 4);
        for _ in 0..10 {
            queue.push_line(&flood, line(&long));
        }
        queue.push_line(&other, line("kept"));
        let written = written(&mut queue);
        let of = |name: &Arc<str>| -> Vec<&str> {
            let of = written.iter().filter(|(deployment, _)| deployment == name);
            of.map(|(_, message)| message.as_str()).collect()
        };
        assert_eq!(of(&other), ["kept"]);
        let flooded = of(&flood);
        assert_eq!(flooded.len(), 4);
        assert_eq!(flooded[3].split(' ').next(), Some("7"));
        // It had its turn before the flood was through.
        let at = written.iter().position(|(name, _)| *name == other).unwrap();
        assert!(at < 2, "{at}");
    }

    #[test]
    fn the_count_stands_where_the_gap_is() {
        let (mut queue, flood) = (LogQueue::default(), "flood".into());
        let long = "x".repeat(MAX_PENDING_BYTES / 2 - LINE_OVERHEAD);
        queue.push_line(&flood, line(&long));
        queue.push_line(&flood, line(&long));
        queue.push_line(&flood, line("lost"));
        assert_eq!(queue.next().unwrap().1.len(), 1);
        queue.push_line(&flood, line("after"));
        let messages: Vec<String> = written(&mut queue).into_iter().map(|(_, m)| m).collect();
        assert!(
            messages[1].starts_with("1 lines were dropped"),
            "{}",
            messages[1]
        );
        assert_eq!(messages[2], "after");
    }

    #[test]
    fn many_floods_together_leave_room_for_others() {
        let mut queue = LogQueue::default();
        let long = "x".repeat(16 << 10);
        for number in 0..100 {
            let flood: Arc<str> = format!("flood {number}").into();
            for _ in 0..200 {
                queue.push_line(&flood, line(&long));
            }
        }
        assert!(queue.bytes <= MAX_PENDING_BYTES_IN_ALL);
        let other: Arc<str> = "other".into();
        for _ in 0..10 {
            queue.push_line(&other, line("kept"));
        }
        assert!(queue.bytes <= MAX_PENDING_BYTES_IN_ALL);
        let written = written(&mut queue);
        let kept = written
            .iter()
            .filter(|(name, text)| *name == other && text == "kept");
        assert_eq!(kept.count(), 10);
    }

    proptest! {
        #[test]
        fn lines_of_a_deployment_stay_in_order_and_are_counted_or_written(
            steps in prop::collection::vec((0usize..4, 0usize..600_000, any::<bool>()), 0..100),
        ) {
            let mut queue = LogQueue::default();
            let names: Vec<Arc<str>> = (0..4).map(|n| format!("d{n}").into()).collect();
            let (mut sent, mut got) = ([0usize; 4], vec![Vec::new(); 4]);
            let mut keep = |deployment: Arc<str>, steps: Vec<Step>| {
                let at = names.iter().position(|name| *name == deployment).unwrap();
                for step in steps {
                    if let Step::Write(line) | Step::Note(line) = step {
                        got[at].push(line.message);
                    }
                }
            };
            for (which, size, write) in steps {
                let text = format!("{} {}", sent[which], "x".repeat(size));
                queue.push_line(&names[which], line(&text));
                sent[which] += 1;
                if write && let Some((deployment, steps)) = queue.next() {
                    keep(deployment, steps);
                }
            }
            while let Some((deployment, steps)) = queue.next() {
                keep(deployment, steps);
            }
            prop_assert_eq!((queue.bytes, queue.pending.len(), queue.turns.len()), (0, 0, 0));
            for (got, sent) in got.iter().zip(sent) {
                let (mut next, mut dropped) = (0, 0);
                for message in got {
                    let number: usize = message.split(' ').next().unwrap().parse().unwrap();
                    if message.contains("dropped") {
                        dropped += number;
                    } else {
                        prop_assert!(number >= next);
                        next = number + 1;
                    }
                }
                let written = got.iter().filter(|message| !message.contains("dropped")).count();
                prop_assert_eq!(written + dropped, sent);
            }
        }
    }
}
