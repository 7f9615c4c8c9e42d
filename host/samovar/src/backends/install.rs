//! `samovar backends install`: fetches ONNX Runtime's library with pip into the data folder.
//!
//! pip chooses the build that fits the machine, and is the usual way to get the library. Only the library of the package is kept, after
//! it was opened once to test it; a running node keeps its library until its next start.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use samovar_cli::output::{self, Format};
use samovar_cli::progress;
use samovar_runtime::backend::{BackendInfo, BackendOptions, Backends, newest_library};
use samovar_server::node::installed_backends;
use serde_json::json;
use tokio::process::Command;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Build to install
    package: Package,
    /// Version to install, such as 1.32.0 [default: the newest]
    #[arg(long, value_name = "V", value_parser = version)]
    version: Option<String>,
    /// Data folder of the server that will use it
    #[arg(long, default_value = "./samovar-data")]
    data: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Package {
    /// For CPUs
    Onnxruntime,
    /// For NVIDIA GPUs and CPUs; CUDA and cuDNN must already be installed
    OnnxruntimeGpu,
}

impl Package {
    fn name(self) -> &'static str {
        match self {
            Self::Onnxruntime => "onnxruntime",
            Self::OnnxruntimeGpu => "onnxruntime-gpu",
        }
    }
}

/// Checks a version, which becomes part of pip's command line.
fn version(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_');
    let starts = text.starts_with(|c: char| c.is_ascii_digit());
    if starts && text.len() <= 64 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("wanted a version such as 1.32.0".into())
    }
}

pub async fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let package = arguments.package.name();
    let backends = installed_backends(&arguments.data);
    std::fs::create_dir_all(&backends)
        .with_context(|| format!("cannot use the folder {}", backends.display()))?;
    let backends = backends.canonicalize()?;
    let fresh = tempfile::Builder::new()
        .prefix(".fetching-")
        .tempdir_in(&backends)
        .with_context(|| format!("cannot write in {}", backends.display()))?;
    let wanted = match &arguments.version {
        Some(version) => format!("{package}=={version}"),
        None => package.to_owned(),
    };
    progress::spin(
        "installing ONNX Runtime with pip",
        fetch(&wanted, fresh.path()),
    )
    .await?;
    let kept = fresh.path().join("kept");
    keep_libraries(&fresh.path().join("onnxruntime/capi"), &kept).with_context(|| {
        format!("the package {package} that pip downloaded contains no library for this machine")
    })?;
    let opened = {
        let kept = kept.clone();
        tokio::task::spawn_blocking(move || open(&kept)).await??
    };
    let place = backends.join("onnxruntime");
    replace(&place, &kept, &fresh.path().join("old"))
        .with_context(|| format!("cannot write {}", place.display()))?;
    let file = opened.path.as_deref().and_then(Path::file_name);
    let path = place.join(file.unwrap_or_default());
    let version = opened.version.unwrap_or_default();
    match format {
        Format::Json => output::document(&json!({
            "name": "onnxruntime", "package": package, "version": version, "path": path,
        })),
        Format::Text => output::line(&format!(
            "installed {package} {version}: {}\nA server with the data folder {} uses it from its next start on; then `samovar backends` lists it.",
            path.display(),
            arguments.data.display(),
        )),
    }
}

/// Unpacks a package into a folder with pip.
async fn fetch(wanted: &str, into: &Path) -> anyhow::Result<()> {
    let pip = python(&["-m", "pip", "--version"]).await?;
    ensure!(
        pip.status.success(),
        "python3 has no pip, which is needed to install the library: install pip with `python3 -m ensurepip` or your system's package python3-pip"
    );
    let into = into
        .to_str()
        .context("the data folder's path is not valid UTF-8")?;
    let output = python(&[
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--target",
        into,
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
        wanted,
    ])
    .await?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{}",
        failure(wanted, &String::from_utf8_lossy(&output.stderr))
    )
}

async fn python(arguments: &[&str]) -> anyhow::Result<Output> {
    Command::new("python3")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("python3 cannot be run, but its pip is needed to install the library: install Python 3, or download libonnxruntime.so yourself and start the server with `samovar serve --onnxruntime FILE`")
}

