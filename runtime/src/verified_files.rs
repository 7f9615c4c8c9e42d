//! Files that this node wrote earlier and uses only after their checksum was verified, once per process and file.
//!
//! The checksum is in a file beside it and written after it, so an incomplete file after a crash has a wrong checksum or none, and is
//! made again. This way no write has to wait for the disk.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

/// Most files that are remembered: enough for a large node. Other files are verified again.
const MAX_REMEMBERED: usize = 4096;

/// Files whose checksum this process has verified, with their identity on disk.
#[derive(Default)]
pub(crate) struct VerifiedFiles {
    verified: Mutex<HashMap<PathBuf, Identity>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    size: u64,
    modified_ns: i64,
}

impl VerifiedFiles {
    /// Whether a file exists and its checksum is correct.
    pub fn verify(&self, path: &Path) -> bool {
        let Ok(identity) = identity(path) else {
            return false;
        };
        if self.lock().get(path) == Some(&identity) {
            return true;
        }
        let is_valid = std::fs::read_to_string(checksum_path(path))
            .is_ok_and(|wanted| hash_file(path).is_ok_and(|found| found == wanted.trim()));
        if is_valid {
            let mut verified = self.lock();
            if verified.len() >= MAX_REMEMBERED {
                // Any: most of them were removed.
                let some = verified.keys().next().cloned();
                some.and_then(|path| verified.remove(&path));
            }
            verified.insert(path.to_owned(), identity);
        } else {
            tracing::warn!(path = %path.display(), "file is damaged and will be made again");
        }
        is_valid
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Identity>> {
        self.verified
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writes a file and its checksum.
///
/// # Errors
/// The error of the file system.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let checksum = hex::encode(Sha256::digest(bytes));
    let _ = std::fs::remove_file(checksum_path(path));
    write_atomically(path, bytes)?;
    write_atomically(&checksum_path(path), checksum.as_bytes())
}

/// Moves a complete file to its path, and writes its checksum.
///
/// # Errors
/// The error of the file system.
pub(crate) fn persist(made: tempfile::TempPath, path: &Path) -> io::Result<()> {
    let checksum = hash_file(&made)?;
    let _ = std::fs::remove_file(checksum_path(path));
    made.persist(path).map_err(|e| e.error)?;
    write_atomically(&checksum_path(path), checksum.as_bytes())
}

/// Writes a file atomically, as seen by all processes.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(file.path(), bytes)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// Writes a file atomically, even if the power fails.
///
/// # Errors
/// The error of the file system.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()
}

/// The path of the checksum of a file.
pub(crate) fn checksum_path(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

fn identity(path: &Path) -> io::Result<Identity> {
    let meta = std::fs::metadata(path)?;
    Ok(Identity {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_remembered_files_is_limited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("digest.kind");
        write(&path, b"as it was made").unwrap();
        let identity = identity(&path).unwrap();
        let verified_files = VerifiedFiles::default();
        let gone = (0..MAX_REMEMBERED).map(|number| (number.to_string().into(), identity));
        verified_files.lock().extend(gone);
        assert!(verified_files.verify(&path));
        let verified = verified_files.lock();
        assert_eq!(verified.len(), MAX_REMEMBERED);
        assert!(verified.contains_key(&path));
    }

    #[test]
    fn a_damaged_file_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("digest.kind");
        let verified_files = VerifiedFiles::default();
        assert!(!verified_files.verify(&path));
        write(&path, b"as it was made").unwrap();
        assert!(verified_files.verify(&path));
        std::fs::write(&path, b"as it was nade").unwrap();
        assert!(!VerifiedFiles::default().verify(&path));
        let made = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        std::fs::write(made.path(), b"made again").unwrap();
        persist(made.into_temp_path(), &path).unwrap();
        assert!(verified_files.verify(&path));
        std::fs::remove_file(checksum_path(&path)).unwrap();
        assert!(!VerifiedFiles::default().verify(&path));
    }
}
