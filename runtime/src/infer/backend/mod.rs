//! Inference backends behind one small trait.

pub mod arrange;
mod device;
mod devices;
mod discovery;
pub(crate) mod forms;
pub(crate) mod keep;
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
use crate::infer::engines::Remote;
pub use device::Device;
pub use devices::Card;
pub(crate) use devices::Driver;
pub use discovery::newest_library;
pub use keep::KeptForms;
pub(crate) use keep::forget_kept;
pub use model_dir::DataFile;
pub(crate) use model_dir::ModelDir;
pub use onnxruntime::disable_telemetry;
pub(crate) use rten::info as rten_info;
use tensor::{Place, Tensor};

/// Which backend a graph is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// `cpu` and `gpu`, as far as it has them.
    pub targets: Vec<&'static str>,
    /// Why it cannot be used, if it cannot, and what would help.
    pub reason: Option<String>,
}

/// Which libraries are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Libraries {
    /// All that are found.
    #[default]
    All,
    /// None but rten, which is part of this program.
    OnlyRten,
}

/// Where to look for inference libraries.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BackendOptions {
    /// The file of ONNX Runtime's library; searched for when `None`.
    pub onnxruntime: Option<PathBuf>,
    /// Where models are kept in the forms that backends load quickest, in a folder for each; nowhere when `None`.
    pub optimized: Option<PathBuf>,
    /// A folder with libraries that were fetched for this node, in folders of their backends' names.
    pub installed: Option<PathBuf>,
    /// Whether this process makes those forms or only reads them.
    pub kept_forms: KeptForms,
    /// Which backend runs a graph that chooses none.
    pub default: BackendChoice,
    /// A folder for models whose weights lie in other files, best on the file system of those; swept at the start.
    pub scratch: Option<PathBuf>,
    /// Bytes of each card that graphs may take, all together; what is free of it when `None`.
    pub gpu_memory_bytes: Option<u64>,
    /// Which libraries are opened.
    pub libraries: Libraries,
}

/// The cards of this machine, for people and programs that ask.
#[derive(Clone, Debug, Default)]
pub struct Cards {
    /// Each with what graphs take of it.
    pub cards: Vec<(Card, u64)>,
    /// Why graphs cannot use a card, if they cannot.
    pub reason: Option<String>,
}

/// What is wanted of a graph.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Which backend is meant to run it.
    pub choice: BackendChoice,
    /// Where it is meant to run.
    pub target: Target,
    /// Threads that one run may use.
    pub threads: usize,
    /// The files that hold weights of it.
    pub data: &'a [DataFile],
    /// What is kept of it on disk has this name.
    pub digest: Option<&'a str>,
    /// Its name in the manifest, for people.
    pub name: &'a str,
    /// Who has an engine for itself that it belongs in.
    pub own_engine: Option<&'a str>,
    /// Cancelled when no caller waits for the load any more. Only loads in engines can be cancelled.
    pub abandoned: Option<&'a CancellationToken>,
    /// How far its constants may be folded: found out when it is read.
    pub folding: Folding,
}

