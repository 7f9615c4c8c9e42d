//! What a request waits for when there is no replica, over one that finds one.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::bare::{Backend, Peers};
use super::bundles::{hello, variant};
use super::http::Connection;
use super::servers::Server;
use super::table::{Row, median};
use super::{Bench, models, say};

const COLD_REQUESTS: usize = 40;
const WARM_REQUESTS: usize = 200;
const PHASES: [&str; 6] = ["queue", "component", "graphs", "instantiate", "init", "run"];
/// How much longer than the hello guest, or than the loading of its model alone, a cold start may take.
const HELLO_MS: f64 = 2.0;
const BEYOND_LOAD_MS: f64 = 1.5;

/// Milliseconds of each request, and for cold ones the phases that the node reports.
type Timed = Vec<(f64, [f64; 6])>;

/// hello, and Magika on both backends.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let peers = Peers::find()?;
    let mut rows = Vec::new();
    say("hello, cold");
    let bundle = hello(&bench.folder, "hello", "")?;
    let (warm, cold) = both(bench, "hello", &bundle, b"", &[])?;
    let over = p50(&cold) - p50(&warm);
    rows.push(Row {
        measure: format!("hello, cold ({})", split(&cold)),
        samovar: format!("{:.2} ms", p50(&cold)),
        beside: format!("warm: {:.2} ms", p50(&warm)),
        result: format!("{over:.2} ms over warm"),
        floor: format!("< {HELLO_MS} ms over warm"),
        held: Some(over < HELLO_MS),
    });
    let example = crate::repository().join("examples/magika");
    let body = std::fs::read(example.join("README.md"))?;
    for backend in Backend::ALL {
        let name = format!("magika-{}", backend.name());
        say(&format!("{name}, cold"));
        let bundle = variant(&bench.folder, &name, &example, "")?;
        let manifest = bundle.join("samovar.toml");
        let text = std::fs::read_to_string(&manifest)?;
        let line = format!("[graphs.default]\nbackend = \"{}\"", backend.name());
        std::fs::write(&manifest, text.replace("[graphs.default]", &line))?;
        let options = ["--onnxruntime", &peers.library];
        let load_before = peers.load_ms(&models::magika(), backend)?;
        let (warm, cold) = both(bench, &name, &bundle, &body, &options)?;
        let load_after = peers.load_ms(&models::magika(), backend)?;
        let load = f64::midpoint(load_before, load_after);
        let over = p50(&cold) - p50(&warm);
        rows.push(Row {
            measure: format!("magika, cold, {} ({})", backend.name(), split(&cold)),
            samovar: format!("{over:.2} ms over warm"),
            beside: format!("model loaded alone: {load:.2} ms"),
            result: format!("{:.2} ms more", over - load),
            floor: format!("< {BEYOND_LOAD_MS} ms more"),
            held: Some(over - load < BEYOND_LOAD_MS),
        });
    }
    Ok(rows)
}

/// Each on a node of its own: a warm deployment of the same bundle would hold the cold one's graphs.
fn both(
    bench: &Bench,
    name: &str,
    bundle: &Path,
    body: &[u8],
    options: &[&str],
) -> Result<(Timed, Timed)> {
    let node = Server::samovar(&bench.folder, &format!("{name}-warm-data"), options)?;
    node.push(bundle, name)?;
    let warm = latencies(&node, name, body, WARM_REQUESTS, Start::Warm)?;
    drop(node);
    let node = Server::samovar(&bench.folder, &format!("{name}-cold-data"), options)?;
    node.push(bundle, name)?;
    let cold = latencies(&node, name, body, COLD_REQUESTS, Start::Cold)?;
    Ok((warm, cold))
}

fn p50(timed: &Timed) -> f64 {
    median(timed.iter().map(|one| one.0).collect())
}

fn split(cold: &Timed) -> String {
    let phase = |at: usize| median(cold.iter().map(|one| one.1[at]).collect());
    let split: Vec<_> = (PHASES.iter().enumerate())
        .map(|(at, name)| format!("{name} {:.3}", phase(at)))
        .collect();
    split.join(", ")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Warm,
    Cold,
}

fn latencies(node: &Server, model: &str, body: &[u8], count: usize, start: Start) -> Result<Timed> {
    let mut connection = Connection::open(&node.url)?;
    let path = format!("/models/{model}/production/predict");
    let mut found = Vec::new();
    // The first ones pay for page faults and files that are not in memory yet.
    let mut index = 0;
    for attempt in 0.. {
        if index == count + 5 {
            break;
        }
        ensure!(
            attempt < 10 * (count + 5),
            "{model}: {index} requests of {attempt} found what they were to find"
        );
        if start == Start::Cold {
            node.stop_replicas(&mut connection, model)?;
        }
        let begun = Instant::now();
        let answer = connection.send("POST", &path, "application/octet-stream", body)?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        let found_warm = answer.timing.is_empty();
        if found_warm != (start == Start::Warm) {
            // The node brought a replica back by itself, for the load it has had; or the one there was had answered
            // but was not back yet.
            continue;
        }
        index += 1;
        if index <= 5 {
            continue;
        }
        found.push((took, phases(&answer.timing)));
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::phases;

    #[test]
    fn phases_are_read_by_name() {
        let seen = phases("queue;dur=0.002, graphs;dur=12.5, run;dur=0.439");
        assert_eq!(seen, [0.002, 0.0, 12.5, 0.0, 0.0, 0.439]);
        assert_eq!(phases(""), [0.0; 6]);
    }
}
