//! The node and its engines as processes: which there are, their memory and their processor time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;

use super::Target;
use super::http::Client;

/// How often new engines are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An engine, as the node tells of it.
#[derive(Clone, Debug)]
pub struct Engine {
    pub process: u32,
    pub graphs: u64,
}

/// The engines that run now.
///
/// # Errors
/// When the node does not say so.
pub fn engines(client: &mut Client) -> Result<Vec<Engine>> {
    let answer = client.send("GET", "/v1/status", &[], b"")?;
    ensure!(answer.status == 200, "/v1/status: {}", answer.text());
    let status: Value = serde_json::from_slice(&answer.body)?;
    let engines = status["engines"].as_array().context("no engines")?.iter();
    let engines = engines.filter_map(|engine| {
        Some(Engine {
            process: engine["process"].as_u64()?.try_into().ok()?,
            graphs: engine["graphs"].as_u64()?,
        })
    });
    Ok(engines.collect())
}

/// Kills a process as the kernel does when memory is short. Whether it was there.
pub fn kill(process: u32) -> bool {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Lets the data of a process grow to so many bytes and no further, so that what takes too much fails instead of the machine. What it
/// starts afterwards has the same limit.
///
/// # Errors
/// When the kernel refuses.
pub fn limit_data(process: u32, bytes: u64) -> Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    prlimit(pid, Resource::Data, limit)?;
    Ok(())
}

/// Limits each engine soon after it has started, until this is dropped.
pub struct Limiter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Limiter {
    /// Lets the data of each engine grow to so many bytes.
    pub fn start(target: &Target, bytes: u64) -> Self {
        let (target, stop) = (target.clone(), Arc::<AtomicBool>::default());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut client = Client::new(&target);
            while !stopped.load(Ordering::Relaxed) {
                for engine in engines(&mut client).unwrap_or_default() {
                    // It may have ended meanwhile.
                    let _ = limit_data(engine.process, bytes);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Processor time that a process has used so far, in milliseconds; zero if there is none.
pub fn processor_ms(process: u32) -> f64 {
    /// Of Linux for programs, whatever the kernel's own are.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Past the name, which may hold anything: state is the first, utime and stime the twelfth and thirteenth.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND * 1e3
}

/// A size that the kernel tells of a process, as `VmRSS`, in KiB.
///
/// # Errors
/// When there is no such process.
pub fn size_kib(process: u32, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.trim_start_matches(':').trim().strip_suffix(" kB"));
    Ok(value.with_context(|| format!("no {name}"))?.parse()?)
}