/// Where a model's bytes are.
pub enum Source<'a> {
    /// In a file.
    File(&'a Path),
    /// In memory, from a guest.
    Bytes(&'a GuestModel),
}

/// A model that a guest gave as bytes, read and not yet loaded.
pub struct GuestModel {
    bytes: Vec<u8>,
    onnx: Onnx,
}

impl GuestModel {
    /// Reads it, and takes no more memory for that than `max_bytes`.
    ///
    /// # Errors
    /// When it is no ONNX model, exceeds a limit, or wants anything that is not in it.
    pub fn read(bytes: Vec<u8>, max_bytes: u64) -> Result<Self, LoadError> {
        let onnx = Onnx::read_within(&bytes, max_bytes).map_err(LoadError)?;
        if let Some(reference) = onnx.references.first() {
            return Err(LoadError(format!(
                "{}, and bytes have none beside them: save the model as one file, or push it as a graph of the bundle",
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

    /// As the guest gave it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Memory that it takes once it is loaded.
    pub fn loaded_bytes(&self) -> u64 {
        self.onnx.loaded_bytes(self.bytes.len() as u64)
    }
}

/// A model that a backend has loaded. Runs of it may happen at once.
pub(crate) trait Model: Send + Sync {
    /// Runs it. `inputs` are in the order of the graph's inputs and fit them; outputs come in its order.
    fn run(&self, inputs: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, RunError>;

    /// Where it leaves its outputs.
    fn place(&self) -> Place {
        Place::Host
    }

    /// Gives back memory that it keeps for its next runs: now, or at the end of the next one where the backend cannot do it before.
    fn give_back_memory(&self) {}

    /// The graph in an engine that it is, if it is one.
    fn remote(&self) -> Option<&Remote> {
        None
    }
}

/// Why a run gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The backend does not take these values, though their types and shapes fit: the caller's to mend.
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

/// Where runs of a model belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub device: Device,
    pub runs: Runs,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// The operator of it that mixes the rows of a batch, if there is one.
    pub mixes_rows: Option<String>,
    /// Whether another process is to make a form of it that loads quicker.
    pub lacks_form: bool,
}

/// Why a graph cannot be run here.
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
    /// What files say of themselves, by their digests.
    known: moka::sync::Cache<String, Arc<Onnx>>,
    default: BackendChoice,
    scratch: PathBuf,
    rten: rten::Rten,
    onnxruntime: Result<onnxruntime::Onnxruntime, BackendInfo>,
}

/// So much memory may take what files say of themselves, all models together, so that they are not read again.
const KNOWN_BYTES: u64 = 64 << 20;

impl Backends {
    /// Looks for the libraries, and sweeps the folder for models whose weights lie in other files.
    pub fn discover(options: BackendOptions) -> Self {
        if let Some(scratch) = &options.scratch {
            let _ = std::fs::remove_dir_all(scratch);
        }
        Self::beside_others(options)
    }

    /// Looks for the libraries. Other processes use the same folders.
    pub(crate) fn beside_others(options: BackendOptions) -> Self {
        let driver = Arc::new(Driver::find());
        let installed = options
            .installed
            .map(|folder| folder.join(onnxruntime::NAME));
        let found = match options.libraries {
            Libraries::All => {
                discovery::find_onnxruntime(options.onnxruntime.as_deref(), installed.as_deref())
            }
            Libraries::OnlyRten => Err((None, "it is not opened here".into())),
        };
        let onnxruntime = found.and_then(|path| {
            let optimized = options.optimized.as_ref();
            let optimized = optimized.map(|folder| folder.join(onnxruntime::NAME));
            let limit = options.gpu_memory_bytes;
            let optimized = optimized
                .as_deref()
                .map(|folder| (folder, options.kept_forms));
            onnxruntime::Onnxruntime::open(&path, optimized, driver.clone(), limit)
                .map_err(|reason| (Some(path), reason))
        });
        if let Ok(onnxruntime) = &onnxruntime
            && driver.cards().is_ok()
        {
            // It takes a second or two, for which no request shall wait.
            onnxruntime.no_cuda();
        }
        let scratch = options.scratch.unwrap_or_else(std::env::temp_dir);
        let optimized = options.optimized.as_deref();
        Self {
            driver,
            known: moka::sync::Cache::builder()
                .max_capacity(KNOWN_BYTES)
                .weigher(|_, onnx: &Arc<Onnx>| {
                    u32::try_from(onnx.decoded_bytes).unwrap_or(u32::MAX)
                })
                .build(),
            default: options.default,
            rten: rten::Rten::new(optimized, options.kept_forms, scratch.clone()),
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

    /// Every backend, also those that cannot be used.
    pub fn info(&self) -> Vec<BackendInfo> {
        let onnxruntime = match &self.onnxruntime {
            Ok(found) => found.info(self.driver.cards().is_ok() && found.no_cuda().is_none()),
            Err(missing) => missing.clone(),
        };
        vec![onnxruntime, rten::info()]
    }

    /// The cards of this machine.
    pub fn cards(&self) -> Cards {
        let used = |card: &Card| match &self.onnxruntime {
            Ok(onnxruntime) => onnxruntime.used_bytes(card.number),
            Err(_) => 0,
        };
        match self.driver.cards() {
            Ok(cards) => Cards {
                cards: cards
                    .into_iter()
                    .map(|card| (card.clone(), used(&card)))
                    .collect(),
                reason: self.no_cuda(),
            },
            Err(reason) => Cards {
                cards: Vec::new(),
                reason: Some(reason),
            },
        }
    }

    /// The folders in which backends look for models in their quickest form, by the backends' names.
    pub(crate) fn kept_forms(&self) -> Vec<(String, String)> {
        let onnxruntime = self.onnxruntime.as_ref().ok();
        let folders = [
            (rten::NAME, self.rten.kept_forms()),
            (
                onnxruntime::NAME,
                onnxruntime.and_then(onnxruntime::Onnxruntime::kept_forms),
            ),
        ];
        let named = folders.into_iter();
        let named = named.filter_map(|(name, folder)| Some((name.into(), folder?.into())));
        named.collect()
    }

    /// Forgets what is kept of a model on disk.
    pub(crate) fn forget(&self, digest: &str) {
        self.known.invalidate(digest);
        self.rten.forget(digest);
        if let Ok(onnxruntime) = &self.onnxruntime {
            onnxruntime.forget(digest);
        }
    }

    /// What a model's bytes say of it: read once for each digest, so that a cold start has not to.
    fn read(&self, bytes: &[u8], digest: Option<&str>) -> Result<Arc<Onnx>, String> {
        let Some(digest) = digest else {
            return Onnx::read(bytes).map(Arc::new);
        };
        if let Some(known) = self.known.get(digest) {
            return Ok(known);
        }
        let onnx = Arc::new(Onnx::read(bytes)?);
        self.known.insert(digest.to_owned(), onnx.clone());
        Ok(onnx)
    }

    /// Why no backend can use a card, though there is one.
    fn no_cuda(&self) -> Option<String> {
        match &self.onnxruntime {
            Ok(onnxruntime) => onnxruntime.no_cuda().map(str::to_owned),
            Err(missing) => Some(format!("onnxruntime: {}", reason(missing))),
        }
    }

    /// Loads a model on a card, and nowhere else.
    fn load_on_card(
        &self,
        onnx: &ModelProto,
        source: &Source<'_>,
        laid: Option<Arc<ModelDir>>,
        wanted: Wanted<'_>,
        fallback: onnxruntime::CpuFallback,
    ) -> Result<Loaded, String> {
        if wanted.choice == BackendChoice::Rten {
            return Err(
                "rten runs on the CPU only; take `backend` out, or say \"onnxruntime\"".into(),
            );
        }
        let Source::File(path) = source else {
            return Err("a model from bytes runs on the CPU".into());
        };
        let cards = self.driver.cards();
        let (cards, onnxruntime) = match (cards, &self.onnxruntime, self.no_cuda()) {
            (Ok(cards), Ok(onnxruntime), None) => (cards, onnxruntime),
            (Err(driver), _, None) => return Err(driver),
            (Err(driver), _, Some(library)) => return Err(format!("{driver}; {library}")),
            (Ok(_), _, library) => return Err(library.unwrap_or_default()),
        };
        onnxruntime
            .load_on_card(onnx, path, laid, wanted, &cards, fallback)
            .map_err(|e| format!("onnxruntime: {e}"))
    }

    /// Loads a model, and what of it lies in other files.
    pub(crate) fn load(
        &self,
        source: &Source<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Loaded, LoadError> {
        let path = match source {
            Source::Bytes(model) => {
                return self.load_whole(&model.onnx.model, &model.bytes, source, None, wanted);
            }
            Source::File(path) => *path,
        };
        let bytes = ModelFile::open(path)?;
        let onnx = self.read(&bytes, wanted.digest).map_err(LoadError)?;
        let needs = needs(&onnx.references).map_err(LoadError)?;
        let without_maps = classes::without_maps(&onnx.model, &bytes).map_err(LoadError)?;
        let wanted = Wanted {
            folding: onnx.folding,
            ..wanted
        };
        if wanted.folding != Folding::On {
            let graph = onnx.model.graph.as_ref().map_or("", |graph| &graph.name);
            let how_far = wanted.folding;
            tracing::info!(
                graph,
                ?how_far,
                "constants of a graph are not folded without bounds"
            );
        }
        if needs.is_empty() && without_maps.is_none() {
            return self.load_whole(&onnx.model, &bytes, source, None, wanted);
        }
        let bytes = without_maps.as_deref().unwrap_or(&bytes);
        let laid =
            ModelDir::create(&self.scratch, bytes, &needs, wanted.data).map_err(LoadError)?;
        let path = laid.model();
        let bytes = ModelFile::open(&path)?;
        let onnx = Onnx::read(&bytes).map_err(LoadError)?;
        let source = Source::File(&path);
        // An optimized copy would hold the weights once more.
        let wanted = Wanted {
            digest: wanted.digest.filter(|_| needs.is_empty()),
            ..wanted
        };
        self.load_whole(&onnx.model, &bytes, &source, Some(Arc::new(laid)), wanted)
    }

    /// Loads a model that [`lay_out`] has laid out.
    pub(crate) fn load_laid(&self, model: &Path, wanted: Wanted<'_>) -> Result<Loaded, LoadError> {
        let bytes = ModelFile::open(model)?;
        let onnx = Onnx::read(&bytes).map_err(LoadError)?;
        let laid = Some(Arc::new(ModelDir::borrowed(model)));
        let wanted = Wanted {
            folding: onnx.folding,
            ..wanted
        };
        self.load_whole(&onnx.model, &bytes, &Source::File(model), laid, wanted)
    }

    /// Loads a model whose weights are in it or laid out beside it.
    fn load_whole(
        &self,
        onnx: &ModelProto,
        bytes: &[u8],
        source: &Source<'_>,
        laid: Option<Arc<ModelDir>>,
        wanted: Wanted<'_>,
    ) -> Result<Loaded, LoadError> {
        let choice = match wanted.choice {
            BackendChoice::Auto => self.default,
            chosen => chosen,
        };
        let on_card = |fallback| self.load_on_card(onnx, source, laid.clone(), wanted, fallback);
        match wanted.target {
            Target::Cpu => {}
            Target::Gpu => {
                return on_card(onnxruntime::CpuFallback::Refused).map_err(|why| {
                    LoadError(format!(
                        "`target = \"gpu\"`: {why}. With \"auto\" it runs on the CPU where it must"
                    ))
                });
            }
            Target::Auto if choice == BackendChoice::Rten || self.driver.cards().is_err() => {}
            Target::Auto => match on_card(onnxruntime::CpuFallback::Allowed) {
                Ok(loaded) => return Ok(loaded),
                Err(why) => tracing::info!(why, "a graph runs on the CPU, not on a card"),
            },
        }
        let folder = match (&laid, source) {
            (Some(_), Source::File(path)) => path.parent(),
            _ => None,
        };
        let with_rten = || match guarded(|| self.rten.load(onnx, bytes, folder, wanted)) {
            Ok(loaded) => loaded,
            Err(panic) => Err(onnx.explain(&panic.to_string())),
        };
        let loaded = match (choice, &self.onnxruntime) {
            (BackendChoice::Rten, _) => with_rten().map_err(|e| format!("rten: {e}")),
            (BackendChoice::Onnxruntime, Err(missing)) => {
                Err(format!("onnxruntime: {}", reason(missing)))
            }
            (_, Ok(onnxruntime)) => {
                let loaded = onnxruntime.load(onnx, source, wanted);
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

/// Lays a model out whose weights lie in these files, below `scratch`: for another process to load.
pub(crate) fn lay_out(
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
