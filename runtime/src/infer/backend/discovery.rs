//! Finds the library of ONNX Runtime: the newest version from the first source with a usable one.
//!
//! The sources, in this order: a setting, the variable `ORT_DYLIB_PATH`, the library installed for this node, the active Python
//! environment (`VIRTUAL_ENV`), the user's Python packages, `/usr/local`, `/usr`.

use std::path::{Path, PathBuf};

use semver::Version;

/// The oldest supported version: older ones open external data of models from bytes at any path.
pub(super) const OLDEST: Version = Version::new(1, 24, 0);

/// The error if it is missing, with the command that installs it where this node looks. Nodes look only at startup.
fn help(installed: Option<&Path>) -> String {
    // The folder of this library, in that of all backends, in that of the node.
    let data = installed
        .and_then(|folder| folder.parent()?.parent())
        .map_or_else(String::new, |data| format!(" --data '{}'", data.display()));
    format!(
        "not found: on the server's machine run `samovar backends install onnxruntime{data}`, or set ORT_DYLIB_PATH to \
         libonnxruntime.so; then start the server again"
    )
}

type Missing = (Option<PathBuf>, String);

/// Where to look for the library.
struct Sources<'a> {
    /// The setting of the node.
    setting: Option<&'a Path>,
    /// The variable `ORT_DYLIB_PATH`.
    variable: Option<PathBuf>,
    /// The folder of the library that was installed for this node.
    installed: Option<&'a Path>,
    /// Folders below which other programs install it.
    roots: Vec<PathBuf>,
}

/// Finds the library of ONNX Runtime.
///
/// # Errors
/// The configured path if there is no file, or how to install the library if none is found.
pub fn find_onnxruntime(
    setting: Option<&Path>,
    installed: Option<&Path>,
) -> Result<PathBuf, Missing> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    find(&Sources {
        setting,
        variable: folder("ORT_DYLIB_PATH"),
        installed,
        roots: roots(folder("VIRTUAL_ENV"), folder("HOME")),
    })
}

fn find(sources: &Sources<'_>) -> Result<PathBuf, Missing> {
    let named = sources.setting.or(sources.variable.as_deref());
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            let reason = format!("{} is not a file", path.display());
            Err((Some(path.to_owned()), reason))
        };
    }
    let installed = sources.installed.into_iter();
    let newest: Vec<PathBuf> = installed
        .map(|folder| vec![folder.to_owned()])
        .chain(sources.roots.iter().map(|root| folders(root)))
        .filter_map(|folders| newest(folders.iter().flat_map(|folder| libraries(folder))))
        .collect();
    first_usable(newest).ok_or_else(|| (None, help(sources.installed)))
}

/// The first that is not known to be too old. Otherwise the first, whose version then is the reason in the error.
fn first_usable(found: Vec<PathBuf>) -> Option<PathBuf> {
    let usable = found
        .iter()
        .position(|path| version(path).is_none_or(|version| version >= OLDEST));
    found.into_iter().nth(usable.unwrap_or(0))
}

/// The newest library of ONNX Runtime in a folder.
pub fn newest_library(folder: &Path) -> Option<PathBuf> {
    newest(libraries(folder))
}

/// The newest by version. Those of unknown version come last.
fn newest(libraries: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    libraries
        .into_iter()
        .max_by_key(|path| (version(path), path.clone()))
}

/// The version in a file name such as `libonnxruntime.so.1.32.0`, or in that of the target of a link.
pub(super) fn version(path: &Path) -> Option<Version> {
    let of_name = |path: &Path| {
        let (_, version) = file_name(path).split_once(".so.")?;
        let parts = version.split('.').count();
        // The name of a link may have only the major version.
        let full = format!("{version}{}", ".0".repeat(3usize.saturating_sub(parts)));
        (parts > 1).then(|| Version::parse(&full).ok()).flatten()
    };
    of_name(path).or_else(|| of_name(&path.canonicalize().ok()?))
}

/// Folders below which libraries and Python packages may be installed.
fn roots(environment: Option<PathBuf>, home: Option<PathBuf>) -> Vec<PathBuf> {
    let own = home.map(|home| home.join(".local"));
    let system = ["/usr/local".into(), "/usr".into()];
    environment.into_iter().chain(own).chain(system).collect()
}

/// Folders below a root that may contain the library.
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
    fn versions_are_compared_as_numbers() {
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
    fn a_link_has_the_version_of_its_target() {
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

    #[test]
    fn sources_are_tried_in_the_documented_order() {
        let place = tempfile::tempdir().unwrap();
        let folder = |name: &str| place.path().join(name);
        let library = |folder: PathBuf, version: &str| {
            let name = format!("libonnxruntime.so.{version}");
            put(&folder, &[&name]);
            folder.join(name)
        };
        // Later sources have newer libraries, to show that versions are not compared between sources.
        let setting = library(folder("setting"), "1.24.0");
        let variable = library(folder("variable"), "1.25.0");
        let installed = library(folder("installed"), "1.26.0");
        let in_environment = library(
            folder("venv/lib/python3.12/site-packages/onnxruntime/capi"),
            "1.27.0",
        );
        let of_user = library(
            folder("home/.local/lib/python3.12/site-packages/onnxruntime/capi"),
            "1.28.0",
        );
        let of_system = library(folder("usr/lib/x86_64-linux-gnu"), "1.29.0");
        let all = roots(Some(folder("venv")), Some(folder("home")));
        assert_eq!(
            all,
            [
                folder("venv"),
                folder("home/.local"),
                "/usr/local".into(),
                "/usr".into()
            ]
        );
        let installed_folder = folder("installed");
        let mut sources = Sources {
            setting: Some(&setting),
            variable: Some(variable.clone()),
            installed: Some(&installed_folder),
            // In place of those of the machine.
            roots: vec![folder("venv"), folder("home/.local"), folder("usr")],
        };
        assert_eq!(find(&sources), Ok(setting.clone()));
        sources.setting = None;
        assert_eq!(find(&sources), Ok(variable));
        sources.variable = None;
        assert_eq!(find(&sources), Ok(installed));
        sources.installed = None;
        assert_eq!(find(&sources), Ok(in_environment));
        sources.roots.remove(0);
        assert_eq!(find(&sources), Ok(of_user));
        sources.roots.remove(0);
        assert_eq!(find(&sources), Ok(of_system));
        sources.roots.clear();
        let (path, help) = find(&sources).unwrap_err();
        assert!(
            path.is_none() && help.contains("backends install"),
            "{help}"
        );
        // A configured library that is missing is not replaced by another one.
        let gone = folder("gone.so");
        sources.setting = Some(&gone);
        assert_eq!(find(&sources).unwrap_err().0, Some(gone.clone()));
    }
}
