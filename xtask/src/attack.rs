//! `cargo xtask attack`: a node under attack for as long as one likes, beside neighbours that must not notice.

#[path = "../../tests/support/bombs.rs"]
mod bombs;
#[path = "../../tests/support/attack/mod.rs"]
mod campaign;
#[path = "../../tests/support/dice.rs"]
mod dice;
mod node;
mod parts;
mod summary;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::bench::onnx;
use crate::{guests, process, python};
use campaign::corpus;
use campaign::neighbours::Neighbours;
use node::Node;
use parts::Attack;
use summary::Summary;

/// What is needed of Python: the models come from `onnx`, of the release that the tests have.
const PACKAGES: [&str; 2] = ["onnx==1.23.0", "onnxruntime==1.32.0"];
/// How long the neighbours are measured before the attack.
const IDLE: Duration = Duration::from_secs(5);
/// Models whose fields the script changes.
const MUTANTS: &str = "3000";

/// A part of the attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Models of the ONNX standard's own tests with inputs that they do not expect
    Inputs,
    /// Models that were changed, pushed and loaded from bytes
    Models,
    /// Engines killed at any instant while models are called
    Kills,
    /// Models that never end
    Loops,
    /// Components that take too much to compile
    Bombs,
}

/// How long, with what, and which server.
#[derive(Debug, Args)]
pub struct Options {
    /// Minutes of all parts together, by the clock
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Only these parts
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// What decides on models and inputs; by chance without it
    #[arg(long)]
    seed: Option<u64>,
    /// Folder with `samovar`, built before: nothing is built then, guests neither
    #[arg(long, value_name = "FOLDER")]
    built: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Attacks a node. An error if it broke a promise.
pub fn run(options: &Options) -> Result<()> {
    let program = match &options.built {
        Some(folder) => folder.join("samovar"),
        None => {
            guests::build()?;
            process::run(process::cargo().args(["build", "--release", "--package", "samovar"]))?;
            crate::repository().join("target/release/samovar")
        }
    };
    let python = python::with(python::TESTS, &PACKAGES)?;
    let python = python.context("the models come from a Python with the package onnx")?;
    let library = library(&python)?;
    let seed = options.seed.unwrap_or_else(by_chance);
    eprintln!("==> seed {seed}");
    let folder = crate::repository().join("target/attack");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let all = models(&python, &folder.join("models"), seed)?;
    let (mutants, cases): (Vec<_>, Vec<_>) = all.into_iter().partition(|case| case.is_mutant);
    eprintln!("==> {} models, {} changed ones", cases.len(), mutants.len());

    let node = Node::start(&program, &folder, &library)?;
    let attack = Attack::new(&node.target, &folder, cases, mutants, seed)?;
    let mut summary = Summary::begin(&node, seed)?;
    let neighbours = Neighbours::start(&node.target)?;
    std::thread::sleep(IDLE);
    // The first requests start replicas.
    neighbours.take();
    std::thread::sleep(IDLE);
    summary.idle = neighbours.end();

    let chosen = |part: &&Part| options.only.is_empty() || options.only.contains(*part);
    let parts: Vec<Part> = Part::value_variants()
        .iter()
        .filter(chosen)
        .copied()
        .collect();
    let shares: f64 = parts.iter().map(|part| part.share()).sum();
    for part in parts {
        let seconds = options.minutes * 60.0 * part.share() / shares;
        eprintln!("==> {part:?} for {seconds:.0} s");
        let ran = attack.run(part, Duration::from_secs_f64(seconds), &mut summary);
        summary.end_of_part(part, &node, ran);
        if !node.is_there() {
            break;
        }
    }
    summary.end(&node, attack.report.counts());
    match options.json {
        true => println!("{:#}", summary.json()),
        false => summary.print(),
    }
    let broken = summary.broken();
    ensure!(
        broken.is_empty(),
        "{} promises are broken, of which {} has the inputs:\n  {}",
        broken.len(),
        folder.join("attack.jsonl").display(),
        broken[..broken.len().min(20)].join("\n  ")
    );
    Ok(())
}

impl Part {
    /// Of the time of all parts.
    fn share(self) -> f64 {
        match self {
            Self::Inputs => 50.0,
            Self::Models => 25.0,
            Self::Kills => 13.0,
            Self::Loops => 2.0,
            Self::Bombs => 10.0,
        }
    }
}

/// Has the script write models into a folder.
fn models(python: &Path, folder: &Path, seed: u64) -> Result<Vec<corpus::Case>> {
    std::fs::create_dir_all(folder)?;
    let output = std::process::Command::new(python)
        .arg(crate::repository().join("tests/e2e/attack_models.py"))
        .arg(folder)
        .args([&seed.to_string(), MUTANTS])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let status = output.status;
    ensure!(status.success(), "attack_models.py ended with {status}");
    corpus::read(folder, &String::from_utf8(output.stdout)?)
}

/// ONNX Runtime's library in the Python's packages.
fn library(python: &Path) -> Result<String> {
    let code = "import glob, os, onnxruntime as o; \
                print(sorted(glob.glob(os.path.dirname(o.__file__) + '/capi/libonnxruntime.so*'))[-1])";
    let output = std::process::Command::new(python)
        .args(["-c", code])
        .output()?;
    let path = String::from_utf8(output.stdout)?.trim().to_owned();
    ensure!(
        Path::new(&path).is_file(),
        "{} has no libonnxruntime.so: {}",
        python.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(path)
}

fn by_chance() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 16
}
