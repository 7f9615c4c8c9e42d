//! Inference backends behind one small trait.

pub mod arrange;
mod device;
mod devices;
mod discovery;
pub(crate) mod forms;
pub(crate) mod model_cache;
mod model_dir;
mod onnxruntime;
mod rten;
pub mod tensor;
#[cfg(test)]
pub(crate) mod testing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use samovar_onnx::external::needs;
use samovar_onnx::file::ModelFile;
use samovar_onnx::folding::Folding;
use samovar_onnx::port::Port;
use samovar_onnx::{ModelProto, Onnx, classes};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::infer::compute::{Worker, guarded};
use crate::infer::engines::RemoteGraph;
pub use device::Device;
pub(crate) use devices::Driver;
pub use devices::Gpu;
pub use discovery::newest_library;
pub use model_cache::CacheAccess;
pub(crate) use model_cache::delete_cached;
pub use model_dir::DataFile;
pub(crate) use model_dir::ModelDir;
pub use onnxruntime::disable_telemetry;
pub(crate) use rten::info as rten_info;
use tensor::{Place, Tensor};

/// The backend of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BackendChoice {
    /// ONNX Runtime if it is available and can run the graph, otherwise rten.
    #[default]
    Auto,
    /// ONNX Runtime.
    Onnxruntime,
    /// rten, which is always available.
    Rten,
}

/// The device of a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// A GPU if possible, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// Only a GPU.
    Gpu,
}

/// A backend and whether it is usable.
#[derive(Clone, Debug)]
pub struct BackendInfo {
    /// `rten` or `onnxruntime`.
    pub name: &'static str,
    /// Its version; `None` if it was not found.
    pub version: Option<String>,
    /// The path of its library; `None` if it is part of this program.
    pub path: Option<PathBuf>,
    /// The targets that it supports: `cpu`, `gpu`.
    pub targets: Vec<&'static str>,
    /// Why it is not usable and how to fix that; `None` if it is usable.
    pub reason: Option<String>,
}

/// The libraries that are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Libraries {
    /// All that are found.
    #[default]
    All,
    /// None: only rten, which is part of this program.
    OnlyRten,
}

/// Options of the backends.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BackendOptions {
    /// The library of ONNX Runtime; searched for if `None`.
    pub onnxruntime: Option<PathBuf>,
    /// The folder for cached forms of models that load faster, with a folder for each backend; nothing is cached if `None`.
    pub optimized: Option<PathBuf>,
    /// A folder with libraries that were installed for this node, in folders with the names of their backends.
    pub installed: Option<PathBuf>,
    /// Whether this process makes those forms or only reads them.
    pub cache_access: CacheAccess,
    /// The backend of graphs that do not choose one.
    pub default: BackendChoice,
    /// A folder for models with external weights, preferably on the file system of the weights. Emptied at the start.
    pub scratch: Option<PathBuf>,
    /// Bytes of each GPU that all graphs may use together; all free memory if `None`.
    pub gpu_memory_bytes: Option<u64>,
    /// The libraries that are opened.
    pub libraries: Libraries,
}

/// The GPUs of this machine.
#[derive(Clone, Debug, Default)]
pub struct Gpus {
    /// Each GPU with the bytes that graphs use of it.
    pub gpus: Vec<(Gpu, u64)>,
    /// Why graphs cannot use a GPU; `None` if they can.
    pub reason: Option<String>,
}

/// How to load a model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadRequest<'a> {
    /// The backend.
    pub choice: BackendChoice,
    /// The device.
    pub target: Target,
    /// Threads that one run may use.
    pub threads: usize,
    /// The files with its external weights.
    pub data: &'a [DataFile],
    /// The digest under which its form is cached.
    pub digest: Option<&'a str>,
    /// Its name in the manifest, for logs and errors.
    pub name: &'a str,
    /// The deployment whose own engine loads it; a shared engine if `None`.
    pub own_engine: Option<&'a str>,
    /// Cancelled when no caller waits for the load any more. Only loads in engines can be cancelled.
    pub abandoned: Option<&'a CancellationToken>,
    /// The limit of constant folding, which is determined when the model is read.
    pub folding: Folding,
}

