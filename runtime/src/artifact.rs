//! Artifacts: components compiled to native code, stored by digest and engine settings, memory-mapped and cached.
//!
//! This is the only place that loads native code, and it loads only code that this node compiled (`compile/`): a client can upload a
//! component, never an artifact. The SHA-256 of each artifact is stored next to it and checked when a process maps the file for the first
//! time, so that a damaged artifact is compiled again instead of run.

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
use crate::checked::{self, Checked};
use crate::compile::{
    Compilation, CompileError, Compiler, ComponentFile, MAX_COMPONENT_BYTES, Native,
};
use crate::engine::{Calls, SharedEngine, slots_of};
use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;

/// Number of linked components that are cached in addition to those of running replicas.
const CACHED: u64 = 256;
/// A cached component that was not started for this long is unmapped.
const CACHED_IDLE: Duration = Duration::from_secs(10 * 60);

/// A component that is linked against the sandbox and ready to be instantiated.
pub struct Artifact {
    pub(crate) pre: HandlerPre,
    /// The snapshot, if the deployment has that setting.
    pub(crate) snapshot: Option<Snapshot>,
    /// Number of replica slots that an instance uses.
    pub(crate) slots: u32,
}

/// The linked component by kind of handler.
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

    /// Whether a new replica has to run `init`.
    pub(crate) fn runs_init(&self) -> bool {
        self.snapshot != Some(Snapshot::Taken) && self.has_lifecycle()
    }

    fn has_lifecycle(&self) -> bool {
        let pre = self.instance_pre();
        pre.component().get_export_index(None, LIFECYCLE).is_some()
    }
}

/// Why a component cannot be compiled or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The component was refused.
    #[error(transparent)]
    Refused(#[from] AdmissionError),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The same error as for a concurrent caller.
    #[error(transparent)]
    Shared(Arc<ArtifactError>),
    /// It could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A task that reads or links artifacts panicked, which is a bug.
    #[error("making a component ready stopped unexpectedly: {0}")]
    Stopped(String),
}

impl ArtifactError {
    /// Whether the component caused the error: it was refused, or exceeded a limit of compiling.
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
    sequential: Shelf,
    concurrent: Shelf,
    ready: moka::future::Cache<String, Arc<Artifact>>,
    checked: Checked,
    compiler: Compiler,
}

impl ArtifactStore {
    /// Opens the artifacts in `folder`, which has subfolders for engine settings.
    ///
    /// # Errors
    /// If a folder or a linker cannot be created.
    pub fn new(
        engine: &Arc<SharedEngine>,
        compilation: Compilation,
        folder: &Path,
    ) -> wasmtime::Result<Self> {
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
            compiler: Compiler::new(compilation, engine.clone()),
        })
    }

    /// Returns the linked component, and compiles it if there is no intact artifact. Concurrent callers share one compilation.
    ///
    /// # Errors
    /// If the component is refused or the disk fails.
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

    /// Drops a component from the cache and deletes its artifacts.
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
        let (store, digest) = (self.clone(), file.digest.clone());
        if let Some(artifact) = blocking(move || store.load(&digest, None)).await? {
            return Ok(artifact);
        }
        let path = file.path.clone();
        blocking(move || check_form(&path)).await?;
        let native = self.compiler.compile(&file).await?;
        let native = native.map_err(AdmissionError::Invalid)?;
        let store = self.clone();
        blocking(move || {
            let (shelf, component) = store.keep(&file.digest, &native)?;
            shelf.link(&component, None)
        })
        .await
    }

    /// Loads and links an artifact; `None` if it is missing or damaged.
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

    /// Stores native code on disk and maps it. If the disk does not accept it, the code stays in memory.
    fn keep(&self, name: &str, native: &Native) -> Result<(&Shelf, Component), ArtifactError> {
        let shelf = self.shelf(native.calls);
        let path = shelf.path(name);
        let component = match checked::write(&path, &native.code) {
            Ok(()) => shelf.map(&path),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(),
                    %error,
                    "a compiled component cannot be kept on disk; it is compiled again when it is needed next"
                );
                // SAFETY: these bytes are what this node's compiler made just now for this engine.
                unsafe { Component::deserialize(&shelf.engine, &native.code) }
            }
        };
        let component = component.map_err(|e| AdmissionError::Invalid(format!("{e:#}")))?;
        Ok((shelf, component))
    }
}

/// Refuses a file that is too large or not a component, before it reaches the compiler.
fn check_form(path: &Path) -> Result<(), ArtifactError> {
    let io_error = |source| ArtifactError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(io_error)?;
    let size = file.metadata().map_err(io_error)?.len();
    if size > MAX_COMPONENT_BYTES {
        return Err(AdmissionError::Invalid(format!(
            "it is {size} bytes long; at most {MAX_COMPONENT_BYTES} are compiled"
        ))
        .into());
    }
    let mut head = Vec::new();
    let read = (&mut file).take(PREAMBLE_BYTES).read_to_end(&mut head);
    read.map_err(io_error)?;
    if !wasmtime_is_component(&head) {
        return Err(AdmissionError::Invalid(describe_foreign(&head)).into());
    }
    Ok(())
}

/// The artifacts of components of one kind, and their linker.
struct Shelf {
    engine: Engine,
    linker: Linker<Sandbox>,
    folder: PathBuf,
}

impl Shelf {
    fn new(engine: &SharedEngine, calls: Calls, folder: &Path) -> wasmtime::Result<Self> {
        let linker = crate::sandbox::linker(engine, calls)?;
        let [sequential, concurrent] = engine.compatibility();
        let engine = engine.engine(calls).clone();
        let (kind, hash) = match calls {
            Calls::Sequential => ("sequential", sequential),
            Calls::Concurrent => ("concurrent", concurrent),
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

/// Length of a file's preamble.
const PREAMBLE_BYTES: u64 = 8;

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
