//! `cargo xtask test`: every check and every test, ending with one line of the counts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::fuzz::{self, Time};
use crate::{deny, guests, process, python};

/// What tests compare with, are driven by, or are walked by.
const PACKAGES: [&str; 12] = [
    "magika",
    // Of one release, because a newer one brings other cases, or gets others right.
    "onnx==1.23.0",
    "onnxruntime==1.32.0",
    "rapidocr-onnxruntime",
    "tokenizers",
    "espeakng-loader",
    "openai",
    "baseten",
    "schemathesis",
    "openapi-spec-validator",
    // `tritonclient[http]`, without what its asynchronous client alone needs.
    "tritonclient",
    "geventhttpclient",
];

/// Which part of the tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Format, clippy and dependencies.
    Lint,
    /// Unit, documentation and end-to-end tests.
    Test,
    /// The fuzz targets, each for 20 s.
    Fuzz,
}

/// How long each fuzz target runs.
const FUZZ_SECONDS: u64 = 20;

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// The file that skipped tests write themselves into: `tests/support/skip.rs`.
const SKIPS: &str = "SAMOVAR_TEST_SKIPS";

/// Runs the parts asked for, or all of them.
pub fn run(parts: &[Part]) -> Result<()> {
    let wants = |part| parts.is_empty() || parts.contains(&part);
    let mut counts = Counts::default();
    if wants(Part::Lint) {
        step("format", cargo(&["fmt", "--all", "--check"]))?;
        step(
            "clippy",
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
        )?;
        eprintln!("==> dependencies");
        deny::run()?;
    }
    if wants(Part::Test) {
        guests::build()?;
        // Always the whole workspace with its tests: another selection would have other features, and build the
        // dependencies anew.
        step("build", cargo(&["build", "--workspace", "--all-targets"]))?;
        let skips = crate::repository().join("target/skipped-tests");
        std::fs::create_dir_all(crate::repository().join("target"))?;
        std::fs::write(&skips, "")?;
        let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
        command.env(SKIPS, &skips);
        if let Some(python) = python::with(python::TESTS, &PACKAGES)? {
            command.env("SAMOVAR_TEST_PYTHON", python);
        }
        counts.add(count(command)?);
        let skipped = read_skips(&std::fs::read_to_string(&skips)?);
        for (test, why) in &skipped {
            println!("skipped: {test}: {why}");
        }
        counts.move_to_skipped(skipped.len());
        // Of the examples the libraries alone: as components they link to nothing that is here.
        let mut examples = cargo(&["test", "--workspace", "--lib", "--no-fail-fast"]);
        let workspace = crate::repository().join("examples/Cargo.toml");
        examples.arg("--manifest-path").arg(workspace);
        examples.env(
            "CARGO_TARGET_DIR",
            crate::repository().join("target/examples"),
        );
        counts.add(count(examples)?);
    }
    if wants(Part::Fuzz) {
        let fuzz::Counts { passed, failed } =
            fuzz::run_targets(Time::SecondsEach(FUZZ_SECONDS), &[])?;
        counts.add(Counts {
            passed,
            failed,
            skipped: 0,
        });
    }
    println!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    );
    ensure!(counts.failed == 0, "{} tests failed", counts.failed);
    Ok(())
}

impl Counts {
    /// Tests that skip themselves count as passed where they run.
    fn move_to_skipped(&mut self, tests: usize) {
        let tests = tests as u64;
        self.passed = self.passed.saturating_sub(tests);
        self.skipped += tests;
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = process::cargo();
    command.args(args).current_dir(crate::repository());
    command
}

fn step(name: &str, mut command: Command) -> Result<()> {
    eprintln!("==> {name}");
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{name} failed ({status})");
    Ok(())
}

/// Runs a test command, shows what it prints, and adds up its result lines.
fn count(mut command: Command) -> Result<Counts> {
    eprintln!("==> {command:?}");
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(found) = parse(&line) {
            counts.add(found);
        }
    }
    let status = child.wait()?;
    ensure!(
        status.success() || counts.failed > 0,
        "the tests ended with {status} without a failed test: did they build?"
    );
    Ok(counts)
}

/// The tests that were skipped, whole or in part, each with why. One that says so more than once counts once.
fn read_skips(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, '\t');
        let (need, test, reason) = (parts.next()?, parts.next()?, parts.next()?);
        Some((test.to_owned(), format!("needs {need}: {reason}")))
    });
    lines.collect()
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn parse(line: &str) -> Option<Counts> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let number = |what: &str| {
        rest.split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_counted_once_each_and_not_as_passed() {
        let text =
            "Python\ta::b\tno Python\nCard\tc\tno card\nPython\ta::b\tno Python\nbroken line\n";
        let skipped = read_skips(text);
        assert_eq!(skipped.len(), 2);
        assert_eq!(skipped["c"], "needs Card: no card");
        let mut counts = Counts {
            passed: 10,
            failed: 1,
            skipped: 1,
        };
        counts.move_to_skipped(skipped.len());
        assert_eq!((counts.passed, counts.failed, counts.skipped), (8, 1, 3));
    }

    #[test]
    fn result_lines_are_read() {
        let counts = parse("test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s").unwrap();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (3, 2, 1));
        assert!(parse("test something ... ok").is_none());
    }
}
