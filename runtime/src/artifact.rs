//! Components compiled to native code: on disk by digest and engine settings, memory-mapped, cached.
//!
//! This is the only place that loads native code, and it loads only what it compiled itself: a client can upload
//! a component, never an artifact. Beside each artifact lies the SHA-256 of its bytes, checked the first time a
//! process maps the file, so that a damaged one is compiled again instead of run.

mod snapshots;
mod sweep;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

use crate::admission::{self, AdmissionError, Handler, LIFECYCLE};
use crate::budget::Owner;
use crate::checked::{self, Checked};
use crate::engine::{Calls, SharedEngine, slots_of};
use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;
use crate::turns::Turns;

/// A larger component is refused: compiling takes time and memory in proportion.
pub const MAX_COMPONENT_BYTES: u64 = 256 << 20;
/// Components kept linked and ready beyond those that running replicas hold.
const CACHED: u64 = 256;
/// A component that nobody started for this long is unmapped.
const CACHED_IDLE: Duration = Duration::from_secs(10 * 60);

/// Where a component's bytes lie.
#[derive(Clone, Debug)]
pub struct ComponentFile {
    /// SHA-256 of the file, 64 hex digits.
    pub digest: String,
    /// The file.
    pub path: PathBuf,
    /// Whose turn it is when it is compiled.
    pub owner: Owner,
}

/// A component linked against the sandbox, ready to be instantiated.
pub struct Artifact {
    pub(crate) pre: HandlerPre,
    /// What became of the wish to keep the memory after `init`, if there was one.
    pub(crate) snapshot: Option<Snapshot>,
    /// How many of the node's replica slots an instance takes.
    pub(crate) slots: u32,
}

/// The linked component by the kind of its handler.
#[derive(Clone)]
pub(crate) enum HandlerPre {
    Wasi02(
        InstancePre<Sandbox>,
        wasmtime_wasi_http::p2::bindings::ProxyIndices,
    ),
    Wasi03(
        InstancePre<Sandbox>,
        wasmtime_wasi_http::p3::bindings::ServiceIndices,
    ),
}

impl Artifact {
    pub(crate) fn instance_pre(&self) -> &InstancePre<Sandbox> {
        match &self.pre {
            HandlerPre::Wasi02(pre, _) | HandlerPre::Wasi03(pre, _) => pre,
        }
    }

    /// Whether a new replica has an `init` to be called.
    pub(crate) fn runs_init(&self) -> bool {
        self.snapshot != Some(Snapshot::Taken) && self.has_lifecycle()
    }

    fn has_lifecycle(&self) -> bool {
        let pre = self.instance_pre();
        pre.component().get_export_index(None, LIFECYCLE).is_some()
    }
}

/// Why a component cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The component itself is at fault.
    #[error(transparent)]
    Refused(#[from] AdmissionError),
    /// The disk is at fault.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What somebody else was told who asked at once.
    #[error(transparent)]
    Shared(Arc<ArtifactError>),
    /// A bug: a task that compiles must not panic.
    #[error("compiling stopped unexpectedly: {0}")]
    Stopped(String),
}

/// The artifacts of a node.
pub struct ArtifactStore {
    sequential: Shelf,
    concurrent: Shelf,
    ready: moka::future::Cache<String, Arc<Artifact>>,
    checked: Checked,
    /// Compiling takes every core and much memory, so few components compile at once.
    compiles: Turns,
}

/// So many components compile at once: a second one, so that a slow one does not hold up all others.
const COMPILES_AT_ONCE: usize = 2;

impl ArtifactStore {
    /// Keeps artifacts under `folder`, in subfolders for the settings of the engines.
    ///
    /// # Errors
    /// When a folder cannot be made or a linker cannot be built.
    pub fn new(engine: &SharedEngine, folder: &Path) -> wasmtime::Result<Self> {
        let sequential = Shelf::new(engine, Calls::Sequential, folder)?;
        let concurrent = Shelf::new(engine, Calls::Concurrent, folder)?;
        sweep::begin(folder, &[&sequential.folder, &concurrent.folder]);
        Ok(Self {
            sequential,
            concurrent,
            ready: moka::future::Cache::builder()
                .max_capacity(CACHED)
                .time_to_idle(CACHED_IDLE)
                .build(),
            checked: Checked::default(),
            compiles: Turns::new(COMPILES_AT_ONCE),
        })
    }

