//! What an attack found: the table, and which promises it broke.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::Part;
use super::campaign::answers::Outcome;
use super::campaign::kills::Kills;
use super::campaign::loops::Loops;
use super::campaign::neighbours::Calls;
use super::campaign::report::Counts;
use super::node::Node;

/// A run that nobody can end is answered this long after it began at the latest: at its deployment's timeout, with what a busy machine
/// adds.
const MAX_LOOP: Duration = Duration::from_secs(10);
/// An endless run uses a core or more.
const MAX_BUSY: f64 = 0.5;

pub struct Summary {
    seed: u64,
    pid: u32,
    is_there: bool,
    resident_kib: (u64, u64),
    counts: Counts,
    pub idle: Calls,
    parts: Vec<(Part, Calls)>,
    pub kills: Kills,
    pub loops: Vec<Loops>,
    bombs: Vec<(&'static str, Option<String>, Duration)>,
    failed: Vec<String>,
}

impl Summary {
    /// Before the attack.
    pub fn begin(node: &Node, seed: u64) -> Result<Self> {
        let resident = node.resident_kib()?;
        Ok(Self {
            seed,
            pid: node.target.pid,
            is_there: true,
            resident_kib: (resident, resident),
            counts: Counts::default(),
            idle: Calls::default(),
            parts: Vec::new(),
            kills: Kills::default(),
            loops: Vec::new(),
            bombs: Vec::new(),
            failed: Vec::new(),
        })
    }

    /// A component that must not be taken.
    pub fn bomb(&mut self, name: &'static str, refusal: Option<String>, took: Duration) {
        self.bombs.push((name, refusal, took));
    }

    /// After a part.
    pub fn end_of_part(&mut self, part: Part, node: &Node, ran: Result<Calls>) {
        self.is_there = node.is_there();
        match ran {
            Ok(calls) => self.parts.push((part, calls)),
            Err(error) => self.failed.push(format!("{part:?}: {error:#}")),
        }
    }

    /// After the attack.
    pub fn end(&mut self, node: &Node, counts: Counts) {
        self.is_there = node.is_there();
        self.resident_kib.1 = node.resident_kib().unwrap_or(0);
        self.counts = counts;
    }

    /// Promises that were broken.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = self.failed.clone();
        if !self.is_there {
            broken.push("the node has ended".into());
        }
        broken.extend(self.counts.broken.iter().cloned());
        for calls in self
            .parts
            .iter()
            .map(|(_, calls)| calls)
            .chain([&self.idle])
        {
            broken.extend(calls.told.iter().cloned());
        }
        broken.extend(
            self.kills
                .wrong
                .iter()
                .map(|why| format!("after a kill, {why}")),
        );
        broken.extend(
            self.kills
                .hung
                .iter()
                .map(|why| format!("after a kill, {why} hung")),
        );
        for loops in &self.loops {
            for (outcome, took) in &loops.outcomes {
                if *outcome != Outcome::TimedOut || *took > MAX_LOOP {
                    let backend = loops.backend;
                    broken.push(format!(
                        "an endless loop on {backend} was answered {outcome:?} after {took:?}"
                    ));
                }
            }
            if loops.busy_after > MAX_BUSY {
                broken.push(format!(
                    "a second after an endless loop on {} {:.2} cores are busy",
                    loops.backend, loops.busy_after
                ));
            }
        }
        for (name, refusal, took) in &self.bombs {
            let refusal = refusal.as_deref().unwrap_or("taken");
            if !refusal.contains("--compile-") {
                broken.push(format!("bomb `{name}` after {took:?}: {refusal}"));
            }
        }
        broken
    }

