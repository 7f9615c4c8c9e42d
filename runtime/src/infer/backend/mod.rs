//! Inference backends behind one small trait.

mod discovery;
mod onnx;
mod onnxruntime;
pub mod port;
mod rten;
mod rten_refusals;
pub mod tensor;
#[cfg(test)]
pub(crate) mod testing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::infer::compute::Worker;
use onnx::ModelProto;
use port::Port;
use tensor::{Place, Tensor};

/// Which backend a graph is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendChoice {
    /// onnxruntime where there is one and it can run the graph, else rten.
    #[default]
    Auto,
    /// ONNX Runtime.
    Onnxruntime,
    /// rten, which is always there.
    Rten,
}

/// Where a graph is meant to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Target {
    /// Whatever there is.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU and nothing else.
    Gpu,
}

/// A backend, for people and programs that ask what is here.
#[derive(Clone, Debug)]
pub struct BackendInfo {
    /// `rten` or `onnxruntime`.
    pub name: &'static str,
    /// Its version; `None` while it is not there.
    pub version: Option<String>,
    /// Where it was found; `None` when it is part of this program.
    pub path: Option<PathBuf>,
    /// `cpu`, and later `gpu`.
    pub targets: Vec<&'static str>,
    /// Why it cannot be used, if it cannot, and what would help.
    pub reason: Option<String>,
}

/// Where to look for inference libraries.
#[derive(Clone, Debug, Default)]
pub struct BackendOptions {
    /// The file of ONNX Runtime's library; searched for when `None`.
    pub onnxruntime: Option<PathBuf>,
}

/// Where a model's bytes are.
pub enum Source<'a> {
    /// In a file.
    File(&'a Path),
    /// In memory, from a guest.
    Bytes(&'a [u8]),
}

/// A model that a backend has loaded. Runs of it may happen at once.
pub(crate) trait Model: Send + Sync {
    /// Runs it. `inputs` are in the order of the graph's inputs and fit them; outputs come in its order.
    fn run(&self, inputs: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, String>;

    /// Where it leaves its outputs.
    fn place(&self) -> Place {
        Place::Host
    }
}

/// Where runs of a model belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// On the calling thread, when they are known to be short.
    Anywhere,
    /// On a compute thread always, because the backend brings its own threads in.
    OnWorkers,
}

/// A loaded model with what is known of it.
pub(crate) struct Loaded {
    pub model: Box<dyn Model>,
    pub backend: &'static str,
    pub runs: Runs,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

/// Why a graph cannot be run here.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// The backends of this machine.
pub struct Backends {
    onnxruntime: Result<onnxruntime::Onnxruntime, BackendInfo>,
}

/// Every graph is read once as a whole to learn its shape; a larger file has its weights outside of it.
const MAX_MODEL_BYTES: u64 = 2 << 30;

impl Backends {
    /// Looks for the libraries.
    pub fn discover(options: BackendOptions) -> Self {
        let onnxruntime = discovery::onnxruntime(options.onnxruntime.as_deref()).and_then(|path| {
            onnxruntime::Onnxruntime::open(&path).map_err(|reason| (Some(path), reason))
        });
        Self {
            onnxruntime: onnxruntime.map_err(|(path, reason)| BackendInfo {
                name: onnxruntime::NAME,
                version: None,
                path,
                targets: Vec::new(),
                reason: Some(reason),
            }),
        }
    }

    /// Every backend, also those that cannot be used.
    pub fn info(&self) -> Vec<BackendInfo> {
        let onnxruntime = match &self.onnxruntime {
            Ok(found) => found.info(),
            Err(missing) => missing.clone(),
        };
        vec![onnxruntime, rten::info()]
    }

    pub(crate) fn load(
        &self,
        source: &Source<'_>,
        choice: BackendChoice,
        target: Target,
        threads: usize,
    ) -> Result<Loaded, LoadError> {
        if target == Target::Gpu {
            return Err(LoadError(
                "`target = \"gpu\"`: no backend of this node can use a GPU; say \"cpu\" or \"auto\"".into(),
            ));
        }
        let bytes = match source {
            Source::Bytes(bytes) => std::borrow::Cow::Borrowed(*bytes),
            Source::File(path) => std::borrow::Cow::Owned(read(path)?),
        };
        let onnx = ModelProto::parse(&bytes).map_err(LoadError)?;
        let with_rten = || rten::load(&onnx, bytes.to_vec());
        let loaded = match (choice, &self.onnxruntime) {
            (BackendChoice::Rten, _) => with_rten().map_err(|e| format!("rten: {e}")),
            (BackendChoice::Onnxruntime, Err(missing)) => Err(format!(
                "onnxruntime: {}",
                missing.reason.as_deref().unwrap_or("not found")
            )),
            (_, Ok(onnxruntime)) => {
                let loaded = onnxruntime.load(&onnx, source, threads);
                match loaded {
                    Err(first) if choice == BackendChoice::Auto => with_rten()
                        .map_err(|second| format!("onnxruntime: {first}; rten: {second}")),
                    other => other.map_err(|e| format!("onnxruntime: {e}")),
                }
            }
            (BackendChoice::Auto, Err(missing)) => with_rten().map_err(|e| {
                let why = missing.reason.as_deref().unwrap_or("not found");
                format!("rten: {e}; onnxruntime, which could perhaps run it: {why}")
            }),
        };
        loaded.map_err(LoadError)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |e: std::io::Error| LoadError(format!("cannot read {}: {e}", path.display()));
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_MODEL_BYTES {
        return Err(LoadError(format!(
            "the model is {size} bytes long, at most {MAX_MODEL_BYTES} are taken"
        )));
    }
    std::fs::read(path).map_err(failed)
}

/// Shared by those who load.
pub(crate) type SharedBackends = Arc<Backends>;
