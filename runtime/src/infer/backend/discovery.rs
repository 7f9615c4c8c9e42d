//! Finds ONNX Runtime's library: the first source that has a usable one, and there the newest version.
//!
//! The sources, in this order: a setting, the variable `ORT_DYLIB_PATH`, what was installed for this node, the Python
//! environment in use (`VIRTUAL_ENV`), the user's Python packages, `/usr/local`, `/usr`.

use std::path::{Path, PathBuf};

use semver::Version;

/// The oldest version that is used: older ones open external data of a model's bytes below any path.
pub(super) const OLDEST: Version = Version::new(1, 24, 0);

/// What helps when it is missing: the command that installs it where this node looks, as a node looks only at its start.
fn help(installed: Option<&Path>) -> String {
    let data = installed
        .and_then(Path::parent)
        .map_or_else(String::new, |data| format!(" --data '{}'", data.display()));
    format!(
        "not found: on the server's machine run `samovar backends install onnxruntime{data}`, or set ORT_DYLIB_PATH to \
         libonnxruntime.so; then start the server again"
    )
}

type Missing = (Option<PathBuf>, String);

/// The library's file.
///
/// # Errors
/// With the path that was asked for but is not there, or what to do when nothing is found.
pub fn onnxruntime(setting: Option<&Path>, installed: Option<&Path>) -> Result<PathBuf, Missing> {
    let named = setting
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from));
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path)
        } else {
            let reason = format!("{} is not a file", path.display());
            Err((Some(path), reason))
        };
    }
    let sources = installed.into_iter().map(|folder| vec![folder.to_owned()]);
    let newest: Vec<PathBuf> = sources
        .chain(roots().iter().map(|root| folders(root)))
        .filter_map(|folders| newest(folders.iter().flat_map(|folder| libraries(folder))))
        .collect();
    first_usable(newest).ok_or_else(|| (None, help(installed)))
}

/// The first that is not known to be too old; else the first, whose version is then the reason that is told.
fn first_usable(found: Vec<PathBuf>) -> Option<PathBuf> {
    let usable = found
        .iter()
        .position(|path| version(path).is_none_or(|version| version >= OLDEST));
    found.into_iter().nth(usable.unwrap_or(0))
}

/// The newest of ONNX Runtime's libraries in a folder.
pub fn newest_library(folder: &Path) -> Option<PathBuf> {
    newest(libraries(folder))
}

/// The newest by version; those that tell none come last.
fn newest(libraries: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    libraries
        .into_iter()
        .max_by_key(|path| (version(path), path.clone()))
}

/// `1.32.0` of `libonnxruntime.so.1.32.0`, or of what a link leads to.
pub(super) fn version(path: &Path) -> Option<Version> {
    let of_name = |path: &Path| {
        let (_, version) = file_name(path).split_once(".so.")?;
        let parts = version.split('.').count();
        // A link may name the major version alone.
        let full = format!("{version}{}", ".0".repeat(3usize.saturating_sub(parts)));
        (parts > 1).then(|| Version::parse(&full).ok()).flatten()
    };
    of_name(path).or_else(|| of_name(&path.canonicalize().ok()?))
}

/// Folders in which libraries and Python packages may be installed.
fn roots() -> Vec<PathBuf> {
    let environment = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));
    let system = ["/usr/local".into(), "/usr".into()];
    environment.into_iter().chain(home).chain(system).collect()
}

/// Folders of a root that may hold the library.
fn folders(root: &Path) -> Vec<PathBuf> {
    let lib = root.join("lib");
    let mut folders = Vec::new();
    for python in entries(&lib).filter(|path| file_name(path).starts_with("python3")) {
        for packages in ["site-packages", "dist-packages"] {
            folders.push(python.join(packages).join("onnxruntime/capi"));
        }
    }
    folders.push(lib.join("x86_64-linux-gnu"));
    folders.push(lib.join("aarch64-linux-gnu"));
    folders.push(lib);
    folders
}

fn libraries(folder: &Path) -> Vec<PathBuf> {
    entries(folder)
        .filter(|path| file_name(path).starts_with("libonnxruntime.so"))
        .collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, names: &[&str]) {
        std::fs::create_dir_all(folder).unwrap();
        for name in names {
            std::fs::write(folder.join(name), "").unwrap();
        }
    }

    #[test]
    fn the_newest_version_is_taken_as_numbers_compare() {
        let folder = tempfile::tempdir().unwrap();
        put(
            folder.path(),
            &[
                "libonnxruntime.so.1.9.0",
                "libonnxruntime.so.1.32.0",
                "libonnxruntime.so",
                "libonnxruntime.so.1",
                "libonnxruntime.so.1.32.0-rc.1",
            ],
        );
        let newest = newest_library(folder.path()).unwrap();
        assert_eq!(file_name(&newest), "libonnxruntime.so.1.32.0");
    }

    #[test]
    fn a_link_has_the_version_of_what_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), &["libonnxruntime.so.1.26.1"]);
        let link = folder.path().join("libonnxruntime.so");
        std::os::unix::fs::symlink("libonnxruntime.so.1.26.1", &link).unwrap();
        assert_eq!(version(&link), Some(Version::new(1, 26, 1)));
        assert_eq!(
            version(Path::new("/x/libonnxruntime.so.1.26")),
            Some(Version::new(1, 26, 0))
        );
        assert_eq!(version(Path::new("/x/libonnxruntime.so")), None);
    }

    #[test]
    fn an_earlier_source_wins_unless_it_is_too_old() {
        let path = |version: &str| PathBuf::from(format!("/x/libonnxruntime.so.{version}"));
        let first = |versions: &[&str]| first_usable(versions.iter().map(|v| path(v)).collect());
        assert_eq!(first(&["1.24.0", "1.32.0"]), Some(path("1.24.0")));
        assert_eq!(first(&["1.20.0", "1.32.0"]), Some(path("1.32.0")));
        assert_eq!(first(&["1.20.0", "1.19.0"]), Some(path("1.20.0")));
        assert_eq!(first(&[]), None);
    }
}
