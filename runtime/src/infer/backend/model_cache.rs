//! An on-disk cache of models in a form that loads faster, by digest.
//!
//! The name of the folder is a hash of everything that the forms depend on. A file is used only after its checksum was verified. The
//! checksum is beside the file, so only the node may write here; engines, which compute with inputs of callers, may only read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use crate::verified_files::{self, VerifiedFiles};

/// Largest model and largest form that is cached.
pub(crate) const MAX_CACHED_BYTES: u64 = 1 << 30;
/// Limit of all forms of one backend. The oldest are removed first.
const MAX_TOTAL_BYTES: u64 = 8 << 30;
/// Prefix of the names of files that are being written.
const TEMPORARY_PREFIX: &str = ".making-";
/// Time after which a file that is not locked counts as left over.
const LOCK_GRACE: Duration = Duration::from_secs(10);
/// Extension of the marker of a model that is not worth optimizing.
const DECLINED: &str = "declined";

/// How a process uses cached forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheAccess {
    /// It makes, reads and removes them.
    #[default]
    ReadWrite,
    /// It only reads them. Another process makes them.
    ReadOnly,
}

/// The cached models of one backend.
pub(crate) struct ModelCache {
    folder: PathBuf,
    /// The name of the folder.
    name: String,
    access: CacheAccess,
    extension: &'static str,
    verified: VerifiedFiles,
}

impl ModelCache {
    /// Opens the cache below `root`, and removes caches with other keys. Files have this `extension`.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn open(
        root: &Path,
        key: &str,
        extension: &'static str,
        access: CacheAccess,
    ) -> io::Result<Self> {
        let name = hex::encode(&Sha256::digest(key)[..8]);
        match access {
            CacheAccess::ReadWrite => Self::open_named(root, &name, extension),
            CacheAccess::ReadOnly => Ok(Self {
                folder: root.join(&name),
                name,
                access,
                extension,
                verified: VerifiedFiles::default(),
            }),
        }
    }

    /// As [`Self::open`], with the name of the folder.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn open_named(root: &Path, name: &str, extension: &'static str) -> io::Result<Self> {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder)?;
        for other in std::fs::read_dir(root)?.flatten() {
            if other.file_name() != name {
                let _ = std::fs::remove_dir_all(other.path());
            }
        }
        sweep(&folder, SystemTime::now())?;
        Ok(Self {
            folder,
            name: name.to_owned(),
            access: CacheAccess::ReadWrite,
            extension,
            verified: VerifiedFiles::default(),
        })
    }

    /// The name of the folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this process makes forms.
    pub fn is_writable(&self) -> bool {
        self.access == CacheAccess::ReadWrite
    }

    /// Whether there is a form of a model, valid or not.
    pub fn contains(&self, digest: &str) -> bool {
        self.path(digest, self.extension).exists()
    }

    /// The form of a model, if it exists and its checksum is correct.
    pub fn find(&self, digest: &str) -> Option<PathBuf> {
        let path = self.path(digest, self.extension);
        (path.exists() && self.verified.verify(&path)).then_some(path)
    }

    /// Creates an empty file for a new form.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn create_entry(&self) -> io::Result<NewEntry> {
        let file = tempfile::Builder::new()
            .suffix(&format!(".{}", self.extension))
            .prefix(TEMPORARY_PREFIX)
            .tempfile_in(&self.folder)?;
        let (lock, path) = file.into_parts();
        lock.lock()?;
        Ok(NewEntry { path, _lock: lock })
    }

    /// Adds a new form to the cache, and removes the oldest ones beyond the limit.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn commit(&self, digest: &str, entry: NewEntry) -> io::Result<()> {
        verified_files::persist(entry.path, &self.path(digest, self.extension))?;
        self.prune();
        Ok(())
    }

    /// Marks a model as not worth optimizing.
    pub fn decline(&self, digest: &str) {
        if let Err(error) = File::create(self.path(digest, DECLINED)) {
            tracing::warn!(digest, %error, "cannot mark a model as not worth optimizing");
        }
    }

    /// Whether a model is marked as not worth optimizing.
    pub fn is_declined(&self, digest: &str) -> bool {
        self.path(digest, DECLINED).exists()
    }

    /// Removes the form and the marker of a model.
    pub fn remove(&self, digest: &str) {
        let form = self.path(digest, self.extension);
        for path in [
            verified_files::checksum_path(&form),
            self.path(digest, DECLINED),
            form,
        ] {
            let _ = std::fs::remove_file(path);
        }
    }

    fn prune(&self) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        let forms = entries.flatten().filter_map(|entry| {
            let path = entry.path();
            let digest = path.file_stem()?.to_str()?.to_owned();
            if path.extension()? != self.extension || digest.starts_with('.') {
                return None;
            }
            let meta = entry.metadata().ok()?;
            Some((meta.modified().ok()?, digest, meta.len()))
        });
        for digest in select_excess(forms.collect(), MAX_TOTAL_BYTES) {
            self.remove(&digest);
        }
    }

    fn path(&self, digest: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{digest}.{extension}"))
    }
}

