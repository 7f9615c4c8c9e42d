//! `cargo xtask bench`: Samovar beside `wasmtime serve`, cold starts, and memory, in one table.

mod http;
mod servers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::json;

use crate::guests;
use http::Connection;
use servers::Server;

const ROUNDS: usize = 5;
const CONNECTIONS: u32 = 32;
const COLD_REQUESTS: usize = 40;
const WARM_REQUESTS: usize = 200;
const REPLICAS: u64 = 50;
const IDLE_DEPLOYMENTS: u32 = 1000;
const PHASES: [&str; 6] = ["queue", "component", "graphs", "instantiate", "init", "run"];

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Requests that find a replica
    Warm,
    /// Requests that each get an instance of their own
    Instance,
    /// Requests that find no replica
    Cold,
    /// What replicas and idle deployments take
    Memory,
}

struct Row {
    measure: String,
    samovar: String,
    beside: String,
    result: String,
    floor: &'static str,
    held: Option<bool>,
}

/// Builds everything, measures and prints one table; an error if a floor is missed.
pub fn run(seconds: u64, only: &[Part]) -> Result<()> {
    guests::build()?;
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--package", "samovar"])
        .current_dir(crate::repository())
        .status()?;
    ensure!(status.success(), "the build failed");
    let folder = crate::repository().join("target/bench");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;

    let wanted = |part| only.is_empty() || only.contains(&part);
    let mut rows = Vec::new();
    if wanted(Part::Warm) {
        rows.push(beside_wasmtime(&folder, seconds, Part::Warm)?);
    }
    if wanted(Part::Instance) {
        rows.push(beside_wasmtime(&folder, seconds, Part::Instance)?);
    }
    if wanted(Part::Cold) {
        rows.extend(cold(&folder)?);
    }
    if wanted(Part::Memory) {
        rows.extend(memory(&folder)?);
    }
    print(&rows);
    let missed = rows.iter().filter(|row| row.held == Some(false)).count();
    ensure!(missed == 0, "{missed} floors were missed");
    Ok(())
}

/// Requests per second of both servers with the same guest, in alternation, so that a noisy minute hits both.
fn beside_wasmtime(folder: &Path, seconds: u64, part: Part) -> Result<Row> {
    let (name, measure, options, reuse_count, least): (_, _, &[&str], _, _) = match part {
        Part::Instance => (
            "instance",
            "hello, a new instance for each request",
            &["--max-requests-per-replica", "1"],
            1,
            1.1,
        ),
        _ => ("warm", "hello, warm", &[], 100_000, 0.9),
    };
    say(measure);
    let wasmtime = servers::find_wasmtime()?;
    let bundle = hello(folder, name, "max_replica = 64")?;
    let node = Server::samovar(folder, &format!("{name}-data"), options)?;
    node.push(&bundle, "hello")?;
    let other = Server::wasmtime(&wasmtime, &bundle.join("hello.wasm"), reuse_count)?;
    let ours = format!("{}/models/hello/production/predict", node.url);
    let theirs = format!("{}/", other.url);
    load(&ours, CONNECTIONS, 1)?;
    load(&theirs, CONNECTIONS, 1)?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        a.push(load(&ours, CONNECTIONS, seconds)?);
        b.push(load(&theirs, CONNECTIONS, seconds)?);
        say(&format!(
            "  round {round}: samovar {:.0}/s, wasmtime {:.0}/s",
            a[round - 1],
            b[round - 1]
        ));
    }
    // Of each round's own: rounds differ by what else the machine does, the two runs of one round hardly.
    let ratio = median(a.iter().zip(&b).map(|(a, b)| a / b).collect());
    let (a, b) = (median(a), median(b));
    Ok(Row {
        measure: measure.to_owned(),
        samovar: format!("{a:.0}/s"),
        beside: format!("{b:.0}/s"),
        result: format!("{ratio:.2} ×"),
        floor: if part == Part::Instance {
            "≥ 1.1 ×"
        } else {
            "≥ 0.9 ×"
        },
        held: Some(ratio >= least),
    })
}

