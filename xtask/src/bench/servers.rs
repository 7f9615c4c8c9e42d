//! The servers that are measured, each a child that ends with its value.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::http::Connection;
use crate::process;

/// The Wasmtime that Samovar embeds, so that only the servers differ.
pub const WASMTIME: &str = "48.0.8";

/// What nodes are told of where graphs run.
fn engines() -> Vec<&'static str> {
    match super::ENGINES.get() {
        Some(Some(engines)) => vec!["--engines", engines],
        _ => Vec::new(),
    }
}

pub struct Server {
    child: Child,
    /// `http://HOST:PORT`, with no slash after it.
    pub url: String,
    ends: Ends,
}

/// What ends with a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Alone,
    /// All processes of its group.
    Group,
}

impl Server {
    /// A Samovar node with an empty data folder of its own below `folder`.
    pub fn samovar(folder: &Path, name: &str, options: &[&str]) -> Result<Self> {
        let data = folder.join(name);
        let engines = match options.contains(&"--engines") {
            true => Vec::new(),
            false => engines(),
        };
        let mut child = Command::new(samovar())
            .args([
                "--json",
                "serve",
                "--no-auth",
                "--addr",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(&data)
            .args(options)
            .args(engines)
            .env("SAMOVAR_CONFIG", folder.join("config.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("the node does not start")?;
        let output = child.stdout.take().context("no output")?;
        let url = address(output, "samovar serve");
        Self::of(child, url)
    }

    /// `wasmtime serve` for one component, with at most so many requests for an instance.
    pub fn wasmtime(binary: &Path, component: &Path, reuse_count: u32) -> Result<Self> {
        // The guest's standard library imports wasi:cli.
        let mut child = Command::new(binary)
            .args(["serve", "-Scli", "--addr", "127.0.0.1:0"])
            .arg("--max-instance-reuse-count")
            .arg(reuse_count.to_string())
            .arg(component)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("wasmtime does not start")?;
        let output = child.stderr.take().context("no output")?;
        let url = address(output, "wasmtime serve");
        Self::of(child, url)
    }

    /// LitServe with the tiny model.
    pub fn litserve(python: &Path, model: &Path) -> Result<Self> {
        let script = crate::repository().join("xtask/src/bench/litserve_tiny.py");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(python);
        command.arg(script).arg(port.to_string()).arg(model);
        // Its workers are processes of their own, which end with its group.
        let child = command
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("LitServe does not start")?;
        let mut server = Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            ends: Ends::Group,
        };
        let begun = Instant::now();
        let healthy = |url: &str| Connection::open(url)?.send("GET", "/health", "text/plain", b"");
        while let Err(error) = healthy(&server.url) {
            ensure!(
                begun.elapsed() < Duration::from_secs(60) && server.child.try_wait()?.is_none(),
                "LitServe is not ready: {error:#}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn of(child: Child, url: Result<String>) -> Result<Self> {
        let mut server = Self {
            child,
            url: String::new(),
            ends: Ends::Alone,
        };
        server.url = url?;
        Ok(server)
    }

    /// Pushes a bundle's folder by the command line; the answer.
    pub fn push(&self, folder: &Path, model: &str) -> Result<Value> {
        let folder = folder.to_string_lossy();
        self.cli(&["push", "--no-build", "--model", model, &folder])
    }

    /// A command of the command line against this node.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(samovar());
        command
            .arg("--json")
            .args(args)
            .env("SAMOVAR_URL", &self.url)
            .env(
                "SAMOVAR_CONFIG",
                crate::repository().join("target/bench/config.toml"),
            )
            .env_remove("SAMOVAR_API_KEY");
        command
    }

    /// Runs a command of the command line against this node; the answer.
    pub fn cli(&self, args: &[&str]) -> Result<Value> {
        let output = self.command(args).stderr(Stdio::piped()).output()?;
        ensure!(
            output.status.success(),
            "samovar {args:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until the model has so many replicas.
    pub fn wait_for_replicas(&self, api: &mut Connection, model: &str, count: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let listed = api.deployments(model)?.deployments;
            let first = listed.first().context("a model without a deployment")?;
            let found = first.active_replica_count;
            if found == count {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "{model}: found {found} replicas after 30 s, wanted {count}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops all replicas of the model's first deployment.
    pub fn stop_replicas(&self, api: &mut Connection, model: &str) -> Result<()> {
        for replica in api.replicas(model)?.replicas {
            api.terminate_replica(model, &replica.id)?;
        }
        self.wait_for_replicas(api, model, 0)
    }

    /// Processor time that it and its engines have used, in milliseconds.
    pub fn processor_ms(&self) -> Result<f64> {
        /// Of Linux for programs, whatever the kernel's own are.
        const TICKS_PER_SECOND: f64 = 100.0;
        let own = self.child.id();
        let (_, mut ticks) = processor_ticks(own).context("the server has ended")?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_string_lossy().parse();
            // Processes may end while this reads.
            if let Some((parent, of_child)) = pid.ok().and_then(processor_ticks)
                && parent == own
            {
                ticks += of_child;
            }
        }
        Ok(ticks / TICKS_PER_SECOND * 1e3)
    }

    /// Memory that is resident now, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        text.lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .with_context(|| format!("no VmRSS in {path}"))?
            .parse()
            .context("VmRSS")
    }
}

/// The parent of a process, and the ticks of processor time that it has used.
fn processor_ticks(pid: u32) -> Option<(u32, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Past the name, which may hold anything: the second is the parent, the twelfth and thirteenth are utime and stime.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..13)?.iter().map(|ticks| ticks.parse::<f64>());
    let ticks = ticks.sum::<Result<f64, _>>().ok()?;
    Some((fields.get(1)?.parse().ok()?, ticks))
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ends == Ends::Group {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Samovar's binary as it is shipped, or the one that `SAMOVAR_BIN` names.
pub fn samovar() -> PathBuf {
    std::env::var_os("SAMOVAR_BIN").map_or_else(|| super::built("samovar"), PathBuf::from)
}

/// Finds the `wasmtime` of the wanted version, or installs it below `target/tools`.
pub fn find_wasmtime() -> Result<PathBuf> {
    let tools = crate::repository().join("target/tools");
    let installed = tools.join("bin/wasmtime");
    for candidate in [Path::new("wasmtime"), &installed] {
        if version(candidate.as_os_str()).is_some_and(|found| found == WASMTIME) {
            return Ok(candidate.to_owned());
        }
    }
    eprintln!("==> installing wasmtime {WASMTIME} (takes minutes)");
    process::run(
        process::cargo()
            .args(["install", "wasmtime-cli", "--locked", "--version", WASMTIME])
            .arg("--root")
            .arg(&tools),
    )?;
    Ok(installed)
}

fn version(binary: &OsStr) -> Option<String> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// The address in the first line that has one; the rest is read and dropped, lest the server block on a full pipe.
fn address(output: impl Read + Send + 'static, name: &str) -> Result<String> {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    loop {
        line.clear();
        if output.read_line(&mut line)? == 0 {
            bail!("{name} ended before it served");
        }
        if let Some(at) = line.find("http://") {
            let end = |c: char| c == '"' || c == '/' || c.is_whitespace();
            let rest = &line[at + "http://".len()..];
            let host = rest.split(end).next().unwrap_or_default();
            let url = format!("http://{host}");
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            return Ok(url);
        }
    }
}
