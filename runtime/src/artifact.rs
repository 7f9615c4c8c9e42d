//! Components compiled to native code: on disk by digest and engine settings, memory-mapped, cached.
//!
//! This is the only place that loads native code, and it loads only what it compiled itself: a client can upload
//! a component, never an artifact. Beside each artifact lies the SHA-256 of its bytes, checked the first time a
//! process maps the file, so that a damaged one is compiled again instead of run.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, InstancePre, Linker};

use crate::admission::{self, AdmissionError, Handler, LIFECYCLE};
use crate::engine::SharedEngine;
use crate::sandbox::Sandbox;

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
}

/// A component linked against the sandbox, ready to be instantiated.
pub struct Artifact {
    pub(crate) pre: HandlerPre,
}

/// The linked component by the kind of its handler.
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
    pub(crate) fn has_lifecycle(&self) -> bool {
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
    /// A bug: a task that compiles must not panic.
    #[error("compiling stopped unexpectedly: {0}")]
    Stopped(String),
}

/// The artifacts of a node.
pub struct ArtifactStore {
    engine: Arc<SharedEngine>,
    linker: Linker<Sandbox>,
    folder: PathBuf,
    ready: moka::future::Cache<String, Arc<Artifact>>,
    /// Files whose checksum this process has seen to be right, by their identity on disk.
    verified: Mutex<HashMap<PathBuf, FileIdentity>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    inode: u64,
    size: u64,
    modified_ns: i64,
}

impl ArtifactStore {
    /// Keeps artifacts under `folder`, in a subfolder for this engine's settings.
    ///
    /// # Errors
    /// When the folder cannot be made or the linker cannot be built.
    pub fn new(engine: Arc<SharedEngine>, folder: &Path) -> wasmtime::Result<Self> {
        let mut hasher = DefaultHasher::new();
        engine
            .engine()
            .precompile_compatibility_hash()
            .hash(&mut hasher);
        let folder = folder.join(format!("{:016x}", hasher.finish()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            linker: crate::sandbox::linker(engine.engine())?,
            engine,
            folder,
            ready: moka::future::Cache::builder()
                .max_capacity(CACHED)
                .time_to_idle(CACHED_IDLE)
                .build(),
            verified: Mutex::default(),
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
                tokio::task::spawn_blocking(move || store.load_or_compile(&wanted))
                    .await
                    .map_err(|e| ArtifactError::Stopped(e.to_string()))?
                    .map(Arc::new)
            })
            .await
    }

    /// Forgets a component and deletes its artifact.
    pub async fn remove(&self, digest: &str) {
        self.ready.invalidate(digest).await;
        for path in [self.path(digest), self.checksum_path(digest)] {
            let _ = tokio::fs::remove_file(path).await;
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.cwasm"))
    }

    fn checksum_path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.sha256"))
    }

    fn load_or_compile(&self, file: &ComponentFile) -> Result<Artifact, ArtifactError> {
        let path = self.path(&file.digest);
        if self.is_sound(&path, &self.checksum_path(&file.digest)) {
            match self.map(&path) {
                Ok(component) => return self.link(&component),
                Err(error) => {
                    tracing::warn!(digest = file.digest, %error, "artifact does not load; compiling again");
                }
            }
        }
        self.compile(file)?;
        let component = self
            .map(&path)
            .map_err(|e| AdmissionError::Invalid(format!("{e:#}")))?;
        self.link(&component)
    }

    fn compile(&self, file: &ComponentFile) -> Result<(), ArtifactError> {
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
        let native = self
            .engine
            .engine()
            .precompile_component(&bytes)
            .map_err(|e| AdmissionError::Invalid(format!("{e:#}")))?;
        let checksum = hex::encode(Sha256::digest(&native));
        // The checksum goes last: an artifact without one counts as damaged, so no instant of a crash leaves a half file in use.
        let path = self.path(&file.digest);
        let _ = std::fs::remove_file(self.checksum_path(&file.digest));
        write_durably(&self.folder, &path, &native).map_err(io_error("write", &path))?;
        let path = self.checksum_path(&file.digest);
        write_durably(&self.folder, &path, checksum.as_bytes()).map_err(io_error("write", &path))
    }

    fn is_sound(&self, path: &Path, checksum_path: &Path) -> bool {
        let Ok(identity) = identity(path) else {
            return false;
        };
        if self.verified_identity(path) == Some(identity) {
            return true;
        }
        let sound = std::fs::read_to_string(checksum_path)
            .is_ok_and(|wanted| hash_file(path).is_ok_and(|found| found == wanted.trim()));
        if sound {
            self.lock_verified().insert(path.to_owned(), identity);
        } else {
            tracing::warn!(path = %path.display(), "artifact is damaged; compiling again");
        }
        sound
    }

    fn verified_identity(&self, path: &Path) -> Option<FileIdentity> {
        self.lock_verified().get(path).copied()
    }

    fn lock_verified(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, FileIdentity>> {
        // The map is only ever a cache of checks, whole at every instant.
        self.verified
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn map(&self, path: &Path) -> wasmtime::Result<Component> {
        // SAFETY: the file is our own output (its checksum was written after it and has been compared), lies in a
        // folder that only this node writes to, and is replaced by rename, never changed in place.
        unsafe { Component::deserialize_file(self.engine.engine(), path) }
    }

    fn link(&self, component: &Component) -> Result<Artifact, ArtifactError> {
        let handler = admission::check(component, self.engine.engine())?;
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
        Ok(Artifact { pre })
    }
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    let meta = std::fs::metadata(path)?;
    Ok(FileIdentity {
        inode: meta.ino(),
        size: meta.len(),
        modified_ns: meta
            .mtime()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(meta.mtime_nsec()),
    })
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

fn write_durably(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()
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