    /// The linked component, compiled now if no sound artifact of it is on disk. Compiles once for all who ask at once.
    ///
    /// # Errors
    /// When the component is refused or the disk fails.
    pub async fn get(
        self: &Arc<Self>,
        file: &ComponentFile,
    ) -> Result<Arc<Artifact>, Arc<ArtifactError>> {
        if let Some(artifact) = self.ready.get(&file.digest).await {
            return Ok(artifact);
        }
        let store = self.clone();
        let wanted = file.clone();
        self.ready
            .try_get_with(file.digest.clone(), async move {
                store.load_or_compile(wanted).await.map(Arc::new)
            })
            .await
    }

    /// Forgets a component and deletes its artifacts.
    pub async fn remove(self: &Arc<Self>, digest: &str) {
        let (store, digest) = (self.clone(), digest.to_owned());
        let names = blocking(move || Ok(store.names(&digest))).await;
        for name in names.unwrap_or_default() {
            self.ready.invalidate(&name).await;
            let paths = self.shelves().map(|shelf| shelf.path(&name));
            let checksums = paths.each_ref().map(|path| checked::checksum_path(path));
            let refusal = [self.refusal_path(&name)];
            for path in paths.iter().chain(&checksums).chain(&refusal) {
                let _ = tokio::fs::remove_file(path).await;
            }
        }
    }

    fn shelves(&self) -> [&Shelf; 2] {
        [&self.sequential, &self.concurrent]
    }

    fn shelf(&self, calls: Calls) -> &Shelf {
        match calls {
            Calls::Sequential => &self.sequential,
            Calls::Concurrent => &self.concurrent,
        }
    }

    async fn load_or_compile(
        self: &Arc<Self>,
        file: ComponentFile,
    ) -> Result<Artifact, ArtifactError> {
        let (store, digest, owner) = (self.clone(), file.digest.clone(), file.owner);
        if let Some(artifact) = blocking(move || store.load(&digest, None)).await? {
            return Ok(artifact);
        }
        let store = self.clone();
        let compiled = move || {
            let (shelf, component) = store.compile(&file)?;
            shelf.link(&component, None)
        };
        self.compiling(owner, compiled).await
    }

    /// Work that compiles, once its turn has come. It ends even if its caller goes, and keeps its permit until then.
    async fn compiling<R: Send + 'static>(
        &self,
        owner: Owner,
        work: impl FnOnce() -> Result<R, ArtifactError> + Send + 'static,
    ) -> Result<R, ArtifactError> {
        let permit = self.compiles.take(owner).await;
        blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    }

    /// What is on disk under this name, linked; nothing when it is not there, or damaged.
    fn load(
        &self,
        name: &str,
        snapshot: Option<Snapshot>,
    ) -> Result<Option<Artifact>, ArtifactError> {
        for shelf in self.shelves() {
            let path = shelf.path(name);
            if !self.checked.is_sound(&path) {
                continue;
            }
            match shelf.map(&path) {
                Ok(component) => return shelf.link(&component, snapshot).map(Some),
                Err(error) => {
                    tracing::warn!(name, %error, "artifact does not load; compiling again");
                }
            }
        }
        Ok(None)
    }

    fn compile(&self, file: &ComponentFile) -> Result<(&Shelf, Component), ArtifactError> {
        let io_error = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ArtifactError::Io {
                action,
                path,
                source,
            }
        };
        let size = std::fs::metadata(&file.path)
            .map_err(io_error("read", &file.path))?
            .len();
        if size > MAX_COMPONENT_BYTES {
            return Err(AdmissionError::Invalid(format!(
                "it is {size} bytes long; at most {MAX_COMPONENT_BYTES} are compiled"
            ))
            .into());
        }
        let bytes = std::fs::read(&file.path).map_err(io_error("read", &file.path))?;
        if !wasmtime_is_component(&bytes) {
            return Err(AdmissionError::Invalid(describe_foreign(&bytes)).into());
        }
        self.compile_bytes(&file.digest, &bytes)
    }

    /// Compiles a component and keeps it on disk. Where the disk does not take it, it is there in memory all the same.
    fn compile_bytes(
        &self,
        name: &str,
        bytes: &[u8],
    ) -> Result<(&Shelf, Component), ArtifactError> {
        let (shelf, native) = Calls::fit(bytes, |calls| {
            let shelf = self.shelf(calls);
            let native = shelf.engine.precompile_component(bytes);
            native.map(|native| (shelf, native))
        })
        .map_err(|e| AdmissionError::Invalid(format!("{e:#}")))?;
        let path = shelf.path(name);
        let component = match checked::write(&path, &native) {
            Ok(()) => shelf.map(&path),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(),
                    %error,
                    "a compiled component cannot be kept on disk; it is compiled again when it is needed next"
                );
                // SAFETY: these bytes are what this engine compiled just now.
                unsafe { Component::deserialize(&shelf.engine, &native) }
            }
        };
        let component = component.map_err(|e| AdmissionError::Invalid(format!("{e:#}")))?;
        Ok((shelf, component))
    }
}

