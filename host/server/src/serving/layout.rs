//! The files of a bundle as its replicas see them: a folder of links to blobs, there for as long as somebody holds it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use samovar_store::blobs::FileVersion;
use samovar_types::id::DeploymentId;

use crate::random::random_text;

/// A folder that goes when this is dropped. Each has a name of its own, so that a deployment whose bundle is swapped has
/// the old files and the new ones at once, for the requests that run on either.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    /// Each file: its path below the folder, its blob, and the version of the blob that was linked.
    links: Mutex<Vec<Link>>,
}

#[derive(Debug, Clone)]
struct Link {
    path: String,
    blob: PathBuf,
    version: FileVersion,
}

impl Layout {
    /// Links files into a new folder below `parent`: each by its path there, and where its blob lies.
    ///
    /// # Errors
    /// The folder, and what the system says.
    pub async fn make(
        parent: &Path,
        deployment: DeploymentId,
        files: Vec<(String, PathBuf)>,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let folder = parent.join(format!("{deployment}-{}", random_text()));
        let layout = Self {
            folder: folder.clone(),
            links: Mutex::default(),
        };
        let placing = tokio::task::spawn_blocking(move || {
            for (path, blob) in files {
                // Before the link: a blob that is replaced between the two is linked once more.
                let version = FileVersion::of(&blob)?;
                place(&blob, &layout.folder.join(&path))?;
                let link = Link {
                    path,
                    blob,
                    version,
                };
                layout.lock().push(link);
            }
            Ok::<_, io::Error>(layout)
        });
        match placing.await {
            Ok(placed) => placed.map_err(|error| (folder, error)),
            Err(stopped) => Err((folder, io::Error::other(stopped))),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Links anew what was repaired since: a link is to the file of a blob, not to its name. Costs a look at each file.
    ///
    /// # Errors
    /// What the system says.
    pub async fn renew(&self) -> io::Result<()> {
        let mut old = Vec::new();
        for (place, link) in self.lock().iter().enumerate() {
            let version = FileVersion::of(&link.blob)?;
            if version != link.version {
                let link = link.clone();
                old.push((place, Link { version, ..link }));
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        let folder = self.folder.clone();
        let renewing = tokio::task::spawn_blocking(move || {
            for (_, link) in &old {
                let target = folder.join(&link.path);
                // Whoever has the old one open keeps it.
                std::fs::remove_file(&target)?;
                place(&link.blob, &target)?;
            }
            Ok(old)
        });
        let renewed: io::Result<Vec<_>> = renewing.await.map_err(io::Error::other)?;
        let mut links = self.lock();
        for (place, link) in renewed? {
            links[place] = link;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        // Entries are pushed and replaced whole.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.folder);
        let remove = move || std::fs::remove_dir_all(folder);
        // Nobody waits for a thousand links to go; what is left of them goes with the next start.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => drop(remove()),
        }
    }
}

/// Takes away the folders that a node left which was killed; it has all of them made anew.
pub fn sweep(parent: &Path) {
    let _ = std::fs::remove_dir_all(parent);
}

fn place(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Another file system has no links to here.
    std::fs::hard_link(source, target).or_else(|_| std::fs::copy(source, target).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn gone(folder: &Path) {
        let looking = async {
            while folder.exists() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, looking).await.unwrap();
    }

    #[tokio::test]
    async fn a_blob_that_was_replaced_is_linked_anew() {
        let parent = tempfile::tempdir().unwrap();
        let blob = parent.path().join("blob");
        std::fs::write(&blob, "damaged").unwrap();
        let files = vec![
            ("a/b.txt".to_owned(), blob.clone()),
            ("c.txt".into(), blob.clone()),
        ];
        let bundles = parent.path().join("bundles");
        let layout = Layout::make(&bundles, "abcd1234".parse().unwrap(), files)
            .await
            .unwrap();
        layout.renew().await.unwrap();
        std::fs::write(parent.path().join("new"), "repaired").unwrap();
        std::fs::rename(parent.path().join("new"), &blob).unwrap();
        for _ in 0..2 {
            layout.renew().await.unwrap();
            for path in ["a/b.txt", "c.txt"] {
                let text = std::fs::read_to_string(layout.folder().join(path)).unwrap();
                assert_eq!(text, "repaired");
            }
        }
    }

    #[tokio::test]
    async fn two_layouts_of_a_deployment_lie_side_by_side_and_go_one_by_one() {
        let parent = tempfile::tempdir().unwrap();
        let blob = |text: &str| {
            let path = parent.path().join(text);
            std::fs::write(&path, text).unwrap();
            path
        };
        let bundles = parent.path().join("bundles");
        let make = async |text: &str| {
            let files = vec![("a/b.txt".to_owned(), blob(text))];
            let made = Layout::make(&bundles, "abcd1234".parse().unwrap(), files).await;
            made.unwrap()
        };
        let read = |layout: &Layout| std::fs::read_to_string(layout.folder().join("a/b.txt"));
        let (old, new) = (make("old").await, make("new").await);
        assert_eq!(read(&old).unwrap(), "old");
        let folder = old.folder().to_owned();
        drop(old);
        gone(&folder).await;
        assert_eq!(read(&new).unwrap(), "new");
        assert!(parent.path().join("old").exists(), "the blob stays");

        let missing = vec![("x".to_owned(), parent.path().join("gone"))];
        let (folder, _) = Layout::make(&bundles, "abcd1234".parse().unwrap(), missing)
            .await
            .unwrap_err();
        // Nothing half-made stays.
        gone(&folder).await;
        sweep(&bundles);
        assert!(!bundles.exists());
    }
}
