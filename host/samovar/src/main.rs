//! The `samovar` command: `serve` and its worker processes from the server's crates, all other commands from `samovar-cli`.

// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backends;
mod compile_worker;
mod completions;
mod engine;
mod optimize_worker;
mod serve;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use samovar_cli::failure;
use samovar_cli::output::Format;
use samovar_runtime::TimeSlice;

/// A request makes some eighty small allocations, and often frees them on another thread; mimalloc is fast at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serverless platform for machine-learning models in WebAssembly sandboxes.
///
/// Commands call the server at SAMOVAR_URL with the key in SAMOVAR_API_KEY. Without these variables, they use the address and
/// key that `samovar serve` or `samovar login` saved.
#[derive(Debug, Parser)]
#[command(name = "samovar", version, propagate_version = true)]
struct Cli {
    /// Print only JSON to standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server
    Serve(serve::Arguments),
    #[command(flatten)]
    Client(samovar_cli::Command),
    /// List the server's inference backends and install ONNX Runtime
    Backends(backends::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
    /// Run graphs for a server; started by `samovar serve`
    #[command(hide = true)]
    Engine,
    /// Compile components for a server; started by `samovar serve`
    #[command(hide = true)]
    CompileWorker,
    /// Bring a model into the form that loads quickest for a server, which starts this itself
    #[command(hide = true)]
    OptimizeWorker,
}

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { samovar_runtime::backend::disable_telemetry() };
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Engine => return engine::run(),
        Command::CompileWorker => return compile_worker::run(),
        Command::OptimizeWorker => return optimize_worker::run(),
        _ => {}
    }
    let format = if cli.json { Format::Json } else { Format::Text };
    let mut builder = match &cli.command {
        Command::Serve(_) => {
            // Engines begin with it, too, so that a short run need not wait for the slice of a long one.
            samovar_runtime::set_time_slice(TimeSlice::Short);
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let result = runtime.block_on(dispatch(cli.command, format));
    // Reading a terminal cannot be cancelled, and waiting for it would keep a failed command alive.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command, format: Format) -> anyhow::Result<()> {
    match command {
        Command::Serve(arguments) => serve::run(arguments, format).await,
        Command::Client(command) => samovar_cli::run(command, format).await,
        Command::Backends(arguments) => backends::run(arguments, format).await,
        Command::Completions(arguments) => completions::run(&arguments),
        // Before there is an executor.
        Command::Engine | Command::CompileWorker | Command::OptimizeWorker => Ok(()),
    }
}

#[cfg(test)]
mod command_line_tests;
