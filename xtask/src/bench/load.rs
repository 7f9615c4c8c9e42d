//! The load: `wrk`, with any body, and what it counted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Asks with POST and the file's content, and prints what was counted as one line of JSON.
const SCRIPT: &str = r#"
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*all")
wrk.headers["content-type"] = os.getenv("BENCH_BODY_TYPE")
file:close()
"#;
const DONE: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// What is sent with each request.
#[derive(Clone)]
pub struct Body {
    file: PathBuf,
    media_type: &'static str,
}

impl Body {
    /// Puts a body into a file of the folder.
    pub fn new(
        folder: &Path,
        name: &str,
        media_type: &'static str,
        content: &[u8],
    ) -> Result<Self> {
        let file = folder.join(format!("{name}.body"));
        std::fs::write(&file, content)?;
        Ok(Self { file, media_type })
    }
}

/// What a run of the load counted.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Requests that were answered.
    pub requests: f64,
    /// Requests per second.
    pub per_second: f64,
    /// Half of the requests took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer, in milliseconds.
    pub p99_ms: f64,
}

/// GET, or POST with a body, from so many connections that stay open. An error if a request failed.
pub fn load(url: &str, body: Option<&Body>, connections: u32, seconds: u64) -> Result<Load> {
    let script = crate::repository().join("target/bench/wrk.lua");
    let mut command = Command::new("wrk");
    let mut lua = DONE.to_owned();
    if let Some(body) = body {
        lua.push_str(SCRIPT);
        command
            .env("BENCH_BODY", &body.file)
            .env("BENCH_BODY_TYPE", body.media_type);
    }
    std::fs::write(&script, lua)?;
    let output = command
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            // A request of many that wait for two cores is slow, not lost.
            "--timeout=60s",
            "-s",
        ])
        .arg(&script)
        .arg(url)
        .output()
        .context("wrk does not start; it is the Debian package `wrk`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let told = || {
        format!(
            "wrk {url}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    };
    ensure!(output.status.success(), told());
    let line = text.lines().find(|line| line.starts_with('{'));
    let found: Value = serde_json::from_str(line.with_context(told)?)?;
    let number = |name: &str| found[name].as_f64().with_context(told);
    ensure!(
        number("failed")? == 0.0 && number("requests")? > 0.0,
        told()
    );
    Ok(Load {
        requests: number("requests")?,
        per_second: number("requests")? / number("duration_us")? * 1e6,
        p50_ms: number("p50_us")? / 1e3,
        p99_ms: number("p99_us")? / 1e3,
    })
}