/// A file that is being written. It is locked while its process lives, so that another process that opens the folder can tell it from
/// left-over files of a killed process.
pub(crate) struct NewEntry {
    path: TempPath,
    _lock: File,
}

impl AsRef<Path> for NewEntry {
    fn as_ref(&self) -> &Path {
        self.path.as_ref()
    }
}

/// Removes left-over files of killed processes.
fn sweep(folder: &Path, now: SystemTime) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let is_temporary = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMPORARY_PREFIX.as_bytes());
        let age = entry.metadata().and_then(|meta| meta.modified());
        let age = age.ok().and_then(|made| now.duration_since(made).ok());
        let path = entry.path();
        if is_temporary
            && age.is_some_and(|age| age > LOCK_GRACE)
            && File::open(&path).is_ok_and(|file| file.try_lock().is_ok())
        {
            // Earlier versions also created folders.
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
    }
    Ok(())
}

/// Removes all forms of a model below `root`, of all backends and versions.
pub(crate) fn delete_cached(root: &Path, digest: &str) {
    let folders = |of: &Path| std::fs::read_dir(of).into_iter().flatten().flatten();
    for backend in folders(root) {
        for made_under in folders(&backend.path()) {
            for file in folders(&made_under.path()) {
                let name = file.file_name();
                let rest = name.to_str().and_then(|name| name.strip_prefix(digest));
                if rest.is_some_and(|rest| rest.starts_with('.')) {
                    let _ = std::fs::remove_file(file.path());
                }
            }
        }
    }
}

/// Which of these go so that the rest fit: the oldest.
fn select_excess(mut kept: Vec<(SystemTime, String, u64)>, limit: u64) -> Vec<String> {
    kept.sort();
    let mut total: u64 = kept.iter().map(|(.., size)| size).sum();
    let over = kept.into_iter().take_while(|(.., size)| {
        let over = total > limit;
        total = total.saturating_sub(*size);
        over
    });
    over.map(|(_, digest, _)| digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_forms_exceed_the_limit_first() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let kept = || {
            vec![
                (at(3), "c".to_owned(), 4),
                (at(1), "a".to_owned(), 4),
                (at(2), "b".to_owned(), 4),
            ]
        };
        assert!(select_excess(kept(), 12).is_empty());
        assert_eq!(select_excess(kept(), 11), ["a"]);
        assert_eq!(select_excess(kept(), 5), ["a", "b"]);
        assert_eq!(select_excess(kept(), 0), ["a", "b", "c"]);
    }

    #[test]
    fn forms_of_another_key_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let open =
            |key| ModelCache::open(root.path(), key, "form", CacheAccess::ReadWrite).unwrap();
        let old = open("1.20").folder;
        let new = open("1.32").folder;
        assert!(!old.exists() && new.exists());
        assert_eq!(open("1.32").folder, new);
    }

    #[test]
    fn a_reader_finds_forms_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let open = |key, forms| ModelCache::open(root.path(), key, "form", forms).unwrap();
        let reader = open("1.32", CacheAccess::ReadOnly);
        assert!(std::fs::read_dir(root.path()).unwrap().next().is_none());
        assert!(!reader.is_writable() && reader.find("a").is_none());
        let maker = ModelCache::open_named(root.path(), reader.name(), "form").unwrap();
        let made = maker.create_entry().unwrap();
        std::fs::write(&made, b"quick").unwrap();
        maker.commit("a", made).unwrap();
        assert!(reader.find("a").is_some());
        let _of_another_version = open("1.20", CacheAccess::ReadOnly);
        assert!(reader.find("a").is_some());
    }

    #[test]
    fn left_over_files_are_removed_and_files_being_written_stay() {
        let root = tempfile::tempdir().unwrap();
        let cache = ModelCache::open(root.path(), "1", "form", CacheAccess::ReadWrite).unwrap();
        let half = cache.create_entry().unwrap().path.keep().unwrap();
        let making = cache.create_entry().unwrap();
        let kept = cache.path("a", "form");
        std::fs::write(&kept, "whole").unwrap();
        sweep(&cache.folder, SystemTime::now()).unwrap();
        assert!(half.exists(), "its process has had no time to lock it");
        sweep(&cache.folder, SystemTime::now() + 2 * LOCK_GRACE).unwrap();
        assert!(!half.exists() && kept.exists());
        assert!(making.as_ref().exists());
    }

    #[test]
    fn a_form_is_found_until_it_is_damaged_or_removed() {
        let root = tempfile::tempdir().unwrap();
        let open = || ModelCache::open(root.path(), "1", "form", CacheAccess::ReadWrite).unwrap();
        let cache = open();
        assert_eq!(cache.find("a"), None);
        let made = cache.create_entry().unwrap();
        std::fs::write(&made, b"quick").unwrap();
        cache.commit("a", made).unwrap();
        let found = cache.find("a").unwrap();
        assert_eq!(std::fs::read(&found).unwrap(), b"quick");
        std::fs::write(&found, b"quack").unwrap();
        assert_eq!(open().find("a"), None);
        cache.decline("a");
        assert!(cache.is_declined("a"));
        cache.remove("a");
        assert!(!cache.is_declined("a") && cache.find("a").is_none());
    }
}