/// The artifacts of components of one kind, and what they are linked with.
struct Shelf {
    engine: Engine,
    linker: Linker<Sandbox>,
    folder: PathBuf,
}

impl Shelf {
    fn new(engine: &SharedEngine, calls: Calls, folder: &Path) -> wasmtime::Result<Self> {
        let linker = crate::sandbox::linker(engine, calls)?;
        let engine = engine.engine(calls).clone();
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let kind = match calls {
            Calls::Sequential => "sequential",
            Calls::Concurrent => "concurrent",
        };
        let folder = folder.join(format!("{kind}-{:016x}", hasher.finish()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            engine,
            linker,
            folder,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.cwasm"))
    }

    fn map(&self, path: &Path) -> wasmtime::Result<Component> {
        // SAFETY: the file is our own output (its checksum was written after it and has been compared), lies in a
        // folder that only this node writes to, and is replaced by rename, never changed in place.
        unsafe { Component::deserialize_file(&self.engine, path) }
    }

    fn link(
        &self,
        component: &Component,
        snapshot: Option<Snapshot>,
    ) -> Result<Artifact, ArtifactError> {
        let handler = admission::check(component, &self.engine)?;
        let mismatch = |e: wasmtime::Error| AdmissionError::Mismatch(format!("{e:#}"));
        let pre = self.linker.instantiate_pre(component).map_err(mismatch)?;
        let pre = match handler {
            Handler::Wasi02 => {
                let indices =
                    wasmtime_wasi_http::p2::bindings::ProxyIndices::new(&pre).map_err(mismatch)?;
                HandlerPre::Wasi02(pre, indices)
            }
            Handler::Wasi03 => {
                let indices = wasmtime_wasi_http::p3::bindings::ServiceIndices::new(&pre)
                    .map_err(mismatch)?;
                HandlerPre::Wasi03(pre, indices)
            }
        };
        // There are no numbers only for what imports modules, which admission refuses.
        let slots = component
            .resources_required()
            .map_or(1, |needs| slots_of(needs.num_memories, needs.num_tables));
        Ok(Artifact {
            pre,
            snapshot,
            slots,
        })
    }
}

/// Work that blocks its thread.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, ArtifactError> + Send + 'static,
) -> Result<R, ArtifactError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| ArtifactError::Stopped(e.to_string()))?
}

/// The preamble of a component: magic, version 13, layer 1.
fn wasmtime_is_component(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm") && bytes.get(6..8) == Some(&[1, 0])
}

fn describe_foreign(bytes: &[u8]) -> String {
    if bytes.starts_with(b"\0asm") {
        "it is a core WebAssembly module, not a component".into()
    } else if bytes.starts_with(b"\x7fELF") {
        "it is native code; precompiled artifacts are never accepted".into()
    } else {
        "it is not WebAssembly".into()
    }
}