/// What a request waits for when there is no replica, over one that finds one.
fn cold(folder: &Path) -> Result<Vec<Row>> {
    let magika = crate::repository().join("examples/magika");
    let readme = std::fs::read(magika.join("README.md"))?;
    let mut rows = Vec::new();
    for (name, body) in [("hello", &b""[..]), ("magika", &readme)] {
        say(&format!("{name}, cold"));
        let bundle = if name == "hello" {
            hello(folder, "hello", "")?
        } else {
            variant(folder, "magika", &magika, "")?
        };
        // Each on a node of its own: a warm deployment of the same bundle would hold the cold one's graphs.
        let node = Server::samovar(folder, &format!("{name}-warm-data"), &[])?;
        node.push(&bundle, name)?;
        let warm = latencies(&node, name, body, WARM_REQUESTS, Start::Warm)?;
        drop(node);
        let node = Server::samovar(folder, &format!("{name}-cold-data"), &[])?;
        node.push(&bundle, name)?;
        let cold = latencies(&node, name, body, COLD_REQUESTS, Start::Cold)?;

        let warm_ms = median(warm.iter().map(|one| one.0).collect());
        let cold_ms = median(cold.iter().map(|one| one.0).collect());
        let phase = |at: usize| median(cold.iter().map(|one| one.1[at]).collect());
        let over = cold_ms - warm_ms;
        let split: Vec<_> = (PHASES.iter().enumerate())
            .map(|(at, name)| format!("{name} {:.3}", phase(at)))
            .collect();
        let beyond_graphs = median(cold.iter().map(|one| one.0 - warm_ms - one.1[2]).collect());
        let (result, floor, held) = if name == "hello" {
            (
                format!("{over:.2} ms over warm"),
                "< 2 ms over warm",
                over < 2.0,
            )
        } else {
            (
                format!("{over:.2} ms over warm, {beyond_graphs:.2} ms of it not the graph's"),
                "< graph load + 3 ms",
                beyond_graphs < 3.0,
            )
        };
        rows.push(Row {
            measure: format!("{name}, cold ({})", split.join(", ")),
            samovar: format!("{cold_ms:.2} ms"),
            beside: format!("warm: {warm_ms:.2} ms"),
            result,
            floor,
            held: Some(held),
        });
    }
    Ok(rows)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Warm,
    Cold,
}

/// Milliseconds of each request, and for cold ones the phases that the node reports.
fn latencies(
    node: &Server,
    model: &str,
    body: &[u8],
    count: usize,
    start: Start,
) -> Result<Vec<(f64, [f64; 6])>> {
    let mut connection = Connection::open(&node.url)?;
    let path = format!("/models/{model}/production/predict");
    let mut found = Vec::new();
    // The first ones pay for page faults and files that are not in memory yet.
    let mut index = 0;
    while index < count + 5 {
        if start == Start::Cold {
            node.stop_replicas(&mut connection, model)?;
        }
        let begun = Instant::now();
        let answer = connection.send("POST", &path, "application/octet-stream", body)?;
        let took = ms(begun.elapsed());
        let found_warm = answer.timing.is_empty();
        if start == Start::Cold && found_warm {
            // The node brought a replica back by itself, for the load it has had.
            continue;
        }
        ensure!(
            found_warm == (start == Start::Warm),
            "{model}: a request that was to be warm was cold"
        );
        index += 1;
        if index <= 5 {
            continue;
        }
        found.push((took, phases(&answer.timing)));
    }
    Ok(found)
}

