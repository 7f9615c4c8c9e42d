//! A cache of models after the optimizations of ONNX Runtime, so that the next load only has to map them.
//!
//! Optimized models depend on the library and the CPU. A form is cached only if it was measured to load faster. An engine opens cached
//! forms and reports which models lack one; a worker of the node makes those (`backend/forms.rs`).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::Mmap;
use ort::environment::Environment;
use ort::session::Session;
use samovar_onnx::folding::Folding;

use super::session;
use crate::infer::backend::Source;
use crate::infer::backend::model_cache::{CacheAccess, MAX_CACHED_BYTES, ModelCache};

/// Version of the cached form.
const FORMAT: &str = "2";
/// Loads that take less are not worth optimizing.
const MIN_LOAD_TIME: Duration = Duration::from_millis(4);

/// Extension of the files.
pub(super) const EXTENSION: &str = "ort";

/// The optimized models of one library on this CPU.
pub(super) struct Optimized(ModelCache);

impl Optimized {
    /// Opens the cache below `root`, and removes those of other libraries or CPUs.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn open(root: &Path, library: &str, access: CacheAccess) -> io::Result<Self> {
        let key = format!("{FORMAT}\n{library}\n{}", describe_cpu());
        ModelCache::open(root, &key, EXTENSION, access).map(Self)
    }

    /// The name of the folder.
    pub fn folder(&self) -> &str {
        self.0.name()
    }

    /// Opens a model from its optimized form, which is made if there is none, it is worth it and this process makes forms. Also returns
    /// whether another process should make the form.
    ///
    /// # Errors
    /// The error of the library if it cannot run the model.
    pub fn open_session(
        &self,
        environment: &Environment,
        digest: &str,
        model: &Path,
        threads: usize,
        folding: Folding,
    ) -> ort::Result<(Session, bool)> {
        if let Some(form) = self.0.find(digest) {
            let opened = map(&form).map_err(|e| e.to_string()).and_then(|map| {
                session::open_optimized(environment, &map, threads).map_err(|e| e.to_string())
            });
            match opened {
                Ok(session) => return Ok((session, false)),
                Err(error) => {
                    tracing::warn!(
                        digest,
                        error,
                        "optimized model does not load and will be made again"
                    );
                }
            }
        }
        let begun = Instant::now();
        let session = session::open(environment, &Source::File(model), threads, folding)?;
        let took = begun.elapsed();
        let size = std::fs::metadata(model).map_or(u64::MAX, |meta| meta.len());
        if took < MIN_LOAD_TIME || size > MAX_CACHED_BYTES || self.0.is_declined(digest) {
            return Ok((session, false));
        }
        if !self.0.is_writable() {
            return Ok((session, true));
        }
        match self.make(environment, digest, model, (threads, folding), took) {
            Ok(Some(optimized)) => Ok((optimized, false)),
            Ok(None) => Ok((session, false)),
            Err(error) => {
                tracing::warn!(digest, error, "optimized form of a model cannot be made");
                self.0.decline(digest);
                Ok((session, false))
            }
        }
    }

    /// Makes the optimized form and caches it if it loads faster than `plain`.
    fn make(
        &self,
        environment: &Environment,
        digest: &str,
        model: &Path,
        (threads, folding): (usize, Folding),
        plain: Duration,
    ) -> Result<Option<Session>, String> {
        let made = self.0.create_entry().map_err(|e| e.to_string())?;
        let source = Source::File(model);
        let session = write(
            environment,
            &source,
            (threads, folding),
            plain,
            made.as_ref(),
        )?;
        match session {
            Some(_) => self.0.commit(digest, made).map_err(|e| e.to_string())?,
            None => self.0.decline(digest),
        }
        Ok(session)
    }

    /// Removes the form of a model.
    pub fn remove(&self, digest: &str) {
        self.0.remove(digest);
    }
}

/// Writes the optimized form of a model to an existing file, and opens it. Returns `None` if it does not load faster than the model
/// itself, which took `plain`.
fn write(
    environment: &Environment,
    source: &Source<'_>,
    (threads, folding): (usize, Folding),
    plain: Duration,
    to: &Path,
) -> Result<Option<Session>, String> {
    session::save_optimized(environment, source, threads, folding, to)
        .map_err(|e| e.to_string())?;
    // Constant folding can enlarge a model.
    let size = std::fs::metadata(to).map_err(|e| e.to_string())?.len();
    if size > MAX_CACHED_BYTES {
        return Ok(None);
    }
    let begun = Instant::now();
    let map = map(to).map_err(|e| e.to_string())?;
    let session = session::open_optimized(environment, &map, threads).map_err(|e| e.to_string())?;
    let took = begun.elapsed();
    tracing::debug!(?plain, ?took, size, "optimized form of a model");
    Ok(is_worthwhile(plain, took).then_some(session))
}

/// As [`write`], in a process that has not loaded the model. Returns `false` if the form is not worth caching.
///
/// # Errors
/// The error of the library.
pub(super) fn make(
    environment: &Environment,
    source: &Source<'_>,
    threads: usize,
    folding: Folding,
    to: &Path,
) -> Result<bool, String> {
    let begun = Instant::now();
    let session =
        session::open(environment, source, threads, folding).map_err(|e| e.to_string())?;
    let plain = begun.elapsed();
    drop(session);
    let made = write(environment, source, (threads, folding), plain, to)?;
    Ok(made.is_some())
}

/// Whether the optimized form loads so much faster that it is worth caching.
fn is_worthwhile(plain: Duration, optimized: Duration) -> bool {
    optimized < plain.mul_f64(0.8)
}

fn map(path: &Path) -> io::Result<Arc<Mmap>> {
    let file = File::open(path)?;
    // SAFETY: only this node writes to the folder, and files are replaced by rename, never changed in place.
    Ok(Arc::new(unsafe { Mmap::map(&file) }?))
}

/// The properties of the CPU that optimized models depend on.
fn describe_cpu() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines: Vec<&str> = cpu
        .lines()
        .filter(|line| {
            let name = line.split(':').next().unwrap_or_default().trim();
            matches!(name, "model name" | "flags" | "Features" | "CPU part")
        })
        .collect();
    lines.sort_unstable();
    lines.dedup();
    format!("{}\n{}", std::env::consts::ARCH, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_that_saves_little_is_not_kept() {
        let ms = Duration::from_millis;
        assert!(is_worthwhile(ms(100), ms(30)));
        assert!(!is_worthwhile(ms(100), ms(90)));
    }
}
