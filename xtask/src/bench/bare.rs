//! The backends without a server: the program of `tests/bare`, and the library that it and the nodes share.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::python;

/// LitServe and ONNX Runtime, of versions that figures can be compared by.
const PACKAGES: [&str; 2] = ["litserve", "onnxruntime"];

/// A backend that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Onnxruntime,
    Rten,
}

impl Backend {
    pub const ALL: [Self; 2] = [Self::Onnxruntime, Self::Rten];

    /// As manifests have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Onnxruntime => "onnxruntime",
            Self::Rten => "rten",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Gpu,
}

impl Device {
    /// As manifests have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

/// What a bare loop counted.
pub struct Loop {
    /// Rows of all batches per second.
    pub rows_per_second: f64,
    /// Processor time of a run.
    pub processor_ms: f64,
}

/// A Python with LitServe, and the library of its ONNX Runtime.
#[derive(Clone)]
pub struct Peers {
    pub python: PathBuf,
    /// `libonnxruntime.so`, as a path that arguments take.
    pub library: String,
}

impl Peers {
    /// Installs what is missing.
    pub fn find() -> Result<Self> {
        let python = python::with(python::BENCH, &PACKAGES)?
            .context("this part compares with Python packages: install python3")?;
        let code = "import onnxruntime, pathlib; print(pathlib.Path(onnxruntime.__file__).parent / 'capi')";
        let output = Command::new(&python).args(["-c", code]).output()?;
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let library = std::fs::read_dir(&folder)
            .with_context(|| format!("no folder {}", folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("libonnxruntime.so") || name.starts_with("libonnxruntime.dylib")
            })
            .with_context(|| format!("no libonnxruntime in {}", folder.display()))?;
        Ok(Self {
            python,
            library: library.to_string_lossy().into_owned(),
        })
    }

    /// The library of an ONNX Runtime that somebody has installed, and nothing to run Python with.
    pub fn with_library(library: String) -> Self {
        Self {
            python: PathBuf::new(),
            library,
        }
    }

    /// A loop on a card, of one run after the other; its rows per second.
    pub fn on_card(&self, model: &Path, input: &str, seconds: u64) -> Result<f64> {
        let mut command = self.command("card", model);
        command.args(["--backend", "onnxruntime", "--input", input]);
        command.args(["--seconds", &seconds.to_string()]);
        number(&told(command)?, "rows_per_second")
    }

    /// A loop on all cores, each with a random input of its own.
    pub fn run(
        &self,
        model: &Path,
        backend: Backend,
        input: &str,
        batch: u32,
        seconds: u64,
    ) -> Result<Loop> {
        let mut command = self.command("run", model);
        command.args(["--backend", backend.name(), "--input", input]);
        command.args(["--batch", &batch.to_string()]);
        command.args(["--parallel", &cores().to_string()]);
        command.args(["--seconds", &seconds.to_string()]);
        let found = told(command)?;
        Ok(Loop {
            rows_per_second: number(&found, "rows_per_second")?,
            processor_ms: number(&found, "processor_ms")?,
        })
    }

    /// Milliseconds to load the model.
    pub fn load_ms(&self, model: &Path, backend: Backend) -> Result<f64> {
        let mut command = self.command("load", model);
        command.args(["--backend", backend.name()]);
        number(&told(command)?, "p50_ms")
    }

    /// Milliseconds of a step of a decode loop, from the one number of steps to the other.
    pub fn step_ms(
        &self,
        model: &Path,
        elements: usize,
        steps: [usize; 2],
        device: Device,
    ) -> Result<f64> {
        let mut command = self.command("decode", model);
        command.args(["--elements", &elements.to_string()]);
        command.args(["--device", device.name()]);
        command.args(["--skip", &steps[0].to_string()]);
        command.args(["--steps", &steps[1].to_string()]);
        number(&told(command)?, "step_ms")
    }

    fn command(&self, action: &str, model: &Path) -> Command {
        let mut command = Command::new(super::built("bare"));
        command.args([action, "--library", &self.library, "--model"]);
        command.arg(model);
        command
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What the program printed.
fn told(mut command: Command) -> Result<Value> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(found: &Value, name: &str) -> Result<f64> {
    found[name]
        .as_f64()
        .with_context(|| format!("no {name} in {found}"))
}
