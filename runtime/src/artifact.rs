//! Artifacts: components compiled to native code, stored on disk by digest and engine settings, memory-mapped, and cached.
//!
//! This is the only place that loads native code, and it loads only what this node compiled (`compile/`): clients can upload
//! components, never artifacts. The SHA-256 of each artifact is stored beside it and verified when a process first maps the
//! file, so that a damaged one is compiled again instead of run.

mod snapshots;
mod sweep;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

use crate::admission::{self, AdmissionError, Handler, LIFECYCLE};
use crate::compile::{
    Compilation, CompileError, Compiler, ComponentFile, MAX_COMPONENT_BYTES, Native,
};
use crate::engine::{AsyncSupport, SharedEngine, slots_of};
use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;
use crate::verified_files::{self, VerifiedFiles};

/// Linked components in the cache; running replicas hold theirs beyond that.
const MAX_CACHED: u64 = 256;
/// A component without a start for this long is evicted.
const CACHED_IDLE: Duration = Duration::from_secs(10 * 60);

/// A compiled component, linked against the sandbox and ready to be instantiated.
pub struct Artifact {
    pub(crate) pre: HandlerPre,
    /// Whether instances start from a snapshot; `None` if none was asked for.
    pub(crate) snapshot: Option<Snapshot>,
    /// Replica slots that an instance takes.
    pub(crate) slots: u32,
}

/// A linked component, with the indices of its handler's exports.
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

    /// Whether new replicas must call `init`.
    pub(crate) fn runs_init(&self) -> bool {
        self.snapshot != Some(Snapshot::Taken) && self.has_lifecycle()
    }

    fn has_lifecycle(&self) -> bool {
        let pre = self.instance_pre();
        pre.component().get_export_index(None, LIFECYCLE).is_some()
    }
}

/// Why there is no artifact of a component.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The component was refused.
    #[error(transparent)]
    Refused(#[from] AdmissionError),
    /// The disk failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The error of a concurrent call for the same component.
    #[error(transparent)]
    Shared(Arc<ArtifactError>),
    /// Compiling failed.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A task that reads or links artifacts panicked, which is a bug.
    #[error("making a component ready stopped unexpectedly: {0}")]
    Stopped(String),
}

impl ArtifactError {
    /// Whether the component is at fault: it was refused, exceeded a limit of compiling, or crashed the compiler.
    pub fn blames_component(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Compile(error) => error.blames_component(),
            Self::Shared(error) => error.blames_component(),
            Self::Io { .. } | Self::Stopped(_) => false,
        }
    }
}

/// The artifacts of a node.
pub struct ArtifactStore {
    without_async: EngineArtifacts,
    with_async: EngineArtifacts,
    cache: moka::future::Cache<String, Arc<Artifact>>,
    verified_files: VerifiedFiles,
    compiler: Compiler,
}

impl ArtifactStore {
    /// Opens the store in `folder`, with a subfolder for each engine's settings.
    ///
    /// # Errors
    /// When a folder cannot be created or a linker cannot be built.
    pub fn new(
        engine: &Arc<SharedEngine>,
        compilation: Compilation,
        folder: &Path,
    ) -> wasmtime::Result<Self> {
        let without_async = EngineArtifacts::new(engine, AsyncSupport::Off, folder)?;
        let with_async = EngineArtifacts::new(engine, AsyncSupport::On, folder)?;
        sweep::begin(folder, &[&without_async.folder, &with_async.folder]);
        Ok(Self {
            without_async,
            with_async,
            cache: moka::future::Cache::builder()
                .max_capacity(MAX_CACHED)
                .time_to_idle(CACHED_IDLE)
                .build(),
            verified_files: VerifiedFiles::default(),
            compiler: Compiler::new(compilation, engine.clone()),
        })
    }

    /// The artifact of a component, compiled now unless a valid one is on disk. Concurrent calls for the same component share
    /// one compilation.
    ///
    /// # Errors
    /// If the component is refused or the disk fails.
    pub async fn get(
        self: &Arc<Self>,
        file: &ComponentFile,
    ) -> Result<Arc<Artifact>, Arc<ArtifactError>> {
        if let Some(artifact) = self.cache.get(&file.digest).await {
            return Ok(artifact);
        }
        let store = self.clone();
        let wanted = file.clone();
        self.cache
            .try_get_with(file.digest.clone(), async move {
                store.load_or_compile(wanted).await.map(Arc::new)
            })
            .await
    }

    /// Deletes the artifacts of a component, with those of its snapshots.
    pub async fn remove(self: &Arc<Self>, digest: &str) {
        let (store, digest) = (self.clone(), digest.to_owned());
        let names = blocking(move || Ok(store.stored_names(&digest))).await;
        for name in names.unwrap_or_default() {
            self.cache.invalidate(&name).await;
            let paths = self.engines().map(|engine| engine.path(&name));
            let checksums = paths
                .each_ref()
                .map(|path| verified_files::checksum_path(path));
            let refusal = [self.refusal_path(&name)];
            for path in paths.iter().chain(&checksums).chain(&refusal) {
                let _ = tokio::fs::remove_file(path).await;
            }
        }
    }

