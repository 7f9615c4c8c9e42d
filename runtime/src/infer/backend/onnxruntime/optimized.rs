//! Models as ONNX Runtime's optimizers leave them, kept on disk so that the next load has only to map them.
//!
//! What the optimizers make depends on the library and on the processor. It is kept only when loading it was seen to be
//! quicker.

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
use crate::infer::backend::keep::{Keep, MAX_KEPT_BYTES};

/// Changes whenever what is kept does.
const FORMAT: &str = "2";
/// A load that takes less is quick enough as it is.
const WORTH: Duration = Duration::from_millis(4);

/// The optimized models of one library on this processor.
pub(super) struct Optimized(Keep);

impl Optimized {
    /// Keeps them under `root`, and nothing there of other libraries or processors.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &Path, library: &str) -> io::Result<Self> {
        let key = format!("{FORMAT}\n{library}\n{}", processor());
        Keep::open(root, &key, "ort").map(Self)
    }

    /// A session for a model: from its optimized form, which is made now if there is none and it is worth it.
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
    ) -> ort::Result<Session> {
        if let Some(kept) = self.0.find(digest) {
            let opened = map(&kept).map_err(|e| e.to_string()).and_then(|map| {
                session::open_optimized(environment, &map, threads).map_err(|e| e.to_string())
            });
            match opened {
                Ok(session) => return Ok(session),
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
            return Ok(session);
        }
        match self.make(environment, digest, model, (threads, folding), took) {
            Ok(Some(optimized)) => Ok(optimized),
            Ok(None) => Ok(session),
            Err(error) => {
                tracing::warn!(
                    digest,
                    error,
                    "a model cannot be kept in its optimized form"
                );
                self.0.decline(digest);
                Ok(session)
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
        session::save_optimized(environment, model, threads, folding, made.as_ref())
            .map_err(|e| e.to_string())?;
        // Folding constants can make much of little.
        if std::fs::metadata(made.as_ref())
            .map_err(|e| e.to_string())?
            .len()
            > MAX_KEPT_BYTES
        {
            self.0.decline(digest);
            return Ok(None);
        }
        let begun = Instant::now();
        let map = map(made.as_ref()).map_err(|e| e.to_string())?;
        let session =
            session::open_optimized(environment, &map, threads).map_err(|e| e.to_string())?;
        let took = begun.elapsed();
        if !saves(plain, took) {
            self.0.decline(digest);
            return Ok(None);
        }
        self.0.adopt(digest, made).map_err(|e| e.to_string())?;
        tracing::debug!(
            digest,
            ?plain,
            ?took,
            "a model is kept in its optimized form"
        );
        Ok(Some(session))
    }

    /// Forgets a model.
    pub fn remove(&self, digest: &str) {
        self.0.remove(digest);
    }
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
