//! A Python with the packages that tests compare against, in a virtual environment under `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// The interpreter of an environment that has these packages; `None` where there is no Python 3.
///
/// # Errors
/// When Python is there but the packages cannot be installed.
pub fn with(packages: &[&str]) -> Result<Option<PathBuf>> {
    let found = Command::new("python3").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("python3 is missing: tests that compare with Python packages are skipped");
        return Ok(None);
    }
    let folder = crate::repository().join("target/python");
    let python = folder.join("bin/python");
    if !python.exists() {
        eprintln!("==> python environment");
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let missing: Vec<_> = packages.iter().filter(|name| !has(&python, name)).collect();
    if !missing.is_empty() {
        eprintln!("==> pip install {missing:?}");
        run(Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(missing))?;
    }
    Ok(Some(python))
}

fn has(python: &Path, package: &str) -> bool {
    let code = format!("import importlib.metadata as m; m.version({package:?})");
    Command::new(python)
        .args(["-c", &code])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}
