//! Removes artifacts that this program cannot use: those for other engines and versions, and temporary files of a crash.
//!
//! Touches only names that this or an earlier version has used, in the node's own folder.

use std::path::{Path, PathBuf};

/// Removes what no engine of this process can use, in a background thread. To be called before anything is compiled.
pub(super) fn begin(root: &Path, current: &[&Path]) {
    for folder in current {
        remove_unfinished(folder);
    }
    let others = outdated(root, current);
    if others.is_empty() {
        return;
    }
    let remove = move || {
        for folder in others {
            match std::fs::remove_dir_all(&folder) {
                Ok(()) => tracing::info!(
                    folder = %folder.display(),
                    "removed artifacts of another version"
                ),
                Err(error) => tracing::warn!(
                    folder = %folder.display(),
                    %error,
                    "cannot remove artifacts of another version"
                ),
            }
        }
    };
    let thread = std::thread::Builder::new().name("sweep-artifacts".into());
    if let Err(error) = thread.spawn(remove) {
        tracing::warn!(%error, "cannot remove artifacts of another version");
    }
}

fn outdated(root: &Path, current: &[&Path]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let ours = folders.filter(|entry| entry.file_name().to_str().is_some_and(is_engine_folder));
    ours.map(|entry| entry.path())
        .filter(|path| !current.contains(&path.as_path()))
        .collect()
}

/// Whether a folder is named for an engine: `sequential-0123456789abcdef`, or the digits alone.
fn is_engine_folder(name: &str) -> bool {
    let hash = name
        .strip_prefix("sequential-")
        .or_else(|| name.strip_prefix("concurrent-"))
        .unwrap_or(name);
    hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes temporary files, whose names begin with a dot; those of artifacts do not.
fn remove_unfinished(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_of_other_engines_are_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let current = at("sequential-0000000000000001");
        for folder in [
            "sequential-0000000000000001",
            "sequential-0000000000000002",
            "concurrent-00000000000000ff",
            "00000000000000ab",
            "mine",
            "sequential-1",
        ] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("a.cwasm"), "x").unwrap();
        }
        std::fs::write(current.join(".tmpAbC"), "half").unwrap();
        std::fs::write(at("00000000000000cd"), "a file").unwrap();
        let mut found = outdated(root.path(), &[&current]);
        found.sort();
        assert_eq!(
            found,
            [
                at("00000000000000ab"),
                at("concurrent-00000000000000ff"),
                at("sequential-0000000000000002"),
            ]
        );
        begin(root.path(), &[&current]);
        assert!(!current.join(".tmpAbC").exists());
        assert!(current.join("a.cwasm").exists());
        let begun = std::time::Instant::now();
        while found.iter().any(|folder| folder.exists()) {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60));
            std::thread::yield_now();
        }
        assert!(at("mine").exists() && at("00000000000000cd").exists());
    }
}
