//! Set-up, demo, test, bench: everything a script would do.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attack;
mod bench;
mod book;
mod built_in;
mod demo;
mod deny;
mod fuzz;
mod guests;
mod process;
mod python;
mod test;
mod tidy;
mod toolchain;
#[cfg(test)]
mod walls;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};

/// Everything that is done in this repository besides `cargo build`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build what is needed, serve examples/magika and ask it about three files
    Demo {
        /// Where to listen; port 0 takes a free one
        #[arg(long, default_value = "127.0.0.1:8080")]
        addr: String,
        /// Stop after the answers; exit 0 only if they were right
        #[arg(long)]
        once: bool,
    },
    /// Run every check and every test, ending with one line of the counts
    Test {
        /// Only these parts
        #[arg(long, value_enum)]
        part: Vec<test::Part>,
    },
    /// Measure Samovar beside what does the same without it; needs wrk
    Bench {
        /// Seconds of each run of the load generator
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Only these parts
        #[arg(long, value_enum)]
        only: Vec<bench::Part>,
        /// Folder with `samovar` and `bare`, built before: nothing is built then, guests neither
        #[arg(long, value_name = "FOLDER")]
        built: Option<PathBuf>,
        /// Where graphs of the nodes run, as `samovar serve --engines` takes it; as it does by itself without it
        #[arg(long, value_name = "WHERE")]
        engines: Option<String>,
        /// Say which parts there are, and measure nothing
        #[arg(long)]
        list: bool,
    },
    /// Build the guests: examples and those that tests use
    Guests,
    /// Build the component that `samovar` holds, from examples/open-inference into host/bundle/assets, when that has changed
    BuiltIn,
    /// Run the fuzz targets
    Fuzz {
        /// Minutes of all targets together, by the clock
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Only these targets
        #[arg(long, value_name = "TARGET")]
        only: Vec<String>,
    },
    /// Attack a node for a time, beside models that must not notice
    Attack(attack::Options),
    /// Generate the Rust form of the ONNX schema, when that has changed
    OnnxSchema,
    /// Check the book in docs/ and build it; needs mdbook
    Book,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo { addr, once } => {
            let after = if once {
                demo::After::Stop
            } else {
                demo::After::Serve
            };
            demo::run(&addr, after)
        }
        Command::Test { part } => test::run(&part),
        Command::Bench { list: true, .. } => {
            bench::list();
            Ok(())
        }
        Command::Bench {
            seconds,
            only,
            built,
            engines,
            ..
        } => bench::run(seconds, &only, built, engines),
        Command::Guests => guests::build(),
        Command::BuiltIn => built_in::build(),
        Command::Fuzz { minutes, only } => fuzz::run(minutes, &only),
        Command::Attack(options) => attack::run(&options),
        Command::OnnxSchema => onnx_schema(),
        Command::Book => book::build(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Generates in a workspace of its own, whose dependencies nothing else needs.
fn onnx_schema() -> anyhow::Result<()> {
    let folder = repository().join("tools/onnx-schema");
    process::run(
        process::cargo()
            .args(["run", "--quiet", "--manifest-path"])
            .arg(folder.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", repository().join("target/tools")),
    )
}

/// The repository's folder.
fn repository() -> &'static Path {
    static REPOSITORY: LazyLock<PathBuf> = LazyLock::new(|| {
        // Asked when it runs: clones that share a target folder share this program too.
        let here = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        here.parent().map_or(here.clone(), Path::to_path_buf)
    });
    &REPOSITORY
}
