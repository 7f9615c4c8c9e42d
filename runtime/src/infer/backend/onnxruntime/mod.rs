//! ONNX Runtime, with a library of the machine.

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

use super::devices::{Driver, Gpu};
use super::model_cache::CacheAccess;
use super::tensor::Place;
use super::{BackendInfo, Device, LoadRequest, Loaded, Model, Runs, Source};
use crate::infer::backend::model_dir::ModelDir;
pub(super) use gpu::CpuFallback;
use gpu::GpuModels;
pub use library::disable_telemetry;
use optimized::Optimized;
use run::SharedSession;

pub(super) const NAME: &str = "onnxruntime";
/// Extension of optimized models.
pub(super) const FORM_EXTENSION: &str = optimized::EXTENSION;
/// Most models that are remembered as proven.
const MAX_PROVEN: u64 = 10_000;

/// The opened library.
pub(super) struct Onnxruntime {
    environment: Environment,
    path: PathBuf,
    version: Option<String>,
    optimized: Option<Optimized>,
    gpu_models: Arc<GpuModels>,
    /// Digests of models that only compute shapes on the CPU, which takes two more loads to find out.
    proven: moka::sync::Cache<String, ()>,
    /// Why it cannot use a GPU, determined on first use; `None` if it can.
    cuda_obstacle: OnceLock<Option<String>>,
}

impl Onnxruntime {
    /// Opens the library.
    ///
    /// # Errors
    /// If the file is not a library of a supported version.
    pub fn open(
        path: &Path,
        optimized: Option<(&Path, CacheAccess)>,
        driver: Arc<Driver>,
        gpu_memory_bytes: Option<u64>,
    ) -> Result<Self, String> {
        let environment = open_library(path)?;
        let optimized = optimized.and_then(|(folder, access)| {
            let opened = Optimized::open(folder, ort::info(), access);
            let failed = |error: &std::io::Error| {
                tracing::warn!(folder = %folder.display(), %error, "optimized models are not cached");
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
            cuda_obstacle: OnceLock::new(),
        })
    }

    /// Describes it. `has_gpu` is whether it can use a GPU.
    pub fn info(&self, has_gpu: bool) -> BackendInfo {
        BackendInfo {
            name: NAME,
            version: self.version.clone(),
            path: Some(self.path.clone()),
            targets: match has_gpu {
                true => vec!["cpu", "gpu"],
                false => vec!["cpu"],
            },
            reason: None,
        }
    }

    /// Why it cannot use a GPU; `None` if it can. The first call loads CUDA, which takes a second or two.
    pub fn cuda_obstacle(&self) -> Option<&str> {
        let why =
            || gpu::session::find_obstacle(&self.environment, self.version.as_deref(), &self.path);
        self.cuda_obstacle.get_or_init(why).as_deref()
    }

    /// The name of the folder of optimized models, if they are cached.
    pub fn form_folder(&self) -> Option<&str> {
        self.optimized.as_ref().map(Optimized::folder)
    }

    /// Bytes of a GPU that graphs use.
    pub fn used_bytes(&self, gpu: u32) -> u64 {
        self.gpu_models.used_bytes(gpu)
    }

    /// Deletes the optimized form of a model.
    pub fn delete_form(&self, digest: &str) {
        if let Some(optimized) = &self.optimized {
            optimized.remove(digest);
        }
    }

    /// Loads a model on one of these GPUs.
    ///
    /// # Errors
    /// If it does not fit, or the library cannot run it there.
    pub fn load_on_gpu(
        &self,
        onnx: &ModelProto,
        path: &Path,
        model_dir: Option<Arc<ModelDir>>,
        request: LoadRequest<'_>,
        gpus: &[Gpu],
        fallback: CpuFallback,
    ) -> Result<Loaded, String> {
        let (inputs, outputs) = (onnx.inputs()?, onnx.outputs()?);
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let data: u64 = request.data.iter().map(|file| size(&file.path)).sum();
        let bytes = size(path) + data;
        let (threads, folding) = (request.threads, request.folding);
        let (environment, path) = (self.environment.clone(), path.to_owned());
        let ports = (inputs.clone(), outputs.clone());
        let (proven, digest) = (self.proven.clone(), request.digest.map(str::to_owned));
        let is_proven = digest.as_ref().is_some_and(|one| proven.contains_key(one));
        let known = AtomicBool::new(is_proven);
        let load = move |gpu, limit_bytes| {
            // It may be loaded from these files again after an eviction.
            let _keep = &model_dir;
            let fallback = match known.load(Ordering::Relaxed) {
                true => CpuFallback::Allowed,
                false => fallback,
            };
            let opened = gpu::session::open(
                &environment,
                &path,
                (threads, folding),
                gpu,
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
            let shared = SharedSession::new(session, inputs, outputs, Place::Cuda(device_id(gpu)))?;
            Ok(Box::new(shared) as Box<dyn Model>)
        };
        let (gpu, model) = self.gpu_models.load(gpus, bytes, Box::new(load))?;
        Ok(Loaded {
            model: Box::new(model),
            backend: NAME,
            device: Device::Cuda(gpu),
            // A run waits for the GPU, and possibly for evictions.
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
    /// The error of the library if it cannot run the model.
    pub fn load(
        &self,
        onnx: &ModelProto,
        source: &Source<'_>,
        request: LoadRequest<'_>,
    ) -> Result<Loaded, String> {
        let LoadRequest {
            digest,
            threads,
            folding,
            ..
        } = request;
        let (inputs, outputs) = (onnx.inputs()?, onnx.outputs()?);
        let opened = match (source, digest, &self.optimized) {
            (Source::File(path), Some(digest), Some(optimized)) => {
                optimized.open_session(&self.environment, digest, path, threads, folding)
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
            // With one thread the calling thread computes the whole run. Not with control flow, for whose nested calls the stack of a
            // guest is too small, nor if the duration depends on values, so that it cannot be predicted.
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
/// If the file is not a library of a supported version.
fn open_library(path: &Path) -> Result<Environment, String> {
    library::check(path)?;
    ort::init_from(path)
        .map_err(|e| e.to_string())?
        .with_name("samovar")
        .with_telemetry(false)
        .build()
        .map_err(|e| e.to_string())
}

/// The library in a worker that makes optimized models.
pub(crate) struct Optimizer(Environment);

impl Optimizer {
    /// Opens the library.
    ///
    /// # Errors
    /// If the file is not a library of a supported version.
    pub fn open(library: &Path) -> Result<Self, String> {
        open_library(library).map(Self)
    }

    /// Writes the optimized form of a model to an existing file. Returns `false` if the form is not worth caching.
    ///
    /// # Errors
    /// The error of the library.
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
fn device_id(gpu: u32) -> i32 {
    i32::try_from(gpu).unwrap_or(i32::MAX)
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
