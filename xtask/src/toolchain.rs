//! The toolchain for guests: an installed target, one that rustup fetches, or the standard library built from source.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{forget, run, says_who_runs};

const TARGET: &str = "wasm32-wasip2";
/// Debian's packages of the third way.
const PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "lld-19", "wasi-libc"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_WASM_LD: &str = "/usr/lib/llvm-19/bin";
const DEBIAN_WASI_LIBC: &str = "/usr/lib/wasm32-wasi";

/// How guests are compiled on this machine.
pub enum Toolchain {
    /// The current toolchain has the target.
    Target,
    /// The standard library is compiled with the guests.
    Source {
        /// The linker that turns core modules into components.
        linker: PathBuf,
    },
}

/// Finds or installs a toolchain and says in one line which.
///
/// `SAMOVAR_GUEST_TOOLCHAIN` (`installed`, `rustup` or `source`) allows one way alone.
pub fn find() -> Result<Toolchain> {
    let only = std::env::var("SAMOVAR_GUEST_TOOLCHAIN").ok();
    let tries = |way: &str| only.as_deref().is_none_or(|only| only == way);
    if let Some(only) = &only {
        ensure!(
            ["installed", "rustup", "source"].contains(&only.as_str()),
            "SAMOVAR_GUEST_TOOLCHAIN: found {only:?}, wanted installed, rustup or source"
        );
    }
    if tries("installed") && has_target() {
        eprintln!("==> guest toolchain: the installed {TARGET} target");
        return Ok(Toolchain::Target);
    }
    if tries("rustup") && rustup_adds_target() {
        eprintln!("==> guest toolchain: {TARGET} by rustup");
        return Ok(Toolchain::Target);
    }
    if tries("source") {
        let linker = install_source()?;
        eprintln!("==> guest toolchain: the standard library from source, by Debian's rustc");
        return Ok(Toolchain::Source { linker });
    }
    bail!(
        "no guest toolchain by SAMOVAR_GUEST_TOOLCHAIN={}",
        only.unwrap_or_default()
    )
}

impl Toolchain {
    /// `cargo build` for guests, without what this cargo's own environment would put in its way.
    pub fn build(&self) -> Command {
        self.build_with(&self.folder(), Vec::new())
    }

    /// The same for a component that is kept: into a folder of its own, and without this machine's paths in it.
    pub fn build_to_keep(&self, folder: &Path) -> Result<Command> {
        let mut replaced = vec![
            (crate::repository().to_owned(), "samovar"),
            ("/usr/src".into(), "rust"),
            ("/usr/lib/rustlib".into(), "rust"),
        ];
        for entry in std::fs::read_dir(cargo_home()?.join("registry/src"))? {
            replaced.push((entry?.path(), "crates"));
        }
        let flags = replaced
            .iter()
            .map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
        Ok(self.build_with(folder, flags.collect()))
    }

    fn build_with(&self, folder: &Path, mut flags: Vec<String>) -> Command {
        let mut command = clean("cargo");
        command.args(["build", "--release", "--target", TARGET]);
        if let Self::Source { linker } = self {
            flags.push(format!("-Clinker={}", linker.display()));
            flags.push(format!("-L{DEBIAN_WASI_LIBC}"));
            command
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env("PATH", path_with(&[Path::new(DEBIAN_WASM_LD)]));
        }
        if !flags.is_empty() {
            // Paths may have spaces, at which the plain variable would be cut.
            command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        }
        command.env("CARGO_TARGET_DIR", folder);
        command
    }

    /// Where the components of a build into that folder lie.
    pub fn output_in(folder: &Path) -> PathBuf {
        folder.join(TARGET).join("release")
    }

    /// The variables with which a plain `cargo build --target wasm32-wasip2` works on this machine, as it does by itself where
    /// the target is installed.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let Self::Source { .. } = self else {
            return BTreeMap::new();
        };
        let build = self.build();
        let set = build.get_envs().filter_map(|(name, value)| {
            Some((name.to_str()?.to_owned(), value?.to_str()?.to_owned()))
        });
        let mut variables: BTreeMap<_, _> = set.collect();
        variables.remove("CARGO_TARGET_DIR");
        // An option of the command there.
        variables.insert("CARGO_UNSTABLE_BUILD_STD".into(), "std,panic_abort".into());
        variables
    }

    /// Where built components lie.
    pub fn output(&self) -> PathBuf {
        Self::output_in(&self.folder())
    }

    fn folder(&self) -> PathBuf {
        crate::repository().join(match self {
            Self::Target => "target/guests",
            Self::Source { .. } => "target/guests-source",
        })
    }
}

/// Where cargo keeps the sources of crates.
pub fn cargo_home() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CARGO_HOME") {
        return Ok(folder.into());
    }
    let home = std::env::home_dir().context("neither CARGO_HOME nor a home folder is known")?;
    Ok(home.join(".cargo"))
}

/// A command without the variables that would have guests built as this program was.
fn clean(program: &str) -> Command {
    const OURS: [&str; 8] = [
        "CARGO",
        "CARGO_TARGET_DIR",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTDOC",
    ];
    let mut command = Command::new(program);
    forget(&mut command, |name| {
        says_who_runs(name) || name == "LD_LIBRARY_PATH" || OURS.contains(&name)
    });
    command
}

fn has_target() -> bool {
    let output = clean("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("libstd-")
        })
}

fn rustup_adds_target() -> bool {
    eprintln!("==> rustup target add {TARGET}");
    let status = clean("rustup").args(["target", "add", TARGET]).status();
    status.is_ok_and(|status| status.success()) && has_target()
}

/// Installs Debian's packages and the component linker where they are missing.
fn install_source() -> Result<PathBuf> {
    if !packages_are_installed() {
        eprintln!("==> apt-get install {}", PACKAGES.join(" "));
        apt_get(&["update"])
            .and_then(|()| {
                let install = ["install", "--yes", "--no-install-recommends"];
                apt_get(&[&install[..], &PACKAGES].concat())
            })
            .context("guests need the wasm32-wasip2 target: `rustup target add wasm32-wasip2`, or Debian's packages and the right to install them")?;
    }
    let tools = crate::repository().join("target/tools");
    let linker = tools.join("bin/wasm-component-ld");
    if !linker.exists() {
        eprintln!("==> cargo install wasm-component-ld");
        run(clean("cargo")
            .args([
                "install",
                "--quiet",
                "--locked",
                "wasm-component-ld",
                "--root",
            ])
            .arg(&tools))?;
    }
    Ok(linker)
}

fn apt_get(args: &[&str]) -> Result<()> {
    run(Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

/// By the package database: `/usr/bin/rustc` may come from Debian's own older `rustc`, which builds no std for this target.
fn packages_are_installed() -> bool {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status}\n"])
        .args(PACKAGES)
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter(|line| *line == "installed").count() == PACKAGES.len()
    })
}

fn path_with(folders: &[&Path]) -> OsString {
    let before = std::env::var_os("PATH").unwrap_or_default();
    let all = folders
        .iter()
        .map(|folder| folder.to_path_buf())
        .chain(std::env::split_paths(&before));
    std::env::join_paths(all).unwrap_or(before)
}
