//! Finds a component that Cargo built: in the manifest's `target/…`, or in the target folder that Cargo is configured to use.

use std::path::{Component as Part, Path, PathBuf};
use std::process::Command;

/// Cargo's name for its target folder.
const TARGET: &str = "target";

/// The file of a component, and the other places where it was searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    /// Other places without the file, if it was not found.
    pub others: Vec<PathBuf>,
}

/// Finds a component that the manifest places at `place` below `root`.
///
/// A `target` in that path means Cargo's target folder: the one in `CARGO_TARGET_DIR` if it is set, because the build has just written
/// there, otherwise the one in the path, otherwise the one in Cargo's configuration.
pub fn find(root: &Path, place: &Path) -> Found {
    let variable = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"]
        .iter()
        .filter_map(std::env::var_os)
        .find(|value| !value.is_empty());
    find_with(root, place, variable.as_deref().map(Path::new), || {
        configured(root)
    })
}

fn find_with(
    root: &Path,
    place: &Path,
    variable: Option<&Path>,
    configured: impl FnOnce() -> Option<PathBuf>,
) -> Found {
    let written = root.join(place);
    let Some(rest) = within_target(place) else {
        return Found {
            path: written,
            others: Vec::new(),
        };
    };
    // The build command runs in the root, so that Cargo takes relative folders from there.
    let moved = variable.map(|folder| root.join(folder).join(&rest));
    if let Some(moved) = moved.clone().filter(|path| path.exists()) {
        return Found {
            path: moved,
            others: Vec::new(),
        };
    }
    if written.exists() {
        return Found {
            path: written,
            others: Vec::new(),
        };
    }
    let configured = configured().map(|folder| folder.join(&rest));
    if let Some(path) = configured.clone().filter(|path| path.exists()) {
        return Found {
            path,
            others: Vec::new(),
        };
    }
    let mut others: Vec<PathBuf> = moved.into_iter().chain(configured).collect();
    others.retain(|path| *path != written);
    others.dedup();
    Found {
        path: written,
        others,
    }
}

/// The part of a path after its first `target`.
fn within_target(place: &Path) -> Option<PathBuf> {
    let mut parts = place.components();
    parts.find(|part| *part == Part::Normal(TARGET.as_ref()))?;
    let rest = parts.as_path();
    (!rest.as_os_str().is_empty()).then(|| rest.to_owned())
}

/// The target folder of Cargo: `build.target-dir` of a configuration file, or that of a workspace above.
fn configured(root: &Path) -> Option<PathBuf> {
    if !root.join("Cargo.toml").is_file() {
        return None;
    }
    let output = Command::new("cargo")
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root)
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(metadata["target_directory"].as_str()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "../target/wasm32-wasip2/release/model.wasm";
    const REST: &str = "wasm32-wasip2/release/model.wasm";

    fn make(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    #[test]
    fn the_target_folder_is_the_one_that_cargo_was_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("project");
        std::fs::create_dir_all(&root).unwrap();
        let (elsewhere, told) = (folder.path().join("elsewhere"), folder.path().join("told"));
        let find = |variable: Option<&Path>| {
            find_with(&root, Path::new(PLACE), variable, || {
                Some(elsewhere.clone())
            })
        };
        let written = root.join(PLACE);
        assert_eq!(
            find(Some(&told)),
            Found {
                path: written.clone(),
                others: vec![told.join(REST), elsewhere.join(REST)],
            }
        );
        make(&elsewhere.join(REST));
        assert_eq!(find(None).path, elsewhere.join(REST));
        make(&written);
        assert_eq!(find(None).path, written);
        assert_eq!(find(Some(&told)).path, written);
        make(&told.join(REST));
        assert_eq!(find(Some(&told)).path, told.join(REST));
        // Relative to where the build runs.
        assert_eq!(
            find(Some(Path::new("../told"))).path,
            root.join("../told").join(REST)
        );
    }

    #[test]
    fn only_paths_through_a_target_folder_are_moved() {
        for place in ["model.wasm", "dist/model.wasm", "target", "mytarget/a.wasm"] {
            assert_eq!(within_target(Path::new(place)), None, "{place}");
            let found = find_with(
                Path::new("/nowhere"),
                Path::new(place),
                Some(Path::new("/t")),
                || panic!("cargo is not asked"),
            );
            assert_eq!(found.path, Path::new("/nowhere").join(place));
        }
    }
}