/// The source of a model.
pub enum Source<'a> {
    /// A file.
    File(&'a Path),
    /// Bytes from a guest.
    Bytes(&'a GuestModel),
}

/// A model from a guest, parsed but not loaded.
pub struct GuestModel {
    bytes: Vec<u8>,
    onnx: Onnx,
}

impl GuestModel {
    /// Parses a model with at most `max_bytes` of memory.
    ///
    /// # Errors
    /// If it is not an ONNX model, exceeds a limit, or has external data.
    pub fn read(bytes: Vec<u8>, max_bytes: u64) -> Result<Self, LoadError> {
        let onnx = Onnx::read_within(&bytes, max_bytes).map_err(LoadError)?;
        if let Some(reference) = onnx.references.first() {
            return Err(LoadError(format!(
                "{}, but a model from bytes has no files: save the model as one file, or push it as a graph of the bundle",
                reference.label()
            )));
        }
        let without_maps = classes::without_maps(&onnx.model, &bytes).map_err(LoadError)?;
        Ok(match without_maps {
            None => Self { bytes, onnx },
            Some(bytes) => Self {
                onnx: Onnx::read_within(&bytes, max_bytes).map_err(LoadError)?,
                bytes,
            },
        })
    }

    /// The encoded model.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Estimated memory of the loaded model in bytes.
    pub fn loaded_bytes(&self) -> u64 {
        self.onnx.loaded_bytes(self.bytes.len() as u64)
    }
}

/// A model that a backend has loaded. Runs may be concurrent.
pub(crate) trait Model: Send + Sync {
    /// Runs the model. `inputs` match the inputs of the graph, in their order. Returns the outputs in the order of the graph.
    fn run(&self, inputs: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, RunError>;

    /// The memory that its outputs may be in.
    fn place(&self) -> Place {
        Place::Host
    }

    /// Returns memory that it keeps for further runs to the system: now, or after the next run if the backend cannot do it earlier.
    fn release_memory(&self) {}

    /// This model as a graph in an engine, if it is one.
    fn remote(&self) -> Option<&RemoteGraph> {
        None
    }
}

/// Why a run failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The backend refused the values of the inputs: an error of the caller.
    #[error("{0}")]
    Inputs(String),
    /// The backend failed.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for RunError {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

/// The threads that may run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Runs {
    /// Also the calling thread, if runs are known to be short.
    Anywhere,
    /// Only compute threads, because the backend uses its own threads.
    OnWorkers,
}

/// A loaded model and its description.
pub(crate) struct Loaded {
    pub model: Box<dyn Model>,
    pub backend: &'static str,
    pub device: Device,
    pub runs: Runs,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// An operator that mixes the rows of a batch, if there is one.
    pub mixes_rows: Option<String>,
    /// Whether another process should make a form that loads faster.
    pub lacks_form: bool,
}

/// Why a graph cannot be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

impl From<samovar_onnx::file::ReadError> for LoadError {
    fn from(error: samovar_onnx::file::ReadError) -> Self {
        Self(error.0)
    }
}

/// The backends of this machine.
pub struct Backends {
    driver: Arc<Driver>,
    /// Parsed models by digest.
    parsed: moka::sync::Cache<String, Arc<Onnx>>,
    default: BackendChoice,
    scratch: PathBuf,
    rten: rten::Rten,
    onnxruntime: Result<onnxruntime::Onnxruntime, BackendInfo>,
}

/// Memory of the cache of parsed models.
const PARSED_BYTES: u64 = 64 << 20;

impl Backends {
    /// Finds the libraries, and empties the scratch folder.
    pub fn discover(options: BackendOptions) -> Self {
        if let Some(scratch) = &options.scratch {
            let _ = std::fs::remove_dir_all(scratch);
        }
        Self::discover_shared(options)
    }

    /// Finds the libraries. Other processes may use the same folders.
    pub(crate) fn discover_shared(options: BackendOptions) -> Self {
        let driver = Arc::new(Driver::find());
        let installed = options
            .installed
            .map(|folder| folder.join(onnxruntime::NAME));
        let found = match options.libraries {
            Libraries::All => {
                discovery::find_onnxruntime(options.onnxruntime.as_deref(), installed.as_deref())
            }
            Libraries::OnlyRten => Err((None, "it is not opened in this process".into())),
        };
        let onnxruntime = found.and_then(|path| {
            let optimized = options.optimized.as_ref();
            let optimized = optimized.map(|folder| folder.join(onnxruntime::NAME));
            let limit = options.gpu_memory_bytes;
            let optimized = optimized
                .as_deref()
                .map(|folder| (folder, options.cache_access));
            onnxruntime::Onnxruntime::open(&path, optimized, driver.clone(), limit)
                .map_err(|reason| (Some(path), reason))
        });
        if let Ok(onnxruntime) = &onnxruntime
            && driver.gpus().is_ok()
        {
            // Takes a second or two; done now so that no request waits for it.
            onnxruntime.cuda_obstacle();
        }
        let scratch = options.scratch.unwrap_or_else(std::env::temp_dir);
        let optimized = options.optimized.as_deref();
        Self {
            driver,
            parsed: moka::sync::Cache::builder()
                .max_capacity(PARSED_BYTES)
                .weigher(|_, onnx: &Arc<Onnx>| {
                    u32::try_from(onnx.decoded_bytes).unwrap_or(u32::MAX)
                })
                .build(),
            default: options.default,
            rten: rten::Rten::new(optimized, options.cache_access, scratch.clone()),
            scratch,
            onnxruntime: onnxruntime.map_err(|(path, reason)| BackendInfo {
                name: onnxruntime::NAME,
                version: None,
                path,
                targets: Vec::new(),
                reason: Some(reason),
            }),
        }
    }

    /// All backends, including those that are not usable.
    pub fn info(&self) -> Vec<BackendInfo> {
        let onnxruntime = match &self.onnxruntime {
            Ok(found) => found.info(self.driver.gpus().is_ok() && found.cuda_obstacle().is_none()),
            Err(missing) => missing.clone(),
        };
        vec![onnxruntime, rten::info()]
    }

    /// The GPUs of this machine.
    pub fn gpus(&self) -> Gpus {
        let used = |gpu: &Gpu| match &self.onnxruntime {
            Ok(onnxruntime) => onnxruntime.used_bytes(gpu.number),
            Err(_) => 0,
        };
        match self.driver.gpus() {
            Ok(gpus) => Gpus {
                gpus: gpus
                    .into_iter()
                    .map(|gpu| (gpu.clone(), used(&gpu)))
                    .collect(),
                reason: self.cuda_obstacle(),
            },
            Err(reason) => Gpus {
                gpus: Vec::new(),
                reason: Some(reason),
            },
        }
    }

    /// The names of backends, each with the folder of its cached forms.
    pub(crate) fn form_folders(&self) -> Vec<(String, String)> {
        let onnxruntime = self.onnxruntime.as_ref().ok();
        let folders = [
            (rten::NAME, self.rten.form_folder()),
            (
                onnxruntime::NAME,
                onnxruntime.and_then(onnxruntime::Onnxruntime::form_folder),
            ),
        ];
        let named = folders.into_iter();
        let named = named.filter_map(|(name, folder)| Some((name.into(), folder?.into())));
        named.collect()
    }

    /// Deletes everything derived from a model.
    pub(crate) fn delete_derived(&self, digest: &str) {
        self.parsed.invalidate(digest);
        self.rten.delete_form(digest);
        if let Ok(onnxruntime) = &self.onnxruntime {
            onnxruntime.delete_form(digest);
        }
    }

    /// Parses a model. Cached by digest, so that a cold start does not parse it again.
    fn parse(&self, bytes: &[u8], digest: Option<&str>) -> Result<Arc<Onnx>, String> {
        let Some(digest) = digest else {
            return Onnx::read(bytes).map(Arc::new);
        };
        if let Some(parsed) = self.parsed.get(digest) {
            return Ok(parsed);
        }
        let onnx = Arc::new(Onnx::read(bytes)?);
        self.parsed.insert(digest.to_owned(), onnx.clone());
        Ok(onnx)
    }

    /// Why no backend can use the GPUs; `None` if one can.
    fn cuda_obstacle(&self) -> Option<String> {
        match &self.onnxruntime {
            Ok(onnxruntime) => onnxruntime.cuda_obstacle().map(str::to_owned),
            Err(missing) => Some(format!("onnxruntime: {}", reason(missing))),
        }
    }

    /// Loads a model on a GPU.
    fn load_on_gpu(
        &self,
        onnx: &ModelProto,
        source: &Source<'_>,
        model_dir: Option<Arc<ModelDir>>,
        request: LoadRequest<'_>,
        fallback: onnxruntime::CpuFallback,
    ) -> Result<Loaded, String> {
        if request.choice == BackendChoice::Rten {
            return Err(
                "rten runs on the CPU only; remove `backend`, or set it to \"onnxruntime\"".into(),
            );
        }
        let Source::File(path) = source else {
            return Err("a model from bytes runs on the CPU".into());
        };
        let gpus = self.driver.gpus();
        let (gpus, onnxruntime) = match (gpus, &self.onnxruntime, self.cuda_obstacle()) {
            (Ok(gpus), Ok(onnxruntime), None) => (gpus, onnxruntime),
            (Err(driver), _, None) => return Err(driver),
            (Err(driver), _, Some(library)) => return Err(format!("{driver}; {library}")),
            (Ok(_), _, library) => return Err(library.unwrap_or_default()),
        };
        onnxruntime
            .load_on_gpu(onnx, path, model_dir, request, &gpus, fallback)
            .map_err(|e| format!("onnxruntime: {e}"))
    }

    /// Loads a model with its external weights.
    pub(crate) fn load(
        &self,
        source: &Source<'_>,
        request: LoadRequest<'_>,
    ) -> Result<Loaded, LoadError> {
        let path = match source {
            Source::Bytes(model) => {
                return self.load_complete(&model.onnx.model, &model.bytes, source, None, request);
            }
            Source::File(path) => *path,
        };
        let bytes = ModelFile::open(path)?;
        let onnx = self.parse(&bytes, request.digest).map_err(LoadError)?;
        let needs = needs(&onnx.references).map_err(LoadError)?;
        let without_maps = classes::without_maps(&onnx.model, &bytes).map_err(LoadError)?;
        let request = LoadRequest {
            folding: onnx.folding,
            ..request
        };
        if request.folding != Folding::On {
            let graph = onnx.model.graph.as_ref().map_or("", |graph| &graph.name);
            let folding = request.folding;
            tracing::info!(graph, ?folding, "constant folding of a graph is limited");
        }
        if needs.is_empty() && without_maps.is_none() {
            return self.load_complete(&onnx.model, &bytes, source, None, request);
        }
        let bytes = without_maps.as_deref().unwrap_or(&bytes);
        let model_dir =
            ModelDir::create(&self.scratch, bytes, &needs, request.data).map_err(LoadError)?;
        let path = model_dir.model();
        let bytes = ModelFile::open(&path)?;
        let onnx = Onnx::read(&bytes).map_err(LoadError)?;
        let source = Source::File(&path);
        // A cached form would be another copy of the weights.
        let request = LoadRequest {
            digest: request.digest.filter(|_| needs.is_empty()),
            ..request
        };
        self.load_complete(
            &onnx.model,
            &bytes,
            &source,
            Some(Arc::new(model_dir)),
            request,
        )
    }

    /// Loads a model from a folder that [`create_model_dir`] created.
    pub(crate) fn load_model_dir(
        &self,
        model: &Path,
        request: LoadRequest<'_>,
    ) -> Result<Loaded, LoadError> {
        let bytes = ModelFile::open(model)?;
        let onnx = Onnx::read(&bytes).map_err(LoadError)?;
        let model_dir = Some(Arc::new(ModelDir::borrowed(model)));
        let request = LoadRequest {
            folding: onnx.folding,
            ..request
        };
        self.load_complete(
            &onnx.model,
            &bytes,
            &Source::File(model),
            model_dir,
            request,
        )
    }

    /// Loads a model without external weights, or from a model folder.
    fn load_complete(
        &self,
        onnx: &ModelProto,
        bytes: &[u8],
        source: &Source<'_>,
        model_dir: Option<Arc<ModelDir>>,
        request: LoadRequest<'_>,
    ) -> Result<Loaded, LoadError> {
        let choice = match request.choice {
            BackendChoice::Auto => self.default,
            chosen => chosen,
        };
        let on_gpu =
            |fallback| self.load_on_gpu(onnx, source, model_dir.clone(), request, fallback);
        match request.target {
            Target::Cpu => {}
            Target::Gpu => {
                return on_gpu(onnxruntime::CpuFallback::Refused).map_err(|why| {
                    LoadError(format!(
                        "`target = \"gpu\"`: {why}. With \"auto\" it runs on the CPU where it must"
                    ))
                });
            }
            Target::Auto if choice == BackendChoice::Rten || self.driver.gpus().is_err() => {}
            Target::Auto => match on_gpu(onnxruntime::CpuFallback::Allowed) {
                Ok(loaded) => return Ok(loaded),
                Err(why) => tracing::info!(why, "graph runs on the CPU instead of a GPU"),
            },
        }
        let folder = match (&model_dir, source) {
            (Some(_), Source::File(path)) => path.parent(),
            _ => None,
        };
        let with_rten = || match guarded(|| self.rten.load(onnx, bytes, folder, request)) {
            Ok(loaded) => loaded,
            Err(panic) => Err(onnx.explain(&panic.to_string())),
        };
        let loaded = match (choice, &self.onnxruntime) {
            (BackendChoice::Rten, _) => with_rten().map_err(|e| format!("rten: {e}")),
            (BackendChoice::Onnxruntime, Err(missing)) => {
                Err(format!("onnxruntime: {}", reason(missing)))
            }
            (_, Ok(onnxruntime)) => {
                let loaded = onnxruntime.load(onnx, source, request);
                match loaded.map_err(|e| onnx.explain(&e)) {
                    Err(first) if choice == BackendChoice::Auto => with_rten()
                        .map_err(|second| format!("onnxruntime: {first}; rten: {second}")),
                    other => other.map_err(|e| format!("onnxruntime: {e}")),
                }
            }
            (BackendChoice::Auto, Err(missing)) => with_rten().map_err(|e| {
                let why = reason(missing);
                format!("rten: {e}; onnxruntime, which could perhaps run it: {why}")
            }),
        };
        loaded.map_err(LoadError)
    }
}

/// Creates a folder below `scratch` with a model and links to its external weights, for another process to load.
pub(crate) fn create_model_dir(
    path: &Path,
    data: &[DataFile],
    scratch: &Path,
) -> Result<ModelDir, LoadError> {
    let bytes = ModelFile::open(path)?;
    let onnx = Onnx::read(&bytes).map_err(LoadError)?;
    let needs = needs(&onnx.references).map_err(LoadError)?;
    let without_maps = classes::without_maps(&onnx.model, &bytes).map_err(LoadError)?;
    let bytes = without_maps.as_deref().unwrap_or(&bytes);
    ModelDir::create(scratch, bytes, &needs, data).map_err(LoadError)
}

fn reason(missing: &BackendInfo) -> &str {
    missing.reason.as_deref().unwrap_or("not found")
}

/// Shared by those who load.
pub(crate) type SharedBackends = Arc<Backends>;

#[cfg(test)]
mod large_tests;
