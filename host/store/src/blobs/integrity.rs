//! Which blobs on disk hold the bytes of their digest: each process hashes a file before it first uses it, and the scrub
//! hashes it again.
//!
//! A verdict belongs to one version of a file (inode, size, time of change), so a file that is replaced or written to is
//! hashed again, and a repeated check costs one `stat`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use samovar_types::digest::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The scrub pauses so many times as long as it works, so that it uses a fifth of a core and of the disk.
const REST: u32 = 4;
/// Locks that digests are spread over: files on different stripes are hashed in parallel.
const STRIPES: usize = 32;

/// One state of a file on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileVersion {
    /// The current version of a file.
    ///
    /// # Errors
    /// The file is missing or cannot be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self {
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// Whether a blob's file holds the bytes of its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Sound,
    Damaged {
        /// The digest of the file's bytes.
        found: Digest,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// A request waits for the result.
    Fast,
    /// Background work: pause between reads.
    Gentle,
}

/// The verdicts of a process. Hashing blocks the calling thread.
#[derive(Clone, Default)]
pub struct Integrity(Arc<Shared>);

struct Shared {
    known: Mutex<HashMap<Digest, (FileVersion, Verdict)>>,
    /// Blobs that the last check found damaged or missing.
    damaged: Mutex<HashSet<Digest>>,
    /// Held while hashing, so that concurrent checks of one blob hash it once.
    turns: [Mutex<()>; STRIPES],
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            damaged: Mutex::default(),
            turns: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Integrity {
    /// The verdict on the current version of a file, if it is known without hashing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn known(&self, digest: Digest, path: &Path) -> io::Result<Option<Verdict>> {
        let now = FileVersion::of(path)?;
        let known = self.lock().get(&digest).copied();
        Ok(known.and_then(|(version, verdict)| (version == now).then_some(verdict)))
    }

    /// The verdict on the current version of a file; hashes it if needed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn check(&self, digest: Digest, path: &Path) -> io::Result<Verdict> {
        let stripe = usize::from(digest.as_bytes()[0]) % STRIPES;
        let _turn = self.0.turns[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match self.known(digest, path)? {
            Some(verdict) => Ok(verdict),
            None => self.hash(digest, path, Pace::Fast),
        }
    }

    /// Hashes a file, whether its verdict is known or not.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn hash(&self, digest: Digest, path: &Path, pace: Pace) -> io::Result<Verdict> {
        let hashed = FileVersion::of(path).and_then(|before| Ok((before, digest_of(path, pace)?)));
        let (before, found) = hashed.inspect_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                self.damaged().insert(digest);
            }
        })?;
        let verdict = if found == digest {
            Verdict::Sound
        } else {
            Verdict::Damaged { found }
        };
        // A file that changed meanwhile gets its verdict from the next check.
        if FileVersion::of(path)? == before {
            self.note(digest, before, verdict);
        }
        Ok(verdict)
    }

    /// Records that a file was just written with the bytes of the digest.
    pub fn written(&self, digest: Digest, path: &Path) {
        if let Ok(version) = FileVersion::of(path) {
            self.note(digest, version, Verdict::Sound);
        }
    }

    /// Forgets a deleted blob.
    pub fn forget(&self, digest: Digest) {
        self.lock().remove(&digest);
        self.damaged().remove(&digest);
    }

    /// The first of these blobs whose last check found it damaged or missing. Reads no file.
    pub fn first_damaged(&self, digests: impl IntoIterator<Item = Digest>) -> Option<Digest> {
        let damaged = self.damaged();
        if damaged.is_empty() {
            return None;
        }
        digests.into_iter().find(|digest| damaged.contains(digest))
    }

    fn note(&self, digest: Digest, version: FileVersion, verdict: Verdict) {
        self.lock().insert(digest, (version, verdict));
        match verdict {
            Verdict::Sound => self.damaged().remove(&digest),
            Verdict::Damaged { .. } => self.damaged().insert(digest),
        };
    }

    fn damaged(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // Single insertions and removals: a panic leaves it whole.
        self.0
            .damaged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, (FileVersion, Verdict)>> {
        // Single insertions and removals: a panic leaves it whole.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest_of(path: &Path, pace: Pace) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let begun = Instant::now();
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(Digest::from_hasher(hasher));
        }
        hasher.update(&chunk[..read]);
        if pace == Pace::Gentle {
            // Bounded, because a disk that hung would cause a very long pause.
            std::thread::sleep((begun.elapsed() * REST).min(Duration::from_secs(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_found_and_a_repaired_file_is_sound_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let bytes = vec![5; CHUNK_BYTES + 9];
        let digest = Digest::of(&bytes);
        let integrity = Integrity::default();
        assert!(integrity.check(digest, &path).is_err(), "it is not there");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(integrity.known(digest, &path).unwrap(), None);
        assert_eq!(integrity.check(digest, &path).unwrap(), Verdict::Sound);
        assert_eq!(
            integrity.known(digest, &path).unwrap(),
            Some(Verdict::Sound)
        );

        let mut flipped = bytes.clone();
        flipped[CHUNK_BYTES] ^= 1;
        std::fs::write(folder.path().join("other"), &flipped).unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(integrity.known(digest, &path).unwrap(), None);
        let found = Digest::of(&flipped);
        let damaged = Verdict::Damaged { found };
        assert_eq!(integrity.check(digest, &path).unwrap(), damaged);
        assert_eq!(integrity.known(digest, &path).unwrap(), Some(damaged));
        let other = Digest::of(b"other");
        assert_eq!(integrity.first_damaged([other, digest]), Some(digest));
        assert_eq!(integrity.first_damaged([other]), None);

        std::fs::write(folder.path().join("other"), &bytes).unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(
            integrity.hash(digest, &path, Pace::Gentle).unwrap(),
            Verdict::Sound
        );
        assert_eq!(integrity.first_damaged([digest]), None);
        std::fs::remove_file(&path).unwrap();
        assert!(integrity.hash(digest, &path, Pace::Gentle).is_err());
        assert_eq!(integrity.first_damaged([digest]), Some(digest));
        integrity.written(digest, &folder.path().join("none"));
        assert_eq!(integrity.first_damaged([digest]), Some(digest));
        std::fs::write(&path, &bytes).unwrap();
        integrity.written(digest, &path);
        assert_eq!(integrity.first_damaged([digest]), None);
        integrity.forget(digest);
        assert_eq!(integrity.known(digest, &path).unwrap(), None);
    }
}
