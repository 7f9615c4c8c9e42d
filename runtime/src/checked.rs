//! Files that this node made and trusts again only after their checksum was compared: once in a process for each file.
//!
//! The checksum lies beside the file and is written after it, so that no instant of a crash leaves a half file in use: what
//! did not reach the disk has another checksum, or none, and is made again. So nobody waits for the disk.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

/// Files of which it is remembered: all that are in use on a large node. Each that is forgotten is read once more.
const REMEMBERED: usize = 4096;

/// Files whose checksum this process has seen to be right, by their identity on disk.
#[derive(Default)]
pub(crate) struct Checked {
    verified: Mutex<HashMap<PathBuf, Identity>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    size: u64,
    modified_ns: i64,
}

impl Checked {
    /// Whether a file is there and as it was written.
    pub fn is_sound(&self, path: &Path) -> bool {
        let Ok(identity) = identity(path) else {
            return false;
        };
        if self.lock().get(path) == Some(&identity) {
            return true;
        }
        let sound = std::fs::read_to_string(checksum_path(path))
            .is_ok_and(|wanted| hash_file(path).is_ok_and(|found| found == wanted.trim()));
        if sound {
            let mut verified = self.lock();
            if verified.len() >= REMEMBERED {
                // Whichever: of most the file is gone.
                let some = verified.keys().next().cloned();
                some.and_then(|path| verified.remove(&path));
            }
            verified.insert(path.to_owned(), identity);
        } else {
            tracing::warn!(path = %path.display(), "the file is damaged, and made again");
        }
        sound
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Identity>> {
        // The map is only ever a cache of checks, whole at every instant.
        self.verified
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writes a file with its checksum.
///
/// # Errors
/// When the disk fails.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let checksum = hex::encode(Sha256::digest(bytes));
    let _ = std::fs::remove_file(checksum_path(path));
    write_whole(path, bytes)?;
    write_whole(&checksum_path(path), checksum.as_bytes())
}

/// Puts a finished file in its place, with its checksum.
///
/// # Errors
/// When the disk fails.
pub(crate) fn adopt(made: tempfile::TempPath, path: &Path) -> io::Result<()> {
    let checksum = hash_file(&made)?;
    let _ = std::fs::remove_file(checksum_path(path));
    made.persist(path).map_err(|e| e.error)?;
    write_whole(&checksum_path(path), checksum.as_bytes())
}

/// Writes a file whole or not at all, as far as this process and others see.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::write(file.path(), bytes)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// Writes a file whole or not at all, also when the power is cut.
///
/// # Errors
/// When the disk fails.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()
}

/// Where a file's checksum lies.
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
    fn files_that_came_and_went_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("digest.kind");
        write(&path, b"as it was made").unwrap();
        let identity = identity(&path).unwrap();
        let checked = Checked::default();
        let gone = (0..REMEMBERED).map(|number| (number.to_string().into(), identity));
        checked.lock().extend(gone);
        assert!(checked.is_sound(&path));
        let verified = checked.lock();
        assert_eq!(verified.len(), REMEMBERED);
        assert!(verified.contains_key(&path));
    }

    #[test]
    fn a_damaged_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("digest.kind");
        let checked = Checked::default();
        assert!(!checked.is_sound(&path));
        write(&path, b"as it was made").unwrap();
        assert!(checked.is_sound(&path));
        std::fs::write(&path, b"as it was nade").unwrap();
        assert!(!Checked::default().is_sound(&path));
        let made = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        std::fs::write(made.path(), b"made again").unwrap();
        adopt(made.into_temp_path(), &path).unwrap();
        assert!(checked.is_sound(&path));
        std::fs::remove_file(checksum_path(&path)).unwrap();
        assert!(!Checked::default().is_sound(&path));
    }
}
