//! The Python that tests are given: its packages are what they compare with, and clients that people have.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::repository;
use crate::skip::{Need, skip};

/// A Python with packages.
pub struct Python(PathBuf);

impl Python {
    /// The one that `SAMOVAR_TEST_PYTHON` names; without it, says that a test which needs these packages is skipped.
    pub fn with(packages: &str) -> Option<Self> {
        let python = std::env::var_os("SAMOVAR_TEST_PYTHON");
        if python.is_none() {
            let reason = format!("SAMOVAR_TEST_PYTHON names no Python with {packages}");
            skip(Need::Python, &reason);
        }
        python.map(|path| Self(path.into()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a script of `tests/e2e/`, which must succeed, and gives what it prints.
    pub fn run<A: AsRef<OsStr>>(&self, script: &str, args: &[A]) -> Result<String> {
        let output = Command::new(&self.0)
            .arg(repository().join("tests/e2e").join(script))
            .args(args)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "{script} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a script that prints one JSON document.
    pub fn json<A: AsRef<OsStr>>(&self, script: &str, args: &[A]) -> Result<Value> {
        let text = self.run(script, args)?;
        serde_json::from_str(&text).with_context(|| format!("{script} printed {text}"))
    }
}

/// ONNX Runtime's library in that Python, which must have it; nothing where no Python is named.
pub fn onnxruntime() -> Result<Option<String>> {
    let Some(python) = Python::with("the package onnxruntime") else {
        return Ok(None);
    };
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).collect()
    };
    let root = python.path().parent().and_then(Path::parent);
    let lib = root
        .context("no folder above the Python's own")?
        .join("lib");
    let mut found: Vec<PathBuf> = entries(&lib)
        .iter()
        .flat_map(|version| entries(&version.join("site-packages/onnxruntime/capi")))
        .filter(|path| {
            let name = path.file_name().and_then(OsStr::to_str);
            name.is_some_and(|name| name.starts_with("libonnxruntime.so"))
        })
        .collect();
    found.sort();
    let library = found.pop();
    let library =
        library.with_context(|| format!("no libonnxruntime.so below {}", lib.display()))?;
    Ok(Some(library.to_str().context("a path")?.to_owned()))
}
