//! ONNX Runtime, through a library found on the machine.

mod run;
mod session;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};

use ort::environment::Environment;

use super::onnx::ModelProto;
use super::tensor::Place;
use super::{BackendInfo, Loaded, Runs, Source};
use run::SharedSession;

pub(super) const NAME: &str = "onnxruntime";

/// The library, opened.
pub(super) struct Onnxruntime {
    environment: Environment,
    path: PathBuf,
    version: Option<String>,
}

impl Onnxruntime {
    /// # Errors
    /// In words, when the file is no library of a version that is understood.
    pub fn open(path: &Path) -> Result<Self, String> {
        let environment = ort::init_from(path)
            .map_err(|e| e.to_string())?
            .with_name("samovar")
            .with_telemetry(false)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self {
            environment,
            path: path.to_owned(),
            version: version(ort::info()),
        })
    }

    pub fn info(&self) -> BackendInfo {
        BackendInfo {
            name: NAME,
            version: self.version.clone(),
            path: Some(self.path.clone()),
            targets: vec!["cpu"],
            reason: None,
        }
    }

    /// # Errors
    /// In the library's words, when it cannot run the model.
    pub fn load(
        &self,
        onnx: &ModelProto,
        source: &Source<'_>,
        threads: usize,
    ) -> Result<Loaded, String> {
        let (inputs, outputs) = (onnx.inputs()?, onnx.outputs()?);
        let session =
            session::open(&self.environment, source, threads).map_err(|e| e.to_string())?;
        let shared = SharedSession::new(session, inputs.clone(), outputs.clone(), Place::Host)?;
        Ok(Loaded {
            model: Box::new(shared),
            backend: NAME,
            // With one thread a run happens entirely on the thread that calls it. Control flow nests the library's
            // calls, and a guest's stack has no room for that.
            runs: if threads == 1 && !onnx.has_inner_graphs() {
                Runs::Anywhere
            } else {
                Runs::OnWorkers
            },
            inputs,
            outputs,
        })
    }
}

/// `1.32.0` out of what the library says of its build.
fn version(info: &str) -> Option<String> {
    let start = info
        .find("git-branch=rel-")
        .map(|at| at + "git-branch=rel-".len())?;
    let rest = &info[start..];
    Some(rest[..rest.find([',', ' ']).unwrap_or(rest.len())].to_owned())
}
