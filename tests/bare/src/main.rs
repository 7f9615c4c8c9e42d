//! The backends without a server around them: what `cargo xtask bench` measures Samovar against.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod card;
mod decode;
mod input;
mod measure;
mod onnxruntime;
mod rten_loop;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;

use card::{Layout, Search};
use input::Spec;
use measure::Runs;

/// Runs a model in a loop, and prints what it took as JSON.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Which {
    /// The model
    #[arg(long)]
    model: PathBuf,
    #[arg(long, value_enum)]
    backend: Backend,
    /// The ONNX Runtime library
    #[arg(long)]
    library: Option<PathBuf>,
    /// Threads of one run
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backend {
    Onnxruntime,
    Rten,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run on random inputs, on several threads at once
    Run {
        #[command(flatten)]
        which: Which,
        /// Threads that each run the model
        #[arg(long, default_value_t = 1)]
        parallel: usize,
        /// How long, after a warm-up of a fifth of it
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// An input in the model's order, as f32:1x3x48x320
        #[arg(long, required = true)]
        input: Vec<Spec>,
        /// The first dimension of each input, instead of the one given
        #[arg(long)]
        batch: Option<usize>,
    },
    /// Load the model again and again
    Load {
        #[command(flatten)]
        which: Which,
        /// How often
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// Run steps in a row with ONNX Runtime, each of which takes the state that the one before gave
    Decode {
        /// A model with the inputs token and state, and the outputs token and state
        #[arg(long)]
        model: PathBuf,
        /// The ONNX Runtime library
        #[arg(long)]
        library: PathBuf,
        /// Elements of the state
        #[arg(long)]
        elements: usize,
        /// How many steps
        #[arg(long, default_value_t = 45)]
        steps: usize,
        /// Of them the first, which do not count
        #[arg(long, default_value_t = 5)]
        skip: usize,
        /// Where
        #[arg(long, value_enum, default_value_t = Device::Cpu)]
        device: Device,
    },
    /// Run with ONNX Runtime on a card, one run after the other, inputs and outputs bound
    Card {
        #[command(flatten)]
        which: Which,
        /// How long, after a warm-up of a fifth of it
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// An input in the model's order, as f16:1x3x224x224
        #[arg(long, required = true)]
        input: Vec<Spec>,
        /// How algorithms for convolutions are chosen
        #[arg(long, value_enum, default_value_t = Search::Heuristic)]
        search: Search,
        /// In which order images lie on the card
        #[arg(long, value_enum, default_value_t = Layout::Nchw)]
        layout: Layout,
    },
}

/// Where a loop runs.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
    Gpu,
}

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    match run(Cli::parse().command) {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<serde_json::Value> {
    match command {
        Command::Run {
            which,
            parallel,
            seconds,
            input,
            batch,
        } => {
            let inputs: Vec<Spec> = input
                .into_iter()
                .map(|spec| match batch {
                    Some(size) => spec.with_batch(size),
                    None => spec,
                })
                .collect();
            let duration = Duration::from_secs(seconds);
            let runs = match which.backend {
                Backend::Onnxruntime => onnxruntime::run(&which, &inputs, parallel, duration)?,
                Backend::Rten => rten_loop::run(&which, &inputs, parallel, duration)?,
            };
            Ok(told(&runs, &inputs))
        }
        Command::Card {
            which,
            seconds,
            input,
            search,
            layout,
        } => {
            let duration = Duration::from_secs(seconds);
            let runs = card::run(&which, &input, duration, search, layout)?;
            Ok(told(&runs, &input))
        }
        Command::Load { which, times } => {
            let took = match which.backend {
                Backend::Onnxruntime => onnxruntime::load(&which, times)?,
                Backend::Rten => rten_loop::load(&which, times)?,
            };
            Ok(json!({ "p50_ms": measure::median_ms(took) }))
        }
        Command::Decode {
            model,
            library,
            elements,
            steps,
            skip,
            device,
        } => {
            let took = match device {
                Device::Cpu => decode::steps(&model, &library, elements, steps)?,
                Device::Gpu => card::decode(&model, &library, elements, steps)?,
            };
            let counted = took.get(skip..).unwrap_or_default();
            let all: Duration = counted.iter().sum();
            Ok(json!({ "step_ms": all.as_secs_f64() * 1e3 / counted.len() as f64 }))
        }
    }
}

fn told(runs: &Runs, inputs: &[Spec]) -> serde_json::Value {
    let rows = inputs.first().map_or(1, Spec::rows);
    json!({
        "runs_per_second": runs.per_second(),
        "rows_per_second": runs.per_second() * rows as f64,
        "p50_ms": runs.p50_ms(),
        "processor_ms": runs.processor_ms(),
    })
}
