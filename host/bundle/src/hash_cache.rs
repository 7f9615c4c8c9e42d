//! A cache of file digests: an unchanged file is not read again, whatever its size.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use samovar_onnx::external::DataNeed;
use samovar_onnx::file::{ReadError, data_needs};
use samovar_types::bundle::Blob;
use samovar_types::digest::Digest;
use sha2::{Digest as _, Sha256};

/// Granularity of modification times. A file that changed less than this before it was read may have changed again since, with the
/// same time.
const MTIME_GRANULARITY: Duration = Duration::from_millis(20);

/// Identifies a version of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    /// Detects a change even if the modification time was set back, as `cp -p` does.
    changed_ns: i128,
}

impl Identity {
    /// The identity of the file at a path, after following links.
    pub fn read(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a later change would change the identity.
    fn is_settled(&self, now_ns: i128) -> bool {
        let last = self.modified_ns.max(self.changed_ns);
        now_ns.saturating_sub(last) > granularity_ns()
    }

    /// Whether a program may be writing the file now.
    pub fn is_being_written(&self) -> bool {
        self.was_written_at(now_ns())
    }

    /// A time in the future comes from a wrong clock and is ignored.
    fn was_written_at(&self, now_ns: i128) -> bool {
        (0..granularity_ns()).contains(&now_ns.saturating_sub(self.modified_ns))
    }
}

fn granularity_ns() -> i128 {
    i128::try_from(MTIME_GRANULARITY.as_nanos()).unwrap_or(i128::MAX)
}

fn now_ns() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
    })
}

/// The result of reading a file.
struct Known {
    identity: Identity,
    is_settled: bool,
    blob: Blob,
    needs: Option<Vec<DataNeed>>,
    /// Whether it was requested since the last [`FileHashCache::forget_others`].
    is_used: bool,
}

/// A cache of the files that were read.
#[derive(Default)]
pub struct FileHashCache {
    files: HashMap<PathBuf, Known>,
    changed_while_reading: Option<PathBuf>,
}

impl FileHashCache {
    /// Digest and size of a file. Reads the file only if it has changed.
    pub fn blob(&mut self, path: &Path) -> io::Result<Blob> {
        let identity = Identity::read(path)?;
        if let Some(known) = self.files.get_mut(path)
            && known.is_settled
            && known.identity == identity
        {
            known.is_used = true;
            return Ok(known.blob);
        }
        let now = now_ns();
        let blob = hash_file(path)?;
        let changed = Identity::read(path)? != identity;
        if changed {
            self.changed_while_reading = Some(path.to_owned());
        }
        let known = Known {
            identity,
            is_settled: !changed && identity.is_settled(now),
            blob,
            needs: None,
            is_used: true,
        };
        self.files.insert(path.to_owned(), known);
        Ok(blob)
    }

    /// The other files that a model references. Scans the model only if it has changed.
    pub fn data_needs(&mut self, model: &Path) -> Result<Vec<DataNeed>, ReadError> {
        let identity = Identity::read(model).ok();
        let known = self.files.get_mut(model);
        let known = known.filter(|one| one.is_settled && Some(one.identity) == identity);
        if let Some(known) = known {
            if let Some(needs) = &known.needs {
                return Ok(needs.clone());
            }
            let needs = data_needs(model)?;
            return Ok(known.needs.insert(needs).clone());
        }
        data_needs(model)
    }

    /// Drops entries that were not requested since the last call of this function.
    pub fn forget_others(&mut self) {
        self.files
            .retain(|_, known| std::mem::take(&mut known.is_used));
    }

    /// Takes the path of a file that changed while it was read, if there was one since the last call.
    pub fn take_changed_while_reading(&mut self) -> Option<PathBuf> {
        self.changed_while_reading.take()
    }
}

/// Reads a file once and returns its digest and size.
pub fn hash_file(path: &Path) -> io::Result<Blob> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Blob {
        digest: Digest::from_hasher(hasher),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_may_have_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let mut files = FileHashCache::default();
        let mut reads = |text: &str| {
            std::fs::write(&path, text).unwrap();
            // Of the same length, and on a coarse clock at the same time.
            assert_eq!(
                files.blob(&path).unwrap().digest,
                Digest::of(text.as_bytes())
            );
        };
        for text in ["one", "two", "six"] {
            reads(text);
        }
    }

    #[test]
    fn what_is_as_it_was_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, "old").unwrap();
        let mut files = FileHashCache::default();
        let fake = Blob {
            digest: Digest::of(b"other"),
            size: 3,
        };
        let known = |is_settled| Known {
            identity: Identity::read(&path).unwrap(),
            is_settled,
            blob: fake,
            needs: None,
            is_used: false,
        };
        files.files.insert(path.clone(), known(true));
        assert_eq!(files.blob(&path).unwrap(), fake);
        // It was asked for, then it was not.
        files.forget_others();
        assert_eq!(files.blob(&path).unwrap(), fake);
        files.forget_others();
        files.forget_others();
        assert_eq!(files.blob(&path).unwrap().digest, Digest::of(b"old"));
        files.files.insert(path.clone(), known(false));
        assert_eq!(files.blob(&path).unwrap().digest, Digest::of(b"old"));
    }

    #[test]
    fn times_say_whether_a_file_is_at_rest() {
        let at = |modified_ns, changed_ns| Identity {
            device: 1,
            inode: 1,
            size: 1,
            modified_ns,
            changed_ns,
        };
        let now = 1_000_000_000;
        assert!(at(now - 30_000_000, now - 30_000_000).is_settled(now));
        assert!(!at(now - 10_000_000, now - 30_000_000).is_settled(now));
        assert!(!at(0, now - 10_000_000).is_settled(now));
        assert!(at(now - 10_000_000, now).was_written_at(now));
        assert!(!at(now - 30_000_000, now).was_written_at(now));
        // Of a machine whose clock is ahead.
        assert!(!at(now + 5, now).was_written_at(now) && !at(now + 5, now).is_settled(now));
    }
}
