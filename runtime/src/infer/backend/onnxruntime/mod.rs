//! ONNX Runtime, through a library found on the machine.

mod gpu;
mod library;
mod optimized;
mod run;
mod session;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use samovar_onnx::fixed_cost::has_fixed_cost;
use samovar_onnx::folding::Folding;
use samovar_onnx::{ModelProto, mixing};

use super::devices::{Card, Driver};
use super::keep::KeptForms;
use super::tensor::Place;
use super::{BackendInfo, Device, Loaded, Model, Runs, Source, Wanted};
use crate::infer::backend::model_dir::ModelDir;
pub(super) use gpu::CpuFallback;
use gpu::GpuModels;
pub use library::disable_telemetry;
use optimized::Optimized;
use run::SharedSession;

pub(super) const NAME: &str = "onnxruntime";
/// Ending of the files of optimized models.
pub(super) const FORM_ENDING: &str = optimized::ENDING;
/// Of so many models it is remembered that they run on a card.
const MAX_PROVEN: u64 = 10_000;

/// The library, opened.
pub(super) struct Onnxruntime {
    environment: Environment,
    path: PathBuf,
    version: Option<String>,
    optimized: Option<Optimized>,
    gpu_models: Arc<GpuModels>,
    /// Digests of models that need nothing of the CPU but shapes, which takes two loads more to find out.
    proven: moka::sync::Cache<String, ()>,
    /// Why it can use no card; looked for when somebody wants to know.
    no_cuda: OnceLock<Option<String>>,
}

impl Onnxruntime {
    /// # Errors
    /// In words, when the file is no library of a version that is understood.
    pub fn open(
        path: &Path,
        optimized: Option<(&Path, KeptForms)>,
        driver: Arc<Driver>,
        gpu_memory_bytes: Option<u64>,
    ) -> Result<Self, String> {
        let environment = open_library(path)?;
        let optimized = optimized.and_then(|(folder, forms)| {
            let opened = Optimized::open(folder, ort::info(), forms);
            let failed = |error: &std::io::Error| {
                tracing::warn!(folder = %folder.display(), %error, "optimized models are not kept");
            };
            opened.inspect_err(failed).ok()
        });
        Ok(Self {
            environment,
            path: path.to_owned(),
            version: version(ort::info()).or_else(|| version_in_name(path)),
            optimized,
            gpu_models: GpuModels::new(driver, gpu_memory_bytes),
            proven: moka::sync::Cache::new(MAX_PROVEN),
            no_cuda: OnceLock::new(),
        })
    }

    /// What it is; `on_card` says whether the machine has a card that it can use.
    pub fn info(&self, on_card: bool) -> BackendInfo {
        BackendInfo {
            name: NAME,
            version: self.version.clone(),
            path: Some(self.path.clone()),
            targets: match on_card {
                true => vec!["cpu", "gpu"],
                false => vec!["cpu"],
            },
            reason: None,
        }
    }

    /// Why it can use no card, if it cannot. The first answer takes as long as loading CUDA does.
    pub fn no_cuda(&self) -> Option<&str> {
        let why =
            || gpu::session::find_obstacle(&self.environment, self.version.as_deref(), &self.path);
        self.no_cuda.get_or_init(why).as_deref()
    }

    /// The name of the folder that optimized models lie in, if any are kept.
    pub fn kept_forms(&self) -> Option<&str> {
        self.optimized.as_ref().map(Optimized::folder)
    }

    /// Bytes of a card that graphs take.
    pub fn used_bytes(&self, card: u32) -> u64 {
        self.gpu_models.used_bytes(card)
    }

    /// Forgets what is kept of a model.
    pub fn forget(&self, digest: &str) {
        if let Some(optimized) = &self.optimized {
            optimized.remove(digest);
        }
    }

