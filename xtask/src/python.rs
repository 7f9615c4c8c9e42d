//! A Python with the packages that tests and the bench compare against, in virtual environments under `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::run;

/// The environment of the tests.
pub const TESTS: &str = "python";
/// The environment of the bench, which other packages must not slow down.
pub const BENCH: &str = "python-bench";

/// The interpreter of an environment that has these packages; `None` where there is no Python 3.
///
/// # Errors
/// When Python is there but the packages cannot be installed.
pub fn with(environment: &str, packages: &[&str]) -> Result<Option<PathBuf>> {
    let found = Command::new("python3").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("python3 is missing: what compares with Python packages is skipped");
        return Ok(None);
    }
    let folder = crate::repository().join("target").join(environment);
    let python = folder.join("bin/python");
    if !python.exists() {
        eprintln!("==> python environment");
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    install(&python, &[], packages)?;
    Ok(Some(python))
}

/// An interpreter that has these packages: the machine's own if it has them, else that of the bench.
///
/// # Errors
/// When Python is there but the packages cannot be installed.
pub fn having(packages: &[&str]) -> Result<Option<PathBuf>> {
    let own = Path::new("python3");
    if packages.iter().all(|name| has(own, name)) {
        return Ok(Some(own.to_owned()));
    }
    with(BENCH, packages)
}

/// Adds packages without those that they depend on: such as only carry a model or a library, and would bring gigabytes.
///
/// # Errors
/// When they cannot be installed.
pub fn add_alone(python: &Path, packages: &[&str]) -> Result<()> {
    install(python, &["--no-deps"], packages)
}

fn install(python: &Path, options: &[&str], packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|name| !has(python, name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("==> pip install {missing:?}");
    run(Command::new(python)
        .args(["-m", "pip", "install", "--quiet"])
        .arg("--disable-pip-version-check")
        .args(options)
        .args(missing))
}

/// Whether a package is there, of the version that is asked for as `name==version`.
fn has(python: &Path, package: &str) -> bool {
    let (name, version) = package.split_once("==").unwrap_or((package, ""));
    let code = format!(
        "import importlib.metadata as m; assert m.version({name:?}) == ({version:?} or m.version({name:?}))"
    );
    Command::new(python)
        .args(["-c", &code])
        .output()
        .is_ok_and(|output| output.status.success())
}