/// Resident memory: the node's own, of each warm replica, and with many deployments at zero.
fn memory(folder: &Path) -> Result<Vec<Row>> {
    say(&format!("memory with {REPLICAS} warm replicas"));
    let node = Server::samovar(folder, "replicas-data", &[])?;
    let mut api = Connection::open(&node.url)?;
    api.json("GET", "/v1/models", b"")?;
    let begun = node.resident_kib()?;
    // One replica and its connections first, so that what many share is not counted as theirs.
    let scaling = [("one", 1), ("many", REPLICAS)];
    let mut resident = Vec::new();
    for (model, count) in scaling {
        let bounds = format!("min_replica = {count}\nmax_replica = {count}");
        node.push(&hello(folder, model, &bounds)?, model)?;
        node.wait_for_replicas(&mut api, model, count)?;
        let url = format!("{}/models/{model}/production/predict", node.url);
        load(&url, u32::try_from(REPLICAS)?, 2)?;
        resident.push(node.resident_kib()?);
    }
    drop(node);
    let each = resident[1].saturating_sub(resident[0]) / REPLICAS;

    say(&format!(
        "memory with {IDLE_DEPLOYMENTS} deployments at zero"
    ));
    let node = Server::samovar(folder, "idle-data", &[])?;
    let mut api = Connection::open(&node.url)?;
    let bundle_folder = hello(
        folder,
        "idle",
        "autoscaling_window = 10\nscale_down_delay = 0",
    )?;
    let pushed = node.push(&bundle_folder, "hello")?;
    let size = std::fs::metadata(bundle_folder.join("hello.wasm"))?.len();
    let pushing = Instant::now();
    for index in 0..IDLE_DEPLOYMENTS {
        let body = json!({"bundle": {
            "name": format!("hello-{index}"),
            "component": {"digest": pushed["uploaded"][0], "size": size},
            "autoscaling": {"autoscaling_window": 10, "scale_down_delay": 0},
        }});
        api.json("POST", "/v1/models", body.to_string().as_bytes())?;
    }
    let push_ms = ms(pushing.elapsed()) / f64::from(IDLE_DEPLOYMENTS);
    for index in 0..IDLE_DEPLOYMENTS {
        node.wait_for_replicas(&mut api, &format!("hello-{index}"), 0)?;
    }
    let idle = node.resident_kib()?;
    let idle_mb = idle as f64 * 1024.0 / 1e6;
    let start_mb = begun as f64 * 1024.0 / 1e6;
    Ok(vec![
        fact(
            "memory of a node that just started",
            format!("{start_mb:.0} MB"),
        ),
        fact(
            &format!("memory of a warm replica of hello, of {REPLICAS}"),
            format!("{each} KiB"),
        ),
        Row {
            measure: format!(
                "memory with {IDLE_DEPLOYMENTS} deployments at zero ({push_ms:.1} ms for each push)"
            ),
            samovar: format!("{idle_mb:.0} MB"),
            beside: String::new(),
            result: format!("{idle_mb:.0} MB"),
            floor: "< 200 MB",
            held: Some(idle_mb < 200.0),
        },
    ])
}

fn fact(measure: &str, value: String) -> Row {
    Row {
        measure: measure.to_owned(),
        samovar: value,
        beside: String::new(),
        result: String::new(),
        floor: "",
        held: None,
    }
}

/// A bundle of the smallest guest with these lines of `[autoscaling]`.
fn hello(folder: &Path, name: &str, autoscaling: &str) -> Result<PathBuf> {
    let example = crate::repository().join("examples/hello");
    variant(folder, name, &example, autoscaling)
}

/// A copy of an example with these lines of `[autoscaling]`.
fn variant(folder: &Path, name: &str, example: &Path, autoscaling: &str) -> Result<PathBuf> {
    let bundle = folder.join(name);
    std::fs::create_dir_all(&bundle)?;
    for entry in std::fs::read_dir(example)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), bundle.join(entry.file_name()))?;
        }
    }
    let manifest = bundle.join("samovar.toml");
    let text = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, format!("{text}\n[autoscaling]\n{autoscaling}\n"))?;
    Ok(bundle)
}

/// Requests per second by wrk; an error if one of them failed.
fn load(url: &str, connections: u32, seconds: u64) -> Result<f64> {
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            url,
        ])
        .output()
        .context("wrk does not start; it is the Debian package `wrk`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "wrk {url}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .with_context(|| format!("wrk says no Requests/sec: {text}"))?
        .trim()
        .parse()
        .context("wrk's Requests/sec")
}

/// Milliseconds of each phase in a `Server-Timing` header; zero for one that is not there.
fn phases(timing: &str) -> [f64; 6] {
    PHASES.map(|phase| {
        timing
            .split(", ")
            .find_map(|one| one.strip_prefix(phase)?.strip_prefix(";dur=")?.parse().ok())
            .unwrap_or_default()
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn say(text: &str) {
    eprintln!("==> {text}");
}

fn print(rows: &[Row]) {
    println!("| measure | samovar | beside it | result | floor | held |");
    println!("| --- | ---: | ---: | --- | --- | --- |");
    for row in rows {
        let held = match row.held {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        println!(
            "| {} | {} | {} | {} | {} | {held} |",
            row.measure, row.samovar, row.beside, row.result, row.floor
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{median, phases};

    #[test]
    fn phases_are_read_by_name() {
        let seen = phases("queue;dur=0.002, graphs;dur=12.5, run;dur=0.439");
        assert_eq!(seen, [0.002, 0.0, 12.5, 0.0, 0.0, 0.439]);
        assert_eq!(phases(""), [0.0; 6]);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