    fn engines(&self) -> [&EngineArtifacts; 2] {
        [&self.without_async, &self.with_async]
    }

    fn engine(&self, support: AsyncSupport) -> &EngineArtifacts {
        match support {
            AsyncSupport::Off => &self.without_async,
            AsyncSupport::On => &self.with_async,
        }
    }

    async fn load_or_compile(
        self: &Arc<Self>,
        file: ComponentFile,
    ) -> Result<Artifact, ArtifactError> {
        let (store, digest) = (self.clone(), file.digest.clone());
        if let Some(artifact) = blocking(move || store.load(&digest, None)).await? {
            return Ok(artifact);
        }
        let path = file.path.clone();
        blocking(move || check_format(&path)).await?;
        let native = self.compiler.compile(&file).await?;
        let native = native.map_err(AdmissionError::Invalid)?;
        let store = self.clone();
        blocking(move || {
            let (engine, component) = store.store_native(&file.digest, &native)?;
            engine.link(&component, None)
        })
        .await
    }

    /// Loads and links the artifact of this name; `None` if there is none on disk or it is damaged.
    fn load(
        &self,
        name: &str,
        snapshot: Option<Snapshot>,
    ) -> Result<Option<Artifact>, ArtifactError> {
        for engine in self.engines() {
            let path = engine.path(name);
            if !self.verified_files.verify(&path) {
                continue;
            }
            match engine.map(&path) {
                Ok(component) => return engine.link(&component, snapshot).map(Some),
                Err(error) => {
                    tracing::warn!(name, %error, "artifact failed to load; compiling again");
                }
            }
        }
        Ok(None)
    }

    /// Stores native code on disk and maps it. If it cannot be stored, it is loaded into memory only.
    fn store_native(
        &self,
        name: &str,
        native: &Native,
    ) -> Result<(&EngineArtifacts, Component), ArtifactError> {
        let engine = self.engine(native.support);
        let path = engine.path(name);
        let component = match verified_files::write(&path, &native.code) {
            Ok(()) => engine.map(&path),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(),
                    %error,
                    "artifact cannot be stored on disk; the component will be compiled again"
                );
                // SAFETY: this node's compiler has just made these bytes for this engine.
                unsafe { Component::deserialize(&engine.engine, &native.code) }
            }
        };
        let component = component.map_err(|e| AdmissionError::Invalid(format!("{e:#}")))?;
        Ok((engine, component))
    }
}

/// Refuses a file that is too large or not a component, before the compiler reads it.
fn check_format(path: &Path) -> Result<(), ArtifactError> {
    let io_error = |source| ArtifactError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(io_error)?;
    let size = file.metadata().map_err(io_error)?.len();
    if size > MAX_COMPONENT_BYTES {
        return Err(AdmissionError::Invalid(format!(
            "it is {size} bytes long; the limit is {MAX_COMPONENT_BYTES}"
        ))
        .into());
    }
    let mut head = Vec::new();
    let read = (&mut file).take(PREAMBLE_BYTES).read_to_end(&mut head);
    read.map_err(io_error)?;
    if !is_component(&head) {
        return Err(AdmissionError::Invalid(describe_format(&head)).into());
    }
    Ok(())
}

/// The artifacts for one engine.
struct EngineArtifacts {
    engine: Engine,
    linker: Linker<Sandbox>,
    folder: PathBuf,
}

impl EngineArtifacts {
    fn new(engine: &SharedEngine, support: AsyncSupport, folder: &Path) -> wasmtime::Result<Self> {
        let linker = crate::sandbox::linker(engine, support)?;
        let [without_async, with_async] = engine.compatibility_hashes();
        let engine = engine.engine(support).clone();
        let (kind, hash) = match support {
            AsyncSupport::Off => ("sequential", without_async),
            AsyncSupport::On => ("concurrent", with_async),
        };
        let folder = folder.join(format!("{kind}-{hash:016x}"));
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
        // SAFETY: this node's compiler made the file, whose checksum was verified. Only this node writes to its folder, and it
        // replaces files by rename, never in place.
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
        // `None` only for a component that imports modules, which admission refuses.
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

/// Runs work that blocks its thread.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, ArtifactError> + Send + 'static,
) -> Result<R, ArtifactError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| ArtifactError::Stopped(e.to_string()))?
}

/// Bytes at the beginning of a file that identify its format.
const PREAMBLE_BYTES: u64 = 8;

/// Whether bytes begin with the preamble of a component: magic, version, layer 1.
fn is_component(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm") && bytes.get(6..8) == Some(&[1, 0])
}

fn describe_format(bytes: &[u8]) -> String {
    if bytes.starts_with(b"\0asm") {
        "it is a core WebAssembly module, not a component".into()
    } else if bytes.starts_with(b"\x7fELF") {
        "it is native code, which is never accepted; push the component itself".into()
    } else {
        "it is not WebAssembly".into()
    }
}
