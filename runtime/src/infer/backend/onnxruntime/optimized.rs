//! Models as ONNX Runtime's optimizers leave them, kept on disk so that the next load has only to map them.
//!
//! What the optimizers make depends on the library and on the processor. It is kept only when loading it was seen to be
//! quicker. An engine opens what is kept and says of other models that they lack it; a worker of the node makes it
//! (`backend/forms.rs`).

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
use crate::infer::backend::keep::{Keep, KeptForms, MAX_KEPT_BYTES};

/// Changes whenever what is kept does.
const FORMAT: &str = "2";
/// A load that takes less is quick enough as it is.
const WORTH: Duration = Duration::from_millis(4);

/// Ending of the files.
pub(super) const ENDING: &str = "ort";

/// The optimized models of one library on this processor.
pub(super) struct Optimized(Keep);

impl Optimized {
    /// Keeps them under `root`, and nothing there of other libraries or processors.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &Path, library: &str, forms: KeptForms) -> io::Result<Self> {
        let key = format!("{FORMAT}\n{library}\n{}", processor());
        Keep::open(root, &key, ENDING, forms).map(Self)
    }

    /// The name of the folder that they lie in.
    pub fn folder(&self) -> &str {
        self.0.name()
    }

    /// A session for a model: from its optimized form, which is made now if there is none, it is worth it and this process makes
    /// forms. Also says whether a form is to be made elsewhere.
    ///
    /// # Errors
    /// In the library's words, when it cannot run the model.
    pub fn session(
        &self,
        environment: &Environment,
        digest: &str,
        model: &Path,
        threads: usize,
        folding: Folding,
    ) -> ort::Result<(Session, bool)> {
        if let Some(kept) = self.0.find(digest) {
            let opened = map(&kept).map_err(|e| e.to_string()).and_then(|map| {
                session::open_optimized(environment, &map, threads).map_err(|e| e.to_string())
            });
            match opened {
                Ok(session) => return Ok((session, false)),
                Err(error) => {
                    tracing::warn!(
                        digest,
                        error,
                        "an optimized model does not load; it is made again"
                    );
                }
            }
        }
        let begun = Instant::now();
        let session = session::open(environment, &Source::File(model), threads, folding)?;
        let took = begun.elapsed();
        let size = std::fs::metadata(model).map_or(u64::MAX, |meta| meta.len());
        if took < WORTH || size > MAX_KEPT_BYTES || self.0.is_declined(digest) {
            return Ok((session, false));
        }
        if !self.0.is_written_here() {
            return Ok((session, true));
        }
        match self.make(environment, digest, model, (threads, folding), took) {
            Ok(Some(optimized)) => Ok((optimized, false)),
            Ok(None) => Ok((session, false)),
            Err(error) => {
                tracing::warn!(
                    digest,
                    error,
                    "a model cannot be kept in its optimized form"
                );
                self.0.decline(digest);
                Ok((session, false))
            }
        }
    }

    /// Makes the optimized form and keeps it, if it loads quicker than `plain`.
    fn make(
        &self,
        environment: &Environment,
        digest: &str,
        model: &Path,
        (threads, folding): (usize, Folding),
        plain: Duration,
    ) -> Result<Option<Session>, String> {
        let made = self.0.fresh().map_err(|e| e.to_string())?;
        let source = Source::File(model);
        let session = write(
            environment,
            &source,
            (threads, folding),
            plain,
            made.as_ref(),
        )?;
        match session {
            Some(_) => self.0.adopt(digest, made).map_err(|e| e.to_string())?,
            None => self.0.decline(digest),
        }
        Ok(session)
    }

    /// Forgets a model.
    pub fn remove(&self, digest: &str) {
        self.0.remove(digest);
    }
}

/// Writes the optimized form of a model to a file that is there, and opens it; nothing when it does not load quicker than the model
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
    // Folding constants can make much of little.
    let size = std::fs::metadata(to).map_err(|e| e.to_string())?.len();
    if size > MAX_KEPT_BYTES {
        return Ok(None);
    }
    let begun = Instant::now();
    let map = map(to).map_err(|e| e.to_string())?;
    let session = session::open_optimized(environment, &map, threads).map_err(|e| e.to_string())?;
    let took = begun.elapsed();
    tracing::debug!(?plain, ?took, size, "optimized form of a model");
    Ok(saves(plain, took).then_some(session))
}

/// As [`write`], in a process that has not loaded the model before; false when the form is not worth its place.
///
/// # Errors
/// In the library's words.
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

/// Whether the optimized form loads so much quicker that it is worth its place.
fn saves(plain: Duration, optimized: Duration) -> bool {
    optimized < plain.mul_f64(0.8)
}

fn map(path: &Path) -> io::Result<Arc<Mmap>> {
    let file = File::open(path)?;
    // SAFETY: the file is our own, lies in a folder that only this node writes to, and is replaced by rename, never changed
    // in place.
    Ok(Arc::new(unsafe { Mmap::map(&file) }?))
}

/// What of the processor decides what the optimizers make.
fn processor() -> String {
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
        assert!(saves(ms(100), ms(30)));
        assert!(!saves(ms(100), ms(90)));
    }
}