    /// The same as the table, for programs.
    pub fn json(&self) -> Value {
        let calls = |calls: &Calls| {
            json!({
                "requests": calls.right + calls.failed + calls.wrong + calls.hung,
                "failed": calls.failed, "wrong": calls.wrong, "hung": calls.hung,
                "p50_ms": calls.percentile_ms(50), "p99_ms": calls.percentile_ms(99),
                "most_ms": calls.percentile_ms(100),
                "p99_ratio": calls.percentile_ms(99) / self.idle.percentile_ms(99),
            })
        };
        let parts = self.parts.iter();
        let parts = parts.map(|(part, found)| (format!("{part:?}").to_lowercase(), calls(found)));
        let counts = &self.counts;
        json!({
            "seed": self.seed,
            "node": {
                "pid": self.pid, "same": self.is_there,
                "resident_kib_before": self.resident_kib.0, "resident_kib_after": self.resident_kib.1,
            },
            "runs": {
                "inputs": counts.input_runs, "models": counts.model_runs,
                "ran": counts.ran, "refused": counts.refused_runs, "timed_out": counts.timed_out,
                "not_run_for_a_while": counts.quarantined, "longest_ms": counts.longest.as_millis(),
            },
            "pushes": { "all": counts.pushes, "refused": counts.refused_pushes },
            "engine_deaths": { "all": counts.engine_deaths, "kinds": counts.deaths },
            "kills": {
                "kills": self.kills.kills, "requests": self.kills.requests, "errors": self.kills.errors,
                "wrong": self.kills.wrong.len(), "hung": self.kills.hung.len(),
                "recoveries": self.kills.recoveries.len(), "recoveries_above_1_s": slow(&self.kills),
                "recovery_p50_ms": recovery_ms(&self.kills, 50), "recovery_max_ms": recovery_ms(&self.kills, 100),
            },
            "loops": self.loops.iter().map(|loops| json!({
                "backend": loops.backend, "busy_cores_after": loops.busy_after,
                "answered_ms": loops.outcomes.iter().map(|(_, took)| took.as_millis()).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "bombs": self.bombs.iter().map(|(name, refusal, took)| json!({
                "name": name, "refusal": refusal, "took_ms": took.as_millis(),
            })).collect::<Vec<_>>(),
            "neighbours": { "idle": calls(&self.idle), "parts": parts.collect::<serde_json::Map<_, _>>() },
            "broken": self.broken(),
        })
    }

    pub fn print(&self) {
        let counts = &self.counts;
        println!("| what | found |\n| --- | --- |");
        let row = |what: &str, found: String| println!("| {what} | {found} |");
        row(
            "runs",
            format!(
                "{} with inputs, {} of changed models; {} ran, {} refused, {} at the timeout, {} not run for a while",
                counts.input_runs,
                counts.model_runs,
                counts.ran,
                counts.refused_runs,
                counts.timed_out,
                counts.quarantined
            ),
        );
        row(
            "pushes",
            format!("{}, {} refused", counts.pushes, counts.refused_pushes),
        );
        row("engine deaths", counts.engine_deaths.to_string());
        for (kind, times) in &counts.deaths {
            row(&format!("- {kind}"), times.to_string());
        }
        let kills = &self.kills;
        row(
            "kills",
            format!(
                "{}; {} requests meanwhile, {} errors, {} wrong, {} hung; right again after {:.0} ms (p50), {:.0} ms (most), after more than 1 s {} of {} times",
                kills.kills,
                kills.requests,
                kills.errors,
                kills.wrong.len(),
                kills.hung.len(),
                recovery_ms(kills, 50),
                recovery_ms(kills, 100),
                slow(kills),
                kills.recoveries.len()
            ),
        );
        for loops in &self.loops {
            let answered = loops.outcomes.iter().map(|(_, took)| took.as_secs_f64());
            row(
                &format!("endless loops on {}", loops.backend),
                format!(
                    "answered after {:.1?} s; {:.2} cores busy a second later",
                    answered.collect::<Vec<_>>(),
                    loops.busy_after
                ),
            );
        }
        for (name, refusal, took) in &self.bombs {
            let refusal = refusal.as_deref().unwrap_or("taken");
            let refusal: String = refusal.chars().take(160).collect();
            row(
                &format!("bomb `{name}`"),
                format!(
                    "{:.1} s: {}",
                    took.as_secs_f64(),
                    refusal.replace('\n', " ")
                ),
            );
        }
        let idle = &self.idle;
        let (p50, p99) = (idle.percentile_ms(50), idle.percentile_ms(99));
        row(
            "neighbours, idle",
            format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
        );
        for (part, calls) in &self.parts {
            if calls.right + calls.failed == 0 {
                continue;
            }
            row(
                &format!("neighbours beside {part:?}"),
                format!(
                    "{} right, {} failed, {} wrong, {} hung; p50 {:.2} ms, p99 {:.2} ms ({:.1} × idle), most {:.0} ms",
                    calls.right,
                    calls.failed,
                    calls.wrong,
                    calls.hung,
                    calls.percentile_ms(50),
                    calls.percentile_ms(99),
                    calls.percentile_ms(99) / p99,
                    calls.percentile_ms(100)
                ),
            );
        }
        let there = if self.is_there { "the same" } else { "ENDED" };
        row("node", format!("process {}, {there}", self.pid));
        let mib = |kib: u64| kib >> 10;
        row(
            "node's memory",
            format!(
                "{} MiB before, {} MiB after",
                mib(self.resident_kib.0),
                mib(self.resident_kib.1)
            ),
        );
    }
}

/// How often it took longer than it may, less the time that the load takes.
fn slow(kills: &Kills) -> usize {
    let second = Duration::from_secs(1);
    kills
        .recoveries
        .iter()
        .filter(|took| **took > second)
        .count()
}

fn recovery_ms(kills: &Kills, percent: usize) -> f64 {
    let mut sorted = kills.recoveries.clone();
    sorted.sort_unstable();
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(at)
        .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}
