//! The files of a bundle as its replicas see them: a folder of links to blobs, there for as long as somebody holds it.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::Id;

/// A folder that goes when this is dropped. Each has a name of its own, so that a deployment whose bundle is swapped has
/// the old files and the new ones at once, for the requests that run on either.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// Links files into a new folder below `parent`: each by its path there, and where its blob lies.
    ///
    /// # Errors
    /// The folder, and what the system says.
    pub async fn make(
        parent: &Path,
        deployment: Id,
        files: Vec<(String, PathBuf)>,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let folder = parent.join(format!("{deployment}-{}", Id::new()));
        let layout = Self {
            folder: folder.clone(),
        };
        let placing = tokio::task::spawn_blocking(move || {
            let place = |(path, blob): &(String, PathBuf)| place(blob, &layout.folder.join(path));
            files.iter().try_for_each(place).map(|()| layout)
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
