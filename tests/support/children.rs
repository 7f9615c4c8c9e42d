//! Processes that a server has started, found in `/proc`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use crate::Server;

/// The server's running child processes that were started with this subcommand, by their ids.
pub fn children(server: &Server, subcommand: &str) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes come and go.
        let Some([state, parent]) = stat(pid, [0, 1]) else {
            continue;
        };
        let Ok(command) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let mut words = command.split(|byte| *byte == 0);
        let is_started_so = words.nth(1) == Some(subcommand.as_bytes());
        if is_started_so && state != "Z" && parent.parse() == Ok(server.pid()) {
            found.insert(pid);
        }
    }
    Ok(found)
}

/// Whether a process is there and is no zombie.
pub fn is_running(pid: u32) -> bool {
    stat(pid, [0]).is_some_and(|[state]| state != "Z")
}

/// The niceness of a process.
pub fn niceness(pid: u32) -> Result<i32> {
    let [niceness] = stat(pid, [16]).context("no such process")?;
    Ok(niceness.parse()?)
}

/// Memory of a process in RAM, in bytes; what it shares counts for each of those who share it by its part. Nothing once it is gone.
pub fn proportional_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// A field of `/proc/PID/status`.
pub fn status(pid: u32, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.with_context(|| format!("no {name}"))?;
    Ok(value.trim_start_matches(':').trim().to_owned())
}

/// Kills a process as the kernel does when memory is short.
pub fn kill(pid: u32) -> Result<()> {
    signal(pid, libc::SIGKILL)
}

/// Stops a process, so that what it was asked for is never done.
pub fn stop(pid: u32) -> Result<()> {
    signal(pid, libc::SIGSTOP)
}

fn signal(pid: u32, signal: i32) -> Result<()> {
    let pid = i32::try_from(pid)?;
    // SAFETY: a signal to a process; it has no effect on memory here.
    let done = unsafe { libc::kill(pid, signal) };
    anyhow::ensure!(done == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

/// Fields of `/proc/PID/stat`, counted from the state, which is 0.
fn stat<const N: usize>(pid: u32, fields: [usize; N]) -> Option<[String; N]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let all: Vec<&str> = rest.split_whitespace().collect();
    let mut found = [const { String::new() }; N];
    for (to, field) in found.iter_mut().zip(fields) {
        (*all.get(field)?).clone_into(to);
    }
    Some(found)
}