    /// Loads a model on one of these cards.
    ///
    /// # Errors
    /// When it does not fit, or in the library's words, when it cannot run there.
    pub fn load_on_card(
        &self,
        onnx: &ModelProto,
        path: &Path,
        laid: Option<Arc<ModelDir>>,
        wanted: Wanted<'_>,
        cards: &[Card],
        fallback: CpuFallback,
    ) -> Result<Loaded, String> {
        let (inputs, outputs) = (onnx.inputs()?, onnx.outputs()?);
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let data: u64 = wanted.data.iter().map(|file| size(&file.path)).sum();
        let bytes = size(path) + data;
        let (threads, folding) = (wanted.threads, wanted.folding);
        let (environment, path) = (self.environment.clone(), path.to_owned());
        let ports = (inputs.clone(), outputs.clone());
        let (proven, digest) = (self.proven.clone(), wanted.digest.map(str::to_owned));
        let is_proven = digest.as_ref().is_some_and(|one| proven.contains_key(one));
        let known = AtomicBool::new(is_proven);
        let load = move |card, limit_bytes| {
            // It is loaded from these files again after others took its room.
            let _stays = &laid;
            let fallback = match known.load(Ordering::Relaxed) {
                true => CpuFallback::Allowed,
                false => fallback,
            };
            let opened = gpu::session::open(
                &environment,
                &path,
                (threads, folding),
                card,
                limit_bytes,
                fallback,
            );
            let session = opened.map_err(|e| e.to_string())?;
            if fallback == CpuFallback::Refused {
                known.store(true, Ordering::Relaxed);
                if let Some(digest) = &digest {
                    proven.insert(digest.clone(), ());
                }
            }
            let (inputs, outputs) = ports.clone();
            let shared =
                SharedSession::new(session, inputs, outputs, Place::Cuda(device_id(card)))?;
            Ok(Box::new(shared) as Box<dyn Model>)
        };
        let (card, model) = self.gpu_models.load(cards, bytes, Box::new(load))?;
        Ok(Loaded {
            model: Box::new(model),
            backend: NAME,
            device: Device::Cuda(card),
            // A run waits for the card, and perhaps for others to leave it.
            runs: Runs::OnWorkers,
            inputs,
            outputs,
            mixes_rows: mixing::operator(onnx),
            lacks_form: false,
        })
    }

    /// Loads a model on the CPU.
    ///
    /// # Errors
    /// In the library's words, when it cannot run the model.
    pub fn load(
        &self,
        onnx: &ModelProto,
        source: &Source<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Loaded, String> {
        let Wanted {
            digest,
            threads,
            folding,
            ..
        } = wanted;
        let (inputs, outputs) = (onnx.inputs()?, onnx.outputs()?);
        let opened = match (source, digest, &self.optimized) {
            (Source::File(path), Some(digest), Some(optimized)) => {
                optimized.session(&self.environment, digest, path, threads, folding)
            }
            _ => session::open(&self.environment, source, threads, folding)
                .map(|session| (session, false)),
        };
        let (session, lacks_form) = opened.map_err(|e| e.to_string())?;
        let shared = SharedSession::new(session, inputs.clone(), outputs.clone(), Place::Host)?;
        Ok(Loaded {
            model: Box::new(shared),
            backend: NAME,
            device: Device::Cpu,
            // With one thread a run happens entirely on the thread that calls it. Control flow nests the library's
            // calls, and a guest's stack has no room for that. What one run took says nothing of the next where that
            // depends on values.
            runs: if threads == 1 && !onnx.has_inner_graphs() && has_fixed_cost(onnx) {
                Runs::Anywhere
            } else {
                Runs::OnWorkers
            },
            inputs,
            outputs,
            mixes_rows: mixing::operator(onnx),
            lacks_form,
        })
    }
}

/// Opens the library.
///
/// # Errors
/// In words, when the file is no library of a version that is understood.
fn open_library(path: &Path) -> Result<Environment, String> {
    library::check(path)?;
    ort::init_from(path)
        .map_err(|e| e.to_string())?
        .with_name("samovar")
        .with_telemetry(false)
        .build()
        .map_err(|e| e.to_string())
}

/// The library in a process that makes optimized models.
pub(crate) struct Optimizer(Environment);

impl Optimizer {
    /// # Errors
    /// In words, when the file is no library of a version that is understood.
    pub fn open(library: &Path) -> Result<Self, String> {
        open_library(library).map(Self)
    }

    /// Writes the optimized form of a model to a file that is there; false when it is not worth its place.
    ///
    /// # Errors
    /// In the library's words.
    pub fn make(
        &self,
        source: &Source<'_>,
        threads: usize,
        folding: Folding,
        to: &Path,
    ) -> Result<bool, String> {
        optimized::make(&self.0, source, threads, folding, to)
    }
}

/// The number of a GPU in the library's type.
fn device_id(card: u32) -> i32 {
    i32::try_from(card).unwrap_or(i32::MAX)
}

/// `1.32.0` out of what the library says of its build.
fn version(info: &str) -> Option<String> {
    let start = info
        .find("git-branch=rel-")
        .map(|at| at + "git-branch=rel-".len())?;
    let rest = &info[start..];
    Some(rest[..rest.find([',', ' ']).unwrap_or(rest.len())].to_owned())
}

/// `1.32.0` out of `libonnxruntime.so.1.32.0`; not every build says it of itself.
fn version_in_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (_, version) = name.split_once(".so.")?;
    Some(version.to_owned())
}
