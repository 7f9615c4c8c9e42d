//! `cargo xtask fuzz`: builds the fuzz targets, and runs as many at a time as there are cores.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// The longest that one input may take.
const TIMEOUT_SECONDS: u32 = 20;
/// The most memory that a target may take.
const MEMORY_MIB: u32 = 2048;
/// What is shown of the output of a target that failed.
const SHOWN_BYTES: usize = 8 << 10;

/// How long targets run.
#[derive(Clone, Copy)]
pub enum Time {
    /// All of them together, by the clock.
    Minutes(f64),
    SecondsEach(u64),
}

/// How many targets did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// No input made them fail.
    pub passed: u64,
    /// The inputs that made them fail are in fuzz/regressions.
    pub failed: u64,
}

/// Runs the targets of these names, or all of them, and says which fail.
pub fn run(minutes: f64, only: &[String]) -> Result<()> {
    let counts = run_targets(Time::Minutes(minutes), only)?;
    ensure!(
        counts.failed == 0,
        "{} of {} targets failed; what made them fail is in fuzz/regressions",
        counts.failed,
        counts.failed + counts.passed
    );
    Ok(())
}

/// Runs the targets of these names, or all of them, and counts those that fail.
pub fn run_targets(time: Time, only: &[String]) -> Result<Counts> {
    let folder = crate::repository().join("fuzz");
    let all = targets(&folder)?;
    for name in only {
        ensure!(
            all.contains(name),
            "no target `{name}`; there are {}",
            all.join(", ")
        );
    }
    let chosen: Vec<String> = all
        .into_iter()
        .filter(|name| only.is_empty() || only.contains(name))
        .collect();
    build(&folder, &chosen)?;
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let seconds = match time {
        Time::Minutes(minutes) => share_seconds(minutes, chosen.len(), at_once),
        Time::SecondsEach(seconds) => seconds,
    };
    eprintln!(
        "==> {} fuzz targets for {seconds} s each, {at_once} at a time",
        chosen.len()
    );
    let waiting = Mutex::new(VecDeque::from(chosen));
    let counts = Mutex::new(Counts::default());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                // The queue and the counts are whole after each of these lines.
                let next = || {
                    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.pop_front()
                };
                while let Some(name) = next() {
                    let result = fuzz(&folder, &name, seconds);
                    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(runs) => {
                            counts.passed += 1;
                            println!("fuzz {name}: {runs} inputs in {seconds} s");
                        }
                        Err(error) => {
                            counts.failed += 1;
                            println!("fuzz {name}: FAILED: {error:#}");
                        }
                    }
                }
            });
        }
    });
    Ok(counts.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The targets, by their files.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let files = folder.join("fuzz_targets");
    let entries = std::fs::read_dir(&files)
        .with_context(|| format!("cannot read {}", files.display()))?
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let file = entry.file_name();
            Some(file.to_str()?.strip_suffix(".rs")?.to_owned())
        })
        .collect();
    names.sort();
    Ok(names)
}

fn build(folder: &Path, targets: &[String]) -> Result<()> {
    let mut command = process::cargo();
    command
        .arg("build")
        .arg("--manifest-path")
        .arg(folder.join("Cargo.toml"))
        // Dependencies that were built already are found there.
        .env("CARGO_TARGET_DIR", crate::repository().join("target"))
        .env("RUSTC_WRAPPER", folder.join("instrument"));
    for target in targets {
        command.args(["--bin", target]);
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "the targets do not build ({status})");
    Ok(())
}

/// Seconds for each of so many targets, of which some run at once.
fn share_seconds(minutes: f64, targets: usize, at_once: usize) -> u64 {
    // The last ones may be fewer than run at once.
    let turns = targets.div_ceil(at_once.max(1));
    let seconds = minutes * 60.0 / turns.max(1) as f64;
    (seconds as u64).max(1)
}

/// Runs one target: on what failed before, then on new inputs, whose number it says.
fn fuzz(folder: &Path, name: &str, seconds: u64) -> Result<u64> {
    let regressions = made(folder.join("regressions").join(name))?;
    let seeds = made(folder.join("seeds").join(name))?;
    let corpus = made(crate::repository().join("target/fuzz").join(name))?;
    let log = corpus.with_extension("log");
    let program = crate::repository().join("target/debug").join(name);
    let limited = || {
        let mut command = Command::new(&program);
        command
            .arg(format!("-timeout={TIMEOUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}/", regressions.display()));
        command
    };
    let mut before = limited();
    before.arg("-runs=0").arg(&regressions);
    output(before, &log).context("an input fails that failed before")?;
    let mut new = limited();
    new.arg(format!("-max_total_time={seconds}"))
        .arg("-print_final_stats=1")
        .args([&corpus, &seeds, &regressions]);
    let text = output(new, &log).context("an input fails")?;
    count_of_runs(&text).context("the target does not say how many inputs it ran")
}

/// What a target prints. When it fails, the end of it is shown.
fn output(mut command: Command, log: &Path) -> Result<String> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    let bytes = std::fs::read(log)?;
    if !status.success() {
        let end = bytes.len().saturating_sub(SHOWN_BYTES);
        eprintln!("{}", String::from_utf8_lossy(&bytes[end..]));
        bail!("{status}; all of its output is in {}", log.display());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads `stat::number_of_executed_units: 123`.
fn count_of_runs(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("stat::number_of_executed_units:"));
    line?.trim().parse().ok()
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_shared() {
        assert_eq!(share_seconds(1.0, 3, 1), 20);
        assert_eq!(share_seconds(1.0, 3, 2), 30);
        assert_eq!(share_seconds(0.0, 3, 2), 1);
    }

    #[test]
    fn runs_are_counted() {
        let text =
            "#8 DONE\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     617\n";
        assert_eq!(count_of_runs(text), Some(1234));
        assert_eq!(count_of_runs("Done 1234 runs"), None);
    }

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let folder = crate::repository().join("fuzz");
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let names = targets(&folder).unwrap();
        assert!(!names.is_empty());
        for name in names {
            assert!(
                manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
                "fuzz/Cargo.toml has no [[bin]] for {name}"
            );
            let seeds = std::fs::read_dir(folder.join("seeds").join(&name)).unwrap();
            assert!(seeds.count() > 0, "fuzz/seeds/{name} is empty");
        }
    }
}
