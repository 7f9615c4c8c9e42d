//! What attacks found, counted and written down: each death of an engine with its model and input, each broken promise with what
//! sends it again.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::answers::{Outcome, is_bystander};
use super::corpus::Case;
use super::protocol::Request;

/// Requests of one case and backend that are kept in files when they end an engine or do not end in time.
const MAX_KEPT: usize = 3;

/// Which attack a run belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Inputs,
    Models,
}

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub input_runs: u64,
    pub model_runs: u64,
    pub ran: u64,
    pub refused_runs: u64,
    pub timed_out: u64,
    pub quarantined: u64,
    pub engine_deaths: u64,
    pub pushes: u64,
    pub refused_pushes: u64,
    /// Broken promises, each with where it is written down.
    pub broken: Vec<String>,
    pub longest: Duration,
    /// Deaths of engines by backend, operators and signal.
    pub deaths: BTreeMap<String, u64>,
}

/// Counts what attacks tell it, from any thread, and keeps what is to be sent again.
pub struct Report {
    folder: PathBuf,
    url: String,
    state: Mutex<State>,
}

struct State {
    counts: Counts,
    log: File,
    kept: BTreeMap<(String, &'static str), usize>,
    files: u64,
    seen: HashSet<String>,
}

impl Report {
    /// Writes into this folder: `attack.jsonl`, and the inputs that it names.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn new(folder: PathBuf, url: &str) -> Result<Self> {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let log = File::create(folder.join("attack.jsonl"))?;
        let state = State {
            counts: Counts::default(),
            log,
            kept: BTreeMap::new(),
            files: 0,
            seen: HashSet::new(),
        };
        Ok(Self {
            folder,
            url: url.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// One run.
    pub fn run(
        &self,
        part: Part,
        case: &Case,
        backend: &'static str,
        request: &Request,
        outcome: &Outcome,
    ) {
        let mut state = self.lock();
        let counts = &mut state.counts;
        match part {
            Part::Inputs => counts.input_runs += 1,
            Part::Models => counts.model_runs += 1,
        }
        match outcome {
            Outcome::Ran(_) => counts.ran += 1,
            Outcome::Refused(why) => {
                counts.refused_runs += 1;
                state.new_reason(backend, why);
            }
            Outcome::TimedOut => {
                counts.timed_out += 1;
                self.note(&mut state, "timeout", case, backend, request, "504");
            }
            Outcome::Quarantined => counts.quarantined += 1,
            Outcome::EndedEngine(why) => {
                counts.engine_deaths += 1;
                let signal = why.split("ended: ").nth(1).unwrap_or(why);
                let signal: String = signal.chars().take_while(|c| *c != '"').take(60).collect();
                let kind = format!("{backend}: {}: {signal}", case.operators);
                *counts.deaths.entry(kind).or_default() += 1;
                self.note(&mut state, "death", case, backend, request, why);
            }
            Outcome::Hung | Outcome::Broken(_) => {
                let why = outcome.broken().unwrap_or_default();
                self.note(&mut state, "broken", case, backend, request, why);
                let told = format!("{} on {backend}: {why}", case.name);
                state.counts.broken.push(told);
            }
        }
    }

    /// An answer that is another one than before.
    pub fn wrong(&self, case: &Case, backend: &'static str, request: &Request, what: &str) {
        let mut state = self.lock();
        self.note(&mut state, "wrong", case, backend, request, what);
        let told = format!("{} on {backend}: after the attack {what}", case.name);
        state.counts.broken.push(told);
    }

    /// A model that was pushed and refused.
    pub fn refused(&self, case: &Case, backend: &'static str, bytes: &[u8], reason: &str) {
        let mut state = self.lock();
        state.counts.pushes += 1;
        state.counts.refused_pushes += 1;
        state.new_reason(backend, reason);
        if is_bystander(reason) {
            self.note_model(&mut state, "broken", case, backend, bytes, reason);
            let told = format!("pushing {} on {backend}: {reason}", case.name);
            state.counts.broken.push(told);
        }
        if reason.contains("engine") && reason.contains("killed by") {
            state.counts.engine_deaths += 1;
            let signal = reason.split("killed by ").nth(1).unwrap_or_default();
            let signal = signal.split_whitespace().next().unwrap_or_default();
            let kind = format!("{backend}: loading {}: {signal}", case.operators);
            *state.counts.deaths.entry(kind).or_default() += 1;
            self.note_model(&mut state, "death", case, backend, bytes, reason);
        }
    }

    /// A model that was pushed and taken.
    pub fn served(&self) {
        self.lock().counts.pushes += 1;
    }

    /// A model with which the node did not do what was promised.
    pub fn broken_model(&self, case: &Case, backend: &'static str, bytes: &[u8], why: &str) {
        let mut state = self.lock();
        self.note_model(&mut state, "broken", case, backend, bytes, why);
        let told = format!("{} on {backend}: {why}", case.name);
        state.counts.broken.push(told);
    }

    /// How long a run took.
    pub fn took(&self, took: Duration) {
        let mut state = self.lock();
        state.counts.longest = state.counts.longest.max(took);
    }

    fn note(
        &self,
        state: &mut State,
        what: &str,
        case: &Case,
        backend: &'static str,
        request: &Request,
        why: &str,
    ) {
        let times = state.kept.entry((format!("{what} {}", case.name), backend));
        let times = times.or_default();
        *times += 1;
        let mut line = json!({
            "what": what, "case": case.name, "operators": case.operators, "backend": backend, "why": why,
        });
        if *times <= MAX_KEPT || what == "broken" || what == "wrong" {
            let header = request.header_length.unwrap_or(request.body.len());
            let shown = &request.body[..header.min(2000)];
            line["request"] = json!(String::from_utf8_lossy(shown));
            line["model"] = json!(case.file);
            let file = self.keep(state, "request", &request.body);
            line["again"] = json!(request.by_hand(&self.url, &file));
        }
        write_line(state, &line);
    }

    fn note_model(
        &self,
        state: &mut State,
        what: &str,
        case: &Case,
        backend: &'static str,
        bytes: &[u8],
        why: &str,
    ) {
        let file = self.keep(state, "onnx", bytes);
        let line = json!({
            "what": what, "case": case.name, "operators": case.operators, "backend": backend, "why": why,
            "again": format!("samovar push {file}, with `backend = \"{backend}\"` or without"),
        });
        write_line(state, &line);
    }

    fn keep(&self, state: &mut State, kind: &str, bytes: &[u8]) -> String {
        state.files += 1;
        let path = self.folder.join(format!("{}.{kind}", state.files));
        match std::fs::write(&path, bytes) {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("{} could not be written: {error}", path.display()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The counts are whole after each of these calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes a reason the first time that one like it is given, so that people can read what the node says.
    fn new_reason(&mut self, backend: &str, reason: &str) {
        let kind: String = reason
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .take(80)
            .collect();
        if self.seen.len() < 2_000 && self.seen.insert(kind) {
            write_line(
                self,
                &json!({ "what": "reason", "backend": backend, "why": reason }),
            );
        }
    }
}

fn write_line(state: &mut State, line: &Value) {
    // A log that cannot be written to stops no attack.
    let _ = writeln!(state.log, "{line}");
}
