//! `cargo xtask fuzz`: builds the fuzz targets and runs each for its share of the time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// The longest that one input may take.
const TIMEOUT_SECONDS: u32 = 20;
/// The most memory that a target may take.
const MEMORY_MIB: u32 = 2048;

/// Runs the targets of these names, or all of them, for so many minutes together.
pub fn run(minutes: f64, only: &[String]) -> Result<()> {
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
    let seconds = share_seconds(minutes, chosen.len());
    let mut failed = Vec::new();
    for name in &chosen {
        if let Err(error) = fuzz(&folder, name, seconds) {
            eprintln!("{name}: {error:#}");
            failed.push(name.as_str());
        }
    }
    ensure!(
        failed.is_empty(),
        "{} failed; what made them fail is in fuzz/regressions",
        failed.join(", ")
    );
    println!("{} targets ran for {seconds} s each", chosen.len());
    Ok(())
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

/// Seconds for each of so many targets.
fn share_seconds(minutes: f64, targets: usize) -> u64 {
    let seconds = minutes * 60.0 / targets.max(1) as f64;
    (seconds as u64).max(1)
}

fn fuzz(folder: &Path, name: &str, seconds: u64) -> Result<()> {
    let regressions = made(folder.join("regressions").join(name))?;
    let seeds = made(folder.join("seeds").join(name))?;
    let corpus = made(crate::repository().join("target/fuzz").join(name))?;
    let program = crate::repository().join("target/debug").join(name);
    eprintln!("==> {name}: what failed before");
    let status = Command::new(&program)
        .args(limits(&regressions))
        .arg("-runs=0")
        .arg(&regressions)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(status.success(), "an input fails that failed before");
    eprintln!("==> {name}: {seconds} s");
    let status = Command::new(&program)
        .args(limits(&regressions))
        .arg(format!("-max_total_time={seconds}"))
        .arg("-print_final_stats=1")
        .args([&corpus, &seeds, &regressions])
        .status()?;
    ensure!(status.success(), "an input fails");
    Ok(())
}

fn limits(regressions: &Path) -> [String; 3] {
    [
        format!("-timeout={TIMEOUT_SECONDS}"),
        format!("-rss_limit_mb={MEMORY_MIB}"),
        format!("-artifact_prefix={}/", regressions.display()),
    ]
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
        assert_eq!(share_seconds(1.0, 3), 20);
        assert_eq!(share_seconds(0.0, 3), 1);
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
