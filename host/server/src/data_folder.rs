//! The data folder of a node: locked while a node uses it, readable by its owner alone, and whole.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::Mode;
use samovar_store::vault::KEY_FILE;
use samovar_types::id::NodeId;

use crate::random::random_text;

/// Holds the id of the node.
const NODE_ID: &str = "node-id";
/// What the lock file holds while a node runs.
const RUNNING: &[u8] = b"running\n";

/// The folder of a node that runs.
pub struct DataFolder {
    path: PathBuf,
    lock: File,
    after_crash: bool,
}

impl DataFolder {
    /// Creates or opens the folder. From now on the process creates files and folders that only its owner can use,
    /// whatever the umask was; what others could use is tightened.
    ///
    /// # Errors
    /// When the folder cannot be used, or another node uses it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
        let path = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .and_then(|()| path.canonicalize())
            .with_context(|| format!("cannot use the folder {}", path.display()))?;
        let (lock, after_crash) = lock(&path)?;
        match tighten(&path, &path.join(KEY_FILE)) {
            Ok(0) => {}
            Ok(changed) => tracing::info!(
                folder = %path.display(),
                changed,
                "others could use files of the data folder; now only their owner can"
            ),
            Err(error) => tracing::warn!(
                folder = %path.display(),
                %error,
                "others may be able to use files of the data folder: run `chmod -R go= ` on it as their owner"
            ),
        }
        Ok(Self {
            path,
            lock,
            after_crash,
        })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id of the node, which it keeps for as long as the folder is there.
    pub fn node_id(&self) -> String {
        let file = self.path.join(NODE_ID);
        let found = fs::read_to_string(&file).ok();
        let found = found.and_then(|text| text.trim().parse::<NodeId>().ok());
        if let Some(id) = found {
            return id.to_string();
        }
        let id = random_text();
        // On a full disk the node starts all the same; after its end the next one waits for its leases to end.
        if let Err(error) = fs::write(&file, &id) {
            tracing::warn!(file = %file.display(), %error, "id of the node cannot be kept");
        }
        id
    }

    /// Whether the node that used it before ended without [`DataFolder::close`]: it was killed, or the power failed.
    pub fn after_crash(&self) -> bool {
        self.after_crash
    }

    /// Notes that the node works from here on, so that its end without [`DataFolder::close`] is a crash.
    pub fn begin(&mut self) {
        let noted = self
            .lock
            .rewind()
            .and_then(|()| self.lock.write_all(RUNNING));
        // On a full disk the node starts all the same; a crash of it then looks like a clean end.
        if let Err(error) = noted {
            tracing::warn!(%error, "the start of the node cannot be noted");
        }
    }

    /// Notes that the node ended as it should.
    pub fn close(self) {
        if let Err(error) = self.lock.set_len(0) {
            tracing::warn!(%error, "the clean end of the node cannot be noted");
        }
    }

    /// Whether a lost database would be mistaken for a first start: blobs are there, but no database.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn lost_database(&self) -> io::Result<bool> {
        let database = match fs::metadata(self.path.join("state.db")) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(database == 0 && self.has_blobs()?)
    }

    /// Whether any blob is stored.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn has_blobs(&self) -> io::Result<bool> {
        let folders = match fs::read_dir(self.path.join("blobs")) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for folder in folders {
            let folder = folder?;
            if folder.file_type()?.is_dir() && fs::read_dir(folder.path())?.next().is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What to tell an operator whose database is gone.
    pub fn explain_lost_database(&self) -> String {
        format!(
            "{} holds blobs of models, but no database of which models they are: state.db is missing or empty. Put state.db \
             back from a backup, together with state.db-wal if there is one, or start on another folder with --data. \
             --new-store begins without models, keys and secrets; it deletes the blobs later and writes a new admin key",
            self.path.display()
        )
    }
}

/// Two nodes on one folder would take each other's uploads for leftovers.
fn lock(folder: &Path) -> anyhow::Result<(File, bool)> {
    let path = folder.join("lock");
    let cannot = || format!("cannot use {}", path.display());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(cannot)?;
    if file.try_lock().is_err() {
        bail!(
            "another samovar serves from {}: stop it, or use another --data",
            folder.display()
        );
    }
    let mut before = Vec::new();
    (&mut file)
        .take(RUNNING.len() as u64)
        .read_to_end(&mut before)
        .with_context(cannot)?;
    Ok((file, before == RUNNING))
}

/// Takes everybody's permissions away but the owner's. Says how many files and folders others could use.
///
/// A key that others could read is left as it is: the vault refuses it, because it may be known by now.
fn tighten(path: &Path, key: &Path) -> io::Result<usize> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() || path == key {
        return Ok(0);
    }
    let mut changed = 0;
    let mode = found.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode & 0o7700))?;
        changed += 1;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            changed += tighten(&entry?.path(), key)?;
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_told_from_a_clean_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = DataFolder::open(folder.path()).unwrap();
        assert!(!first.after_crash());
        let id = first.node_id();
        assert_eq!(first.node_id(), id);
        assert!(DataFolder::open(folder.path()).is_err(), "it is locked");
        first.begin();
        drop(first);
        // One that does not get as far as to work changes nothing.
        drop(DataFolder::open(folder.path()).unwrap());
        let mut second = DataFolder::open(folder.path()).unwrap();
        assert!(second.after_crash());
        assert_eq!(second.node_id(), id);
        second.begin();
        second.close();
        assert!(!DataFolder::open(folder.path()).unwrap().after_crash());
    }

    #[test]
    fn what_others_could_use_is_tightened() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        fs::create_dir_all(data.join("logs")).unwrap();
        let log = data.join("logs/a");
        fs::write(&log, "x").unwrap();
        fs::set_permissions(&log, Permissions::from_mode(0o664)).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&outside, data.join("link")).unwrap();
        DataFolder::open(&data).unwrap();
        assert_eq!(mode(&log), 0o600);
        assert_eq!(mode(&data), 0o700);
        assert_eq!(mode(&data.join("logs")), 0o700);
        assert_eq!(mode(&outside), 0o644, "links are not followed");
    }

    #[test]
    fn blobs_without_a_database_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let shard = folder.path().join("blobs/ab");
        assert!(!data.lost_database().unwrap());
        fs::create_dir_all(&shard).unwrap();
        assert!(!data.lost_database().unwrap(), "an empty folder is no blob");
        fs::write(shard.join("abc"), "x").unwrap();
        assert!(data.lost_database().unwrap());
        fs::write(folder.path().join("state.db"), "").unwrap();
        assert!(
            data.lost_database().unwrap(),
            "an empty file is no database"
        );
        fs::write(folder.path().join("state.db"), "x").unwrap();
        assert!(!data.lost_database().unwrap());
    }
}