/// Explains a failure of pip.
fn failure(wanted: &str, stderr: &str) -> String {
    let unreachable = [
        "NewConnectionError",
        "NameResolutionError",
        "ConnectTimeout",
        "ProxyError",
        "SSLError",
    ];
    if unreachable.iter().any(|word| stderr.contains(word)) {
        return format!(
            "pip cannot reach its package index to download {wanted}: check the network and pip's settings for a proxy or another index (`python3 -m pip config list`)"
        );
    }
    let errors: Vec<&str> = stderr
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ERROR: "))
        .collect();
    let said = match errors.as_slice() {
        [] => stderr.trim().lines().last().unwrap_or("no output"),
        [only] => only,
        [.., last] => last,
    };
    let versions = errors.iter().find_map(|line| {
        let (_, rest) = line.split_once("from versions: ")?;
        let list = rest.trim_end_matches(')');
        (list != "none").then(|| format!("; available versions: {list}"))
    });
    format!(
        "pip could not install {wanted}: {said}{}",
        versions.unwrap_or_default()
    )
}

/// Moves the libraries and their licenses out of an unpacked package.
fn keep_libraries(capi: &Path, kept: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(kept)?;
    let mut found = false;
    for entry in std::fs::read_dir(capi).with_context(|| format!("no folder {}", capi.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("libonnxruntime") {
            found |= name.to_string_lossy().starts_with("libonnxruntime.");
            std::fs::rename(entry.path(), kept.join(name))?;
        }
    }
    ensure!(found, "the package contains no libonnxruntime");
    for notice in ["LICENSE", "ThirdPartyNotices.txt"] {
        // Not every build has them.
        let _ = std::fs::rename(capi.with_file_name(notice), kept.join(notice));
    }
    Ok(())
}

/// Opens the library, to check that it works on this machine and to read its version.
fn open(folder: &Path) -> anyhow::Result<BackendInfo> {
    let library = newest_library(folder).context("the package contains no library")?;
    let options = BackendOptions {
        onnxruntime: Some(library),
        ..BackendOptions::default()
    };
    let found = Backends::discover(options).info();
    let onnxruntime = found
        .into_iter()
        .find(|backend| backend.name == "onnxruntime")
        .context("no backend is named onnxruntime")?;
    if let Some(reason) = onnxruntime.reason {
        bail!("the library that pip downloaded does not work on this machine: {reason}");
    }
    Ok(onnxruntime)
}

/// Moves a folder to a place where an older one may be.
fn replace(place: &Path, new: &Path, old: &Path) -> std::io::Result<()> {
    if place.exists() {
        std::fs::rename(place, old)?;
    }
    std::fs::rename(new, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_words_become_ours() {
        let offline = "WARNING: Retrying: NewConnectionError('…')\nERROR: No matching distribution found for onnxruntime";
        assert!(failure("onnxruntime", offline).contains("cannot reach"));
        let missing = "ERROR: Could not find a version that satisfies the requirement onnxruntime==9 (from versions: 1.0, 1.1)\nERROR: No matching distribution found for onnxruntime==9";
        assert_eq!(
            failure("onnxruntime==9", missing),
            "pip could not install onnxruntime==9: No matching distribution found for onnxruntime==9; available versions: 1.0, 1.1"
        );
        assert_eq!(failure("x", ""), "pip could not install x: no output");
    }

    #[test]
    fn a_version_cannot_become_an_option() {
        assert!(version("1.32.0").is_ok() && version("1.20.0rc1").is_ok());
        for bad in ["", "--index-url=x", "1 2", "1;rm"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_library_takes_the_place_of_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let capi = at("onnxruntime/capi");
        std::fs::create_dir_all(&capi).unwrap();
        std::fs::write(capi.join("libonnxruntime_providers_shared.so"), "").unwrap();
        assert!(keep_libraries(&capi, &at("first")).is_err());
        std::fs::write(capi.join("libonnxruntime.so.1.32.0"), "").unwrap();
        std::fs::write(capi.join("other.py"), "").unwrap();
        keep_libraries(&capi, &at("kept")).unwrap();
        replace(&at("place"), &at("kept"), &at("old")).unwrap();
        assert!(at("place/libonnxruntime.so.1.32.0").exists() && !at("place/other.py").exists());
        std::fs::create_dir(at("newer")).unwrap();
        replace(&at("place"), &at("newer"), &at("old")).unwrap();
        assert!(at("place").exists() && !at("place/libonnxruntime.so.1.32.0").exists());
    }
}
