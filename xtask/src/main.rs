//! Set-up, demo, test, bench: everything a script would do.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attack;
mod bench;
mod book;
mod built_in;
#[cfg(test)]
mod cycles;
mod demo;
mod deny;
mod fuzz;
mod guests;
mod process;
#[cfg(test)]
mod promises;
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
    /// Build what is needed, serve examples/magika, and classify three files with it
    Demo {
        /// Where to listen; port 0 takes a free one
        #[arg(long, default_value = "127.0.0.1:8080")]
        addr: String,
        /// Stop after the answers; exit 0 only if they were right
        #[arg(long)]
        once: bool,
    },
    /// Run every check and every test; the last line counts them
    Test {
        /// Only these parts
        #[arg(long, value_enum)]
        part: Vec<test::Part>,
    },
    /// Measure Samovar against comparable programs and print one table; needs wrk
    Bench {
        /// Seconds of each run of the load generator
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Only these parts
        #[arg(long, value_enum)]
        only: Vec<bench::Part>,
        /// Folder that already holds `samovar` and `bare`; without it both are built, and the guests
        #[arg(long, value_name = "FOLDER")]
        built: Option<PathBuf>,
        /// Value of `samovar serve --engines` for the measured servers; their default without it
        #[arg(long, value_name = "WHERE")]
        engines: Option<String>,
        /// List the parts and measure nothing
        #[arg(long)]
        list: bool,
    },
    /// Build the WebAssembly components of the examples and the tests
    Guests,
    /// Rebuild the component inside `samovar` if its sources have changed
    BuiltIn,
    /// Run the fuzz targets for some minutes
    Fuzz {
        /// Minutes that all targets take together
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Only these targets
        #[arg(long, value_name = "TARGET")]
        only: Vec<String>,
    },
    /// Attack a server for some minutes; fails if other models notice
    Attack(attack::Options),
    /// Regenerate the Rust types of the ONNX schema, if the schema has changed
    OnnxSchema,
    /// Check the book in docs/, and build it with mdbook
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

fn repository() -> &'static Path {
    static REPOSITORY: LazyLock<PathBuf> = LazyLock::new(|| {
        // Asked when it runs: clones that share a target folder share this program too.
        let here = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        here.parent().map_or(here.clone(), Path::to_path_buf)
    });
    &REPOSITORY
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn without_a_verb_all_are_listed_with_one_line_each() {
        let error = Cli::try_parse_from(["cargo xtask"]).unwrap_err();
        let told = error.to_string();
        for verb in Cli::command().get_subcommands() {
            let about = verb
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                (10..=80).contains(&about.len()) && !about.contains('\n'),
                "{}: {about:?}",
                verb.get_name()
            );
            let line = told
                .lines()
                .find(|line| line.split_whitespace().next() == Some(verb.get_name()));
            assert!(
                line.is_some_and(|line| line.ends_with(&about)),
                "{} in {told}",
                verb.get_name()
            );
        }
    }
}
