//! Finds ONNX Runtime's library where people have it: a setting, the environment, what was fetched for this node, Python
//! packages, the system.

use std::path::{Path, PathBuf};

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
    let latest = |folders: &[PathBuf]| {
        let libraries = folders.iter().flat_map(|folder| libraries(folder));
        libraries.max()
    };
    installed
        .and_then(|folder| latest(&[folder.to_owned()]))
        .or_else(|| latest(&folders()))
        .ok_or_else(|| (None, help(installed)))
}

/// Folders that may hold the library, those of Python's packages first.
fn folders() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));
    let environment = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let roots = environment
        .into_iter()
        .chain(home)
        .chain(["/usr/local".into(), "/usr".into()]);
    let mut folders = Vec::new();
    for root in roots {
        let lib = root.join("lib");
        for python in entries(&lib).filter(|path| file_name(path).starts_with("python3")) {
            for packages in ["site-packages", "dist-packages"] {
                folders.push(python.join(packages).join("onnxruntime/capi"));
            }
        }
        folders.push(lib.join("x86_64-linux-gnu"));
        folders.push(lib.join("aarch64-linux-gnu"));
        folders.push(lib);
    }
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
