//! A `samovar watch` that runs beside a test, and what it tells.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{PATIENCE, Server};

/// It, until it is dropped.
pub struct Watch {
    child: Child,
    events: Receiver<Value>,
    /// All events so far.
    pub seen: Vec<Value>,
    stderr: Arc<Mutex<String>>,
}

impl Watch {
    /// Watches a folder for a server, with more arguments.
    pub fn start(server: &Server, folder: &Path, args: &[&str]) -> Result<Self> {
        let mut child = server
            .command(&["--json", "watch"])
            .args(args)
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (tell, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // What is no JSON on standard output shows as an event that no test wants.
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if tell.send(event).is_err() {
                    return;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let (kept, told) = (stderr.clone(), child.stderr.take().context("no stderr")?);
        std::thread::spawn(move || {
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                let mut kept = kept.lock().expect("no panic holds it");
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Ok(Self {
            child,
            events,
            seen: Vec::new(),
            stderr,
        })
    }

    /// Waits for the next event of a kind; others before it are passed over.
    pub fn next(&mut self, kind: &str) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(event) = self.events.recv_timeout(left) else {
                bail!(
                    "no {kind}; there was {:#?}; {}",
                    self.seen,
                    self.standard_error()
                );
            };
            self.seen.push(event.clone());
            if event["event"] == kind {
                return Ok(event);
            }
        }
    }

    /// How many events of a kind there were, as far as they were waited for.
    pub fn count(&self, kind: &str) -> usize {
        let of_kind = self.seen.iter().filter(|event| event["event"] == kind);
        of_kind.count()
    }

    /// What it and its builds wrote to standard error.
    pub fn standard_error(&self) -> String {
        self.stderr.lock().expect("no panic holds it").clone()
    }

    /// Sends it a signal and waits for its end. What it told until then is among the events.
    pub fn end(mut self, signal: i32) -> Result<(ExitStatus, Vec<Value>)> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: the child is ours and not yet waited for, so the pid is its.
        unsafe { libc::kill(pid, signal) };
        let status = self.child.wait()?;
        let rest = std::iter::from_fn(|| self.events.recv_timeout(PATIENCE).ok());
        let rest: Vec<Value> = rest.collect();
        self.seen.extend(rest);
        Ok((status, std::mem::take(&mut self.seen)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
