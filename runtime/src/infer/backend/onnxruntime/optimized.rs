//! Models as ONNX Runtime's optimizers leave them, kept on disk so that the next load has only to map them.
//!
//! What the optimizers make depends on the library and on the processor, so each pair has a folder of its own. A file is
//! kept only when loading it was seen to be quicker, and trusted only after its checksum was compared.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use memmap2::Mmap;
use ort::environment::Environment;
use ort::session::Session;
use sha2::{Digest, Sha256};

use super::session;
use crate::checked::{self, Checked};
use crate::infer::backend::Source;

/// Changes whenever what is kept does.
const FORMAT: &str = "1";
/// A load that takes less is quick enough as it is.
const WORTH: Duration = Duration::from_millis(4);
/// The optimized form of a larger model is not kept, and no larger form.
pub(super) const MAX_MODEL_BYTES: u64 = 1 << 30;
/// Optimized models take so much of the disk at most; those go first that were made first.
const MAX_TOTAL_BYTES: u64 = 8 << 30;
/// Ending of a kept model.
const KEPT: &str = "ort";
/// Ending of the mark of a model that is not worth it.
const DECLINED: &str = "declined";

/// The optimized models of one library on this processor.
pub(super) struct Optimized {
    folder: PathBuf,
    checked: Checked,
}

impl Optimized {
    /// Keeps them under `root`, and nothing there of other libraries or processors.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(root: &Path, library: &str) -> io::Result<Self> {
        let key = format!("{FORMAT}\n{library}\n{}", processor());
        let key = hex::encode(&Sha256::digest(key)[..8]);
        let folder = root.join(&key);
        std::fs::create_dir_all(&folder)?;
        for other in std::fs::read_dir(root)?.flatten() {
            if other.file_name() != key.as_str() {
                let _ = std::fs::remove_dir_all(other.path());
            }
        }
        Ok(Self {
            folder,
            checked: Checked::default(),
        })
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
    ) -> ort::Result<Session> {
        let kept = self.path(digest, KEPT);
        if kept.exists() && self.checked.is_sound(&kept) {
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
        let session = session::open(environment, &Source::File(model), threads)?;
        let took = begun.elapsed();
        let size = std::fs::metadata(model).map_or(u64::MAX, |meta| meta.len());
        if took < WORTH || size > MAX_MODEL_BYTES || self.path(digest, DECLINED).exists() {
            return Ok(session);
        }
        match self.make(environment, digest, model, threads, took) {
            Ok(Some(optimized)) => Ok(optimized),
            Ok(None) => Ok(session),
            Err(error) => {
                tracing::warn!(
                    digest,
                    error,
                    "a model cannot be kept in its optimized form"
                );
                self.decline(digest);
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
        threads: usize,
        plain: Duration,
    ) -> Result<Option<Session>, String> {
        let made = tempfile::Builder::new()
            .suffix(".making")
            .tempfile_in(&self.folder)
            .map_err(|e| e.to_string())?
            .into_temp_path();
        session::save_optimized(environment, model, threads, &made).map_err(|e| e.to_string())?;
        // Folding constants can make much of little.
        if std::fs::metadata(&made).map_err(|e| e.to_string())?.len() > MAX_MODEL_BYTES {
            self.decline(digest);
            return Ok(None);
        }
        let begun = Instant::now();
        let map = map(&made).map_err(|e| e.to_string())?;
        let session =
            session::open_optimized(environment, &map, threads).map_err(|e| e.to_string())?;
        let took = begun.elapsed();
        if !saves(plain, took) {
            self.decline(digest);
            return Ok(None);
        }
        checked::adopt(made, &self.path(digest, KEPT)).map_err(|e| e.to_string())?;
        tracing::debug!(
            digest,
            ?plain,
            ?took,
            "a model is kept in its optimized form"
        );
        self.prune();
        Ok(Some(session))
    }

    fn decline(&self, digest: &str) {
        if let Err(error) = File::create(self.path(digest, DECLINED)) {
            tracing::warn!(digest, %error, "cannot be noted");
        }
    }

    /// Forgets a model.
    pub fn remove(&self, digest: &str) {
        let kept = self.path(digest, KEPT);
        for path in [
            checked::checksum_path(&kept),
            self.path(digest, DECLINED),
            kept,
        ] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Takes away what is too much, and what a crash left half made.
    fn prune(&self) {
        let kept = std::fs::read_dir(&self.folder).into_iter().flatten();
        let kept = kept.flatten().filter_map(|entry| {
            let path = entry.path();
            if path.extension()? != KEPT {
                return None;
            }
            let meta = entry.metadata().ok()?;
            let digest = path.file_stem()?.to_str()?.to_owned();
            Some((meta.modified().ok()?, digest, meta.len()))
        });
        for digest in too_much(kept.collect(), MAX_TOTAL_BYTES) {
            self.remove(&digest);
        }
    }

    fn path(&self, digest: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{digest}.{ending}"))
    }
}

/// Whether the optimized form loads so much quicker that it is worth its place.
fn saves(plain: Duration, optimized: Duration) -> bool {
    optimized < plain.mul_f64(0.8)
}

/// Which of these go so that the rest fit: the oldest.
fn too_much(mut kept: Vec<(SystemTime, String, u64)>, limit: u64) -> Vec<String> {
    kept.sort();
    let mut total: u64 = kept.iter().map(|(.., size)| size).sum();
    let over = kept.into_iter().take_while(|(.., size)| {
        let over = total > limit;
        total = total.saturating_sub(*size);
        over
    });
    over.map(|(_, digest, _)| digest).collect()
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
    fn the_oldest_go_until_the_rest_fit() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let kept = || {
            vec![
                (at(3), "c".to_owned(), 4),
                (at(1), "a".to_owned(), 4),
                (at(2), "b".to_owned(), 4),
            ]
        };
        assert!(too_much(kept(), 12).is_empty());
        assert_eq!(too_much(kept(), 11), ["a"]);
        assert_eq!(too_much(kept(), 5), ["a", "b"]);
        assert_eq!(too_much(kept(), 0), ["a", "b", "c"]);
    }

    #[test]
    fn a_form_that_saves_little_is_not_kept() {
        let ms = Duration::from_millis;
        assert!(saves(ms(100), ms(30)));
        assert!(!saves(ms(100), ms(90)));
    }

    #[test]
    fn other_libraries_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let old = Optimized::open(root.path(), "1.20").unwrap().folder;
        let new = Optimized::open(root.path(), "1.32").unwrap().folder;
        assert!(!old.exists() && new.exists());
        assert_eq!(Optimized::open(root.path(), "1.32").unwrap().folder, new);
    }
}
