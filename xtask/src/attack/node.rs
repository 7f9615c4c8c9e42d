//! The node that is attacked: a server of its own, whose memory and whose engines' memory are bounded, so that what takes too much
//! fails instead of the machine.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::campaign::Target;
use super::campaign::processes::{Limiter, limit_data, size_kib};

/// What the node may take beyond what it has reserved at its start, and what an engine may take.
const NODE_BYTES: u64 = 4 << 30;
const ENGINE_BYTES: u64 = 4 << 30;
/// What compiling a component may take here.
pub const COMPILE_MEMORY: &str = "256MiB";
pub const COMPILE_TIME: &str = "10s";

pub struct Node {
    pub target: Target,
    child: Mutex<Child>,
    _limiter: Limiter,
}

impl Node {
    /// Starts it with both backends. Its log is `node.log` in the folder.
    pub fn start(program: &Path, folder: &Path, library: &str) -> Result<Self> {
        let log = folder.join("node.log");
        let mut child = Command::new(program)
            .args(["--json", "serve", "--no-auth", "--addr", "127.0.0.1:0"])
            .args(["--onnxruntime", library])
            .args(["--compile-memory", COMPILE_MEMORY])
            .args(["--compile-time", COMPILE_TIME])
            .arg("--data")
            .arg(folder.join("data"))
            .env("SAMOVAR_CONFIG", folder.join("config.toml"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let Some(Ok(line)) = lines.next() else {
            bail!("the node ended at once: see {}", log.display());
        };
        std::thread::spawn(move || lines.for_each(drop));
        let ready: Value = serde_json::from_str(&line)?;
        let target = Target {
            url: ready["url"].as_str().context("no url")?.to_owned(),
            key: String::new(),
            pid: child.id(),
            program: program.to_owned(),
            folder: folder.to_owned(),
            backends: vec!["rten", "onnxruntime"],
        };
        limit_data(
            target.pid,
            (size_kib(target.pid, "VmData")? << 10) + NODE_BYTES,
        )?;
        let limiter = Limiter::start(&target, ENGINE_BYTES);
        Ok(Self {
            target,
            child: Mutex::new(child),
            _limiter: limiter,
        })
    }

    /// Whether its process is there and has not ended.
    pub fn is_there(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        size_kib(self.target.pid, "VmRSS")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}
