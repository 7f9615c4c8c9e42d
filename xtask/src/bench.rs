//! `cargo xtask bench`: Samovar beside what does the same without it, in one table.

mod bare;
mod bundles;
mod cold;
mod decode;
mod fairness;
mod gpu;
mod http;
mod inference;
mod latency;
mod load;
mod management;
mod memory;
mod models;
mod modes;
#[path = "../../tests/support/onnx.rs"]
#[expect(dead_code, reason = "tests use the rest of it")]
pub mod onnx;
mod servers;
mod table;
mod tiny;
mod wasmtime;
mod watch;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::{guests, process};
use table::Row;

/// The profile of what is shipped; its folder in `target` has the same name.
const PROFILE: &str = "dist";
/// Rounds of what is measured in alternation.
const ROUNDS: usize = 5;

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// hello, requests that find a replica, beside `wasmtime serve`
    Warm,
    /// hello, requests that each get an instance of their own, beside `wasmtime serve`
    Instance,
    /// Requests that find no replica
    Cold,
    /// From a component that was saved to its answer, by `samovar watch`
    Watch,
    /// What replicas and idle deployments take
    Memory,
    /// What 50 replicas take that share a graph of 100 MB
    MemoryShared,
    /// A tiny model, JSON in and out, beside LitServe
    Tiny,
    /// A tiny model in an engine of its own beside the same in the node
    Modes,
    /// Magika beside its backend alone
    Magika,
    /// PP-OCR's recogniser beside its backend alone
    OcrRec,
    /// A decode loop with a state of 50 MB beside the same loop with ONNX Runtime alone
    Decode,
    /// Latencies at 1, 16 and 256 clients
    Latency,
    /// A small model beside deployments that do their worst
    Fairness,
    /// Models on a GPU, where there is one
    Gpu,
}

/// Where bundles and data go, and for how long each load runs.
struct Bench {
    folder: PathBuf,
    seconds: u64,
}

/// Says which parts there are.
pub fn list() {
    for part in Part::value_variants() {
        if let Some(value) = part.to_possible_value() {
            let help = value.get_help().map(ToString::to_string);
            println!("{:<14} {}", value.get_name(), help.unwrap_or_default());
        }
    }
}

/// Builds everything, or takes what lies in a folder; measures and prints one table. An error if a floor is missed.
pub fn run(
    seconds: u64,
    only: &[Part],
    built: Option<PathBuf>,
    engines: Option<String>,
) -> Result<()> {
    ENGINES.get_or_init(|| engines);
    match built {
        Some(folder) => PROGRAMS.get_or_init(|| folder),
        None => {
            guests::build()?;
            build()?;
            PROGRAMS.get_or_init(|| crate::repository().join("target").join(PROFILE))
        }
    };
    let folder = crate::repository().join("target/bench");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let bench = Bench { folder, seconds };

    let mut rows: Vec<Row> = Vec::new();
    for part in Part::value_variants() {
        if !only.is_empty() && !only.contains(part) {
            continue;
        }
        let found = match part {
            Part::Warm => wasmtime::warm(&bench)?,
            Part::Instance => wasmtime::instance(&bench)?,
            Part::Cold => cold::rows(&bench)?,
            Part::Watch => watch::rows(&bench)?,
            Part::Memory => memory::rows(&bench)?,
            Part::MemoryShared => memory::shared(&bench)?,
            Part::Tiny => tiny::rows(&bench)?,
            Part::Modes => modes::rows(&bench)?,
            Part::Magika => inference::magika(&bench)?,
            Part::OcrRec => inference::recogniser(&bench)?,
            Part::Decode => decode::rows(&bench)?,
            Part::Latency => latency::rows(&bench)?,
            Part::Fairness => fairness::rows(&bench)?,
            Part::Gpu => gpu::rows(&bench)?,
        };
        for row in &found {
            say(&row.line());
        }
        rows.extend(found);
    }
    table::print(&rows);
    let missed = rows.iter().filter(|row| row.held == Some(false)).count();
    ensure!(missed == 0, "{missed} floors were missed");
    Ok(())
}

/// Builds the node, unless `SAMOVAR_BIN` names one, and the loops beside it.
fn build() -> Result<()> {
    let mut command = process::cargo();
    command.args(["build", "--profile", PROFILE, "--package", "bare"]);
    if std::env::var_os("SAMOVAR_BIN").is_none() {
        command.args(["--package", "samovar"]);
    }
    process::run(command.current_dir(crate::repository()))
}

/// Where graphs of the nodes run, if that was said.
static ENGINES: OnceLock<Option<String>> = OnceLock::new();

/// The folder of the programs that are measured.
static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();

/// Where a program that was built for the bench lies.
fn built(name: &str) -> PathBuf {
    PROGRAMS
        .get()
        .map_or_else(PathBuf::new, |folder| folder.join(name))
}

fn say(text: &str) {
    eprintln!("==> {text}");
}
