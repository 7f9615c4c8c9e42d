//! Models in a form that loads quicker, kept on disk under their digests.
//!
//! What such a form depends on makes up the name of its folder. A file is trusted only after its checksum was compared. The
//! checksum lies beside the file: so only the node may write here, and engines, which run what models say, may read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use crate::checked::{self, Checked};

/// No form of a larger model is kept, and no larger form.
pub(crate) const MAX_KEPT_BYTES: u64 = 1 << 30;
/// The forms of one backend take so much of the disk at most; those go first that were made first.
const MAX_TOTAL_BYTES: u64 = 8 << 30;
/// Names of forms that are being made begin so.
const MAKING: &str = ".making-";
/// How long a file may be there before the process that makes it has locked it.
const UNLOCKED: Duration = Duration::from_secs(10);
/// Ending of the mark of a model that is not worth it.
const DECLINED: &str = "declined";

/// What a process does with kept forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptForms {
    /// It makes and removes them.
    #[default]
    Made,
    /// It only reads them: another process makes them.
    Read,
}

/// The models of one backend.
pub(crate) struct Keep {
    folder: PathBuf,
    /// The folder's own name.
    name: String,
    forms: KeptForms,
    ending: &'static str,
    checked: Checked,
}

impl Keep {
    /// Keeps them under `root`, and nothing there that was made under another `key`. Files get this `ending`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(
        root: &Path,
        key: &str,
        ending: &'static str,
        forms: KeptForms,
    ) -> io::Result<Self> {
        let name = hex::encode(&Sha256::digest(key)[..8]);
        match forms {
            KeptForms::Made => Self::named(root, &name, ending),
            KeptForms::Read => Ok(Self {
                folder: root.join(&name),
                name,
                forms,
                ending,
                checked: Checked::default(),
            }),
        }
    }

    /// As [`Self::open`] makes it, in a folder whose name is known.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn named(root: &Path, name: &str, ending: &'static str) -> io::Result<Self> {
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
            forms: KeptForms::Made,
            ending,
            checked: Checked::default(),
        })
    }

    /// The name of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this process makes forms, or another one does.
    pub fn is_written_here(&self) -> bool {
        self.forms == KeptForms::Made
    }

    /// Whether the form of a model lies here, in whatever state.
    pub fn has(&self, digest: &str) -> bool {
        self.path(digest, self.ending).exists()
    }

    /// The kept form of a model, if it is there and as it was written.
    pub fn find(&self, digest: &str) -> Option<PathBuf> {
        let kept = self.path(digest, self.ending);
        (kept.exists() && self.checked.is_sound(&kept)).then_some(kept)
    }

    /// A new empty file for a form that is being made.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn fresh(&self) -> io::Result<InMaking> {
        let made = tempfile::Builder::new()
            .suffix(&format!(".{}", self.ending))
            .prefix(MAKING)
            .tempfile_in(&self.folder)?;
        let (lock, path) = made.into_parts();
        lock.lock()?;
        Ok(InMaking { path, _lock: lock })
    }

    /// Keeps what was made, and lets the oldest go that are too much then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn adopt(&self, digest: &str, made: InMaking) -> io::Result<()> {
        checked::adopt(made.path, &self.path(digest, self.ending))?;
        self.prune();
        Ok(())
    }

    /// Notes that a model is not worth it.
    pub fn decline(&self, digest: &str) {
        if let Err(error) = File::create(self.path(digest, DECLINED)) {
            tracing::warn!(digest, %error, "cannot be noted");
        }
    }

    /// Whether that was noted.
    pub fn is_declined(&self, digest: &str) -> bool {
        self.path(digest, DECLINED).exists()
    }

    /// Forgets a model.
    pub fn remove(&self, digest: &str) {
        let kept = self.path(digest, self.ending);
        for path in [
            checked::checksum_path(&kept),
            self.path(digest, DECLINED),
            kept,
        ] {
            let _ = std::fs::remove_file(path);
        }
    }

    fn prune(&self) {
        let kept = std::fs::read_dir(&self.folder).into_iter().flatten();
        let kept = kept.flatten().filter_map(|entry| {
            let path = entry.path();
            let digest = path.file_stem()?.to_str()?.to_owned();
            if path.extension()? != self.ending || digest.starts_with('.') {
                return None;
            }
            let meta = entry.metadata().ok()?;
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

/// A file that is being made. It is locked as long as its process lives, so that another process that opens the folder meanwhile can
/// tell it from what a killed one has left over.
pub(crate) struct InMaking {
    path: TempPath,
    _lock: File,
}

impl AsRef<Path> for InMaking {
    fn as_ref(&self) -> &Path {
        self.path.as_ref()
    }
}

/// Removes what killed processes have left over in a folder of forms.
fn sweep(folder: &Path, now: SystemTime) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let is_in_making = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(MAKING.as_bytes());
        let age = entry.metadata().and_then(|meta| meta.modified());
        let age = age.ok().and_then(|made| now.duration_since(made).ok());
        let path = entry.path();
        if is_in_making
            && age.is_some_and(|age| age > UNLOCKED)
            && File::open(&path).is_ok_and(|file| file.try_lock().is_ok())
        {
            // Earlier versions also made folders.
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
    }
    Ok(())
}

/// Forgets a model in every folder of forms below `root`, for those who do not know which libraries made them.
pub(crate) fn forget_kept(root: &Path, digest: &str) {
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
    fn forms_of_another_key_are_gone() {
        let root = tempfile::tempdir().unwrap();
        let open = |key| Keep::open(root.path(), key, "form", KeptForms::Made).unwrap();
        let old = open("1.20").folder;
        let new = open("1.32").folder;
        assert!(!old.exists() && new.exists());
        assert_eq!(open("1.32").folder, new);
    }

    #[test]
    fn who_only_reads_finds_what_was_made_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let open = |key, forms| Keep::open(root.path(), key, "form", forms).unwrap();
        let reader = open("1.32", KeptForms::Read);
        assert!(std::fs::read_dir(root.path()).unwrap().next().is_none());
        assert!(!reader.is_written_here() && reader.find("a").is_none());
        let maker = Keep::named(root.path(), reader.name(), "form").unwrap();
        let made = maker.fresh().unwrap();
        std::fs::write(&made, b"quick").unwrap();
        maker.adopt("a", made).unwrap();
        assert!(reader.find("a").is_some());
        let _of_another_version = open("1.20", KeptForms::Read);
        assert!(reader.find("a").is_some());
    }

    #[test]
    fn what_a_crash_left_half_made_goes_and_what_is_being_made_stays() {
        let root = tempfile::tempdir().unwrap();
        let keep = Keep::open(root.path(), "1", "form", KeptForms::Made).unwrap();
        let half = keep.fresh().unwrap().path.keep().unwrap();
        let making = keep.fresh().unwrap();
        let kept = keep.path("a", "form");
        std::fs::write(&kept, "whole").unwrap();
        sweep(&keep.folder, SystemTime::now()).unwrap();
        assert!(half.exists(), "its process has had no time to lock it");
        sweep(&keep.folder, SystemTime::now() + 2 * UNLOCKED).unwrap();
        assert!(!half.exists() && kept.exists());
        assert!(making.as_ref().exists());
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_damaged_or_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let open = || Keep::open(root.path(), "1", "form", KeptForms::Made).unwrap();
        let keep = open();
        assert_eq!(keep.find("a"), None);
        let made = keep.fresh().unwrap();
        std::fs::write(&made, b"quick").unwrap();
        keep.adopt("a", made).unwrap();
        let found = keep.find("a").unwrap();
        assert_eq!(std::fs::read(&found).unwrap(), b"quick");
        std::fs::write(&found, b"quack").unwrap();
        assert_eq!(open().find("a"), None);
        keep.decline("a");
        assert!(keep.is_declined("a"));
        keep.remove("a");
        assert!(!keep.is_declined("a") && keep.find("a").is_none());
    }
}
